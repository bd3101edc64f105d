"""How a test serves methods of its own behind a protection, without an engine."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from looping import loop_thread, run_in

from ffnsearch_service.door import Door
from ffnsearch_service.entrance import Entrance
from ffnsearch_service.operations.calls import CallWatch
from ffnsearch_service.operations.record import current_call
from ffnsearch_service.security.protection import Protection

SERVICE = "ffnsearch.v1.PredictionService"
ADMIN_SERVICE = "ffnsearch.v1.AdminService"


class Methods:
    """Methods on bytes, of all four kinds; a stream goes on until somebody stops it."""

    def __init__(self) -> None:
        self.running = 0
        self.begun = threading.Event()

    def handlers(self) -> dict[str, Any]:
        """By name."""
        return {
            "Echo": grpc.unary_unary_rpc_method_handler(self.echo),
            "Sum": grpc.stream_unary_rpc_method_handler(self.sum),
            "Names": grpc.unary_stream_rpc_method_handler(self.names),
            "Silent": grpc.unary_stream_rpc_method_handler(self.silent),
            "Flood": grpc.unary_stream_rpc_method_handler(self.flood),
            "Both": grpc.stream_stream_rpc_method_handler(self.both),
            "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "FailLate": grpc.unary_stream_rpc_method_handler(self.fail_late),
            "Typed": grpc.unary_unary_rpc_method_handler(self.echo, request_deserializer=self.read),
        }

    @staticmethod
    def read(request: bytes) -> bytes:
        if request != b"whole":
            raise ValueError(f"/srv/secret/{request!r}")
        return request

    async def echo(self, request: bytes, context: Any) -> bytes:
        await asyncio.sleep(0)
        return request + b" from " + caller()

    async def sum(self, requests: Any, context: Any) -> bytes:
        self.begun.set()
        return b"".join([request async for request in requests])

    async def names(self, request: bytes, context: Any) -> Any:
        """Write the caller's name every 10 ms."""
        async with self._counted():
            while True:
                await context.write(caller())
                await asyncio.sleep(0.01)

    async def flood(self, request: bytes, context: Any) -> Any:
        """Write more than a connection keeps for who does not read."""
        async with self._counted():
            while True:
                yield bytes(1 << 20)

    async def silent(self, request: bytes, context: Any) -> Any:
        async with self._counted():
            yield b"only"
            await asyncio.sleep(3600)

    async def both(self, requests: Any, context: Any) -> Any:
        async for request in requests:
            yield request

    async def fail(self, request: bytes, context: Any) -> bytes:
        raise OSError(f"cannot read /srv/secret/{request.decode()}")

    async def fail_late(self, request: bytes, context: Any) -> Any:
        yield b"one"
        raise OSError("cannot read /srv/secret/late")

    def _counted(self) -> Any:
        return _Counted(self)


def caller() -> bytes:
    """Name of the token of the call that is being answered, as the record of the call has it."""
    record = current_call.get()
    return (record.token_name or "").encode() if record else b""


class _Counted:
    def __init__(self, methods: Methods) -> None:
        self._methods = methods

    async def __aenter__(self) -> None:
        self._methods.running += 1

    async def __aexit__(self, *_: object) -> None:
        self._methods.running -= 1


@contextmanager
def protected(protection: Protection, methods: Methods | None = None) -> Iterator[str]:
    """Serve methods, health and reflection on a free loopback port, from a thread of its own; yields the address."""
    methods = methods or Methods()

    async def start() -> tuple[grpc.aio.Server, int]:
        watch = CallWatch(lambda: None, lambda record, is_unary: None)
        entrance = Entrance(Door(), watch, protection.guard)
        for service in (SERVICE, ADMIN_SERVICE):
            entrance.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods.handlers()),))
        health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), entrance)
        reflected = reflection.aio.ReflectionServicer((reflection.SERVICE_NAME,))
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflected, entrance)
        server = grpc.aio.server(options=protection.options)
        server.add_generic_rpc_handlers((entrance,))
        port = protection.add_port(server, "127.0.0.1:0")
        await server.start()
        return server, port

    with loop_thread() as loop:
        server, port = run_in(loop, start())
        try:
            yield f"127.0.0.1:{port}"
        finally:
            run_in(loop, server.stop(0))

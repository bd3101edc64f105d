"""The gRPC server: from the socket to the engine and back, with health, reflection and an orderly end.

The event loop only passes messages on. A call takes one of `calls_max` threads, which waits for the engine; a call
beyond those is refused at the door. When a client goes away or its deadline passes, the flag of its call is set and
the search stops at the next tile.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch.v1 import ffnsearch_pb2_grpc as pb_grpc
from ffnsearch_service.address import join, listening_address
from ffnsearch_service.call import Call
from ffnsearch_service.config import DEFAULT_ALIAS, ServerConfig
from ffnsearch_service.engine import Engine, software_version
from ffnsearch_service.errors import AddressError, OverloadedError
from ffnsearch_service.operations.ending import notify, until_signal
from ffnsearch_service.operations.health import Health
from ffnsearch_service.operations.logs import logging_to
from ffnsearch_service.operations.observer import SnapshotSeen
from ffnsearch_service.operations.watch import Operations
from ffnsearch_service.status import status_of

SERVICE = pb.DESCRIPTOR.services_by_name["PredictionService"].full_name

_log = logging.getLogger(__name__)


class Server:
    """Serves one engine on one address. Lives in one event loop; does not own the engine."""

    def __init__(self, engine: Engine, config: ServerConfig, operations: Operations) -> None:
        self._config = config
        self._operations = operations
        self._threads = ThreadPoolExecutor(engine.limits.calls_max, thread_name_prefix="ffnsearch-call")
        self._servicer = _Servicer(engine, self._threads)
        self._server = grpc.aio.server(
            interceptors=[operations.interceptor],
            options=[
                ("grpc.so_reuseport", 0),  # two servers on one port would share its calls, silently
                ("grpc.max_receive_message_length", engine.limits.request_bytes_max),
                ("grpc.max_send_message_length", engine.limits.response_bytes_max),
            ],
        )

    async def start(self) -> str:
        """Listen, and return the address `host:port`. Raises AddressError."""
        pb_grpc.add_PredictionServiceServicer_to_server(self._servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._operations.health, self._server)
        config = self._config
        if config.reflection:
            reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        address = listening_address(config.host, config.port, insecure_public=config.insecure_public)
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise AddressError(f"cannot listen on {address}: {error}", reason="ADDRESS_UNAVAILABLE") from None
        await self._server.start()
        self._operations.health.ready()
        return join(config.host, port)

    async def stop(self) -> None:
        """Say NOT_SERVING, refuse new calls, let the running ones finish for `grace_s`, then stop them."""
        await self._operations.health.drain()
        await self._server.stop(self._config.grace_s)
        await asyncio.to_thread(self._threads.shutdown)


class _Servicer(pb_grpc.PredictionServiceServicer):
    """The four calls; each runs its engine method on a thread."""

    def __init__(self, engine: Engine, threads: ThreadPoolExecutor) -> None:
        self._engine = engine
        self._threads = threads
        self._places = engine.limits.calls_max

    async def Predict(self, request: pb.PredictRequest, context: Any) -> Any:
        return await self._answer(self._engine.predict, request, context)

    async def ListNeighbors(self, request: pb.ListNeighborsRequest, context: Any) -> Any:
        return await self._answer(self._engine.list_neighbors, request, context)

    async def ListClasses(self, request: pb.ListClassesRequest, context: Any) -> Any:
        return await self._answer(self._engine.list_classes, request, context)

    async def GetInfo(self, request: pb.GetInfoRequest, context: Any) -> Any:
        return await self._answer(self._engine.get_info, request, context)

    async def _answer(self, method: Callable[[Any, Call], Any], request: Any, context: Any) -> Any:
        call = Call(context.time_remaining())
        try:
            return await self._run(method, request, call)
        except asyncio.CancelledError:
            call.cancel()
            raise
        except Exception as error:
            await context.abort_with_status(rpc_status.to_status(status_of(error)))

    async def _run(self, method: Callable[[Any, Call], Any], request: Any, call: Call) -> Any:
        if self._places == 0:
            raise OverloadedError(
                f"{self._engine.limits.calls_max} calls wait or run, the most that are taken: try again later",
                calls_max=self._engine.limits.calls_max,
            )
        self._places -= 1
        done = self._threads.submit(method, request, call)
        loop = asyncio.get_running_loop()
        done.add_done_callback(lambda _: loop.call_soon_threadsafe(self._free_place))
        return await asyncio.wrap_future(done)

    def _free_place(self) -> None:
        self._places += 1


async def serve(engine: Engine, config: ServerConfig, operations: Operations, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `on_ready` gets the address once calls are taken. Raises AddressError."""
    server = Server(engine, config, operations)
    ended = asyncio.ensure_future(until_signal())
    try:
        on_ready(await server.start())
        notify("READY=1")
        await ended
        _log.info("draining: nothing is healthy any more, no call is taken, those that run have %g s", config.grace_s)
        notify("STOPPING=1")
    finally:
        await server.stop()
    _log.info("drained: no call runs")


def run(config: ServerConfig, on_ready: Callable[[str, Engine], None]) -> None:
    """Open the snapshot, serve it until a signal, then close everything. Raises AddressError, SnapshotError."""
    listening_address(config.host, config.port, insecure_public=config.insecure_public)  # before minutes of reading
    with logging_to(config.logging):
        _run(config, on_ready)
        _log.info("closed: no snapshot is open any more")


def _run(config: ServerConfig, on_ready: Callable[[str, Engine], None]) -> None:
    name = config.aliases[DEFAULT_ALIAS]
    with (
        Operations(config, Health(SERVICE), software_version()) as operations,
        Engine.open(
            config.snapshots[name], backend=config.backend, check=config.verify, limits=config.limits
        ) as engine,
    ):
        found = engine.get_info()
        operations.catalog.opened(SnapshotSeen(name, found.snapshot.id, found.snapshot.substrings, found.backend))
        for alias, target in config.aliases.items():
            operations.catalog.pointed(alias, target)
        asyncio.run(serve(engine, config, operations, lambda address: on_ready(address, engine)))

"""The gRPC server: which services it has, where it listens, and how it ends.

The event loop passes messages on and does what is quick; see `servicer.py` and `engine.py`. When a client goes away
or its deadline passes, its call is over: what waits of it never runs, and what nobody waits for stops.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from ffnsearch_service.address import join, listening_address
from ffnsearch_service.admin.administration import Administration
from ffnsearch_service.admin.servicer import AdminServices
from ffnsearch_service.answering.engine import Engine
from ffnsearch_service.config import ServerConfig
from ffnsearch_service.door import Door
from ffnsearch_service.entrance import Entrance
from ffnsearch_service.errors import AddressError
from ffnsearch_service.names import PREDICTION_SERVICE
from ffnsearch_service.operations.ending import notify, until_signal
from ffnsearch_service.operations.operations import Operations
from ffnsearch_service.security.protection import Protection
from ffnsearch_service.servicer import PredictionServicer

_log = logging.getLogger(__name__)


class Server:
    """Serves one engine on one address. Lives in one event loop; owns nothing that it is made of.

    operations: what watches it. protection: tokens, TLS and the limits of connections. administration: what its admin
    calls do; None where it has none.
    """

    def __init__(
        self,
        engine: Engine,
        config: ServerConfig,
        operations: Operations,
        protection: Protection,
        administration: Administration | None = None,
    ) -> None:
        self._config = config
        self._operations = operations
        self._protection = protection
        self._engine = engine
        self._servicer = PredictionServicer(engine, operations.health.device_lost)
        operations.metrics.watch_unread(lambda: self._servicer.outgoing.unread_bytes)
        self._admin = AdminServices(administration, config.limits) if administration else None
        self._door = Door()
        self._entrance = Entrance(self._door, operations.calls, protection.guard)
        self._server = grpc.aio.server(options=protection.options)

    async def start(self) -> str:
        """Listen, and return the address `host:port`. Raises AddressError."""
        self._add_services()
        address = address_of(self._config, self._protection)
        try:
            port = self._protection.add_port(self._server, address)
        except RuntimeError as error:
            raise AddressError(f"cannot listen on {address}: {error}", reason="ADDRESS_UNAVAILABLE") from None
        await self._server.start()
        self._operations.health.ready()
        return join(self._config.host, port)

    async def stop(self) -> None:
        """Report NOT_SERVING, refuse new calls, let the running ones finish for `grace_s`, then stop them.

        Builds stop at the start, and callers that wait for one get an answer; loads have the same grace as calls.
        """
        await self._operations.health.drain()
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + self._config.grace_s
        closing = [self._door.close(self._runs, self._config.grace_s)]
        if self._admin:
            closing.append(self._admin.drain())
        await asyncio.gather(*closing)
        await self._server.stop(max(0.0, ends_s - loop.time()))
        if self._admin:
            await self._admin.close()

    def _runs(self) -> int:
        """How many calls run that the end waits for; a load also when its caller has gone."""
        return self._engine.batcher.calls + (self._admin.loads if self._admin else 0)

    def _add_services(self) -> None:
        names = [PREDICTION_SERVICE, health.SERVICE_NAME]
        entrance: Any = self._entrance  # which is the server, to generated code
        self._servicer.add_to(entrance)
        health_pb2_grpc.add_HealthServicer_to_server(self._operations.health, entrance)
        if self._admin:
            names += self._admin.add_to(entrance)
        if self._config.reflection:
            servicer = reflection.aio.ReflectionServicer((*names, reflection.SERVICE_NAME))
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, entrance)  # type: ignore[no-untyped-call]
        self._server.add_generic_rpc_handlers((entrance,))


def address_of(config: ServerConfig, protection: Protection) -> str:
    """The address on which a server is to listen. Raises AddressError where it may not or cannot."""
    return listening_address(
        config.host,
        config.port,
        insecure_public=config.insecure_public,
        encrypted=protection.tls is not None,
        authenticated=protection.guard is not None,
    )


async def serve(server: Server, config: ServerConfig, on_ready: Callable[[str], None]) -> None:
    """Serve until a signal to end; `on_ready` gets the address once calls are taken. Raises AddressError."""
    ended = asyncio.ensure_future(until_signal())
    try:
        on_ready(await server.start())
        notify("READY=1")
        await ended
        _log.info("draining: nothing is healthy any more, no call is taken, running calls have %g s", config.grace_s)
        notify("STOPPING=1")
    finally:
        await server.stop()
    _log.info("drained: no call runs")

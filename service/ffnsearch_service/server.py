"""The gRPC server: from the socket to the engine and back, with health, reflection and an orderly end.

The event loop passes messages on and does what is quick; see `servicer.py` and `engine.py`. When a client goes away
or its deadline passes, its call is over: what waits of it never runs, and what nobody waits for stops.
"""

import asyncio
import signal
import sys
from collections.abc import Callable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ffnsearch_service.address import join, listening_address
from ffnsearch_service.config import ServerConfig
from ffnsearch_service.engine import Engine
from ffnsearch_service.errors import AddressError
from ffnsearch_service.opened import OpenSnapshot
from ffnsearch_service.security.protection import Protection
from ffnsearch_service.servicer import SERVICE, PredictionServicer

SWITCH_INTERVAL_S = 0.0005
"""How long a thread may keep the interpreter from the event loop: Python's own 5 ms would be the wire's latency."""


class Server:
    """Serves one engine on one address. Lives in one event loop; does not own the engine.

    protection: tokens, TLS and the limits of connections; without it, whoever reaches the address may call.
    """

    def __init__(self, engine: Engine, config: ServerConfig, protection: Protection | None = None) -> None:
        self._config = config
        self._protection = protection or Protection.open(engine.limits)
        self._health = health.aio.HealthServicer()
        self._servicer = PredictionServicer(engine)
        self._server = grpc.aio.server(interceptors=self._protection.interceptors, options=self._protection.options)

    async def start(self) -> str:
        """Listen, and return the address `host:port`. Raises AddressError."""
        self._servicer.add_to(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        config = self._config
        address = listening_address(
            config.host,
            config.port,
            insecure_public=config.insecure_public,
            encrypted=self._protection.tls is not None,
            authenticated=self._protection.has_tokens,
        )
        try:
            port = self._protection.add_port(self._server, address)
        except RuntimeError as error:
            raise AddressError(f"cannot listen on {address}: {error}", reason="ADDRESS_UNAVAILABLE") from None
        await self._server.start()
        await self._health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        return join(config.host, port)

    async def stop(self) -> None:
        """Say NOT_SERVING, refuse new calls, let the running ones finish for `grace_s`, then stop them."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(self._config.grace_s)


async def serve(engine: Engine, config: ServerConfig, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `on_ready` gets the address once calls are taken. Raises AddressError."""
    server = Server(engine, config)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    try:
        on_ready(await server.start())
        await ended.wait()
    finally:
        await server.stop()


def run(config: ServerConfig, on_ready: Callable[[str, Engine], None]) -> None:
    """Open the snapshot, serve it until a signal, then close everything. Raises AddressError, SnapshotError."""
    listening_address(config.host, config.port, insecure_public=config.insecure_public)  # before minutes of reading
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    snapshot = OpenSnapshot.open(config.snapshot, backend=config.backend, check=config.check, limits=config.limits)
    with Engine.of(snapshot) as engine:
        snapshot.warm_up()
        asyncio.run(serve(engine, config, lambda address: on_ready(address, engine)))

"""The servers that `wire.py` loads, each in a process of its own: it prints its address, and ends with its stdin.

    python benchmarks/wire_servers.py echo|free|real --snapshot DIR

`echo`: asyncio gRPC that gives as many bytes as the request says. `free`: our server with an engine that costs
nothing, because it has one prompt's answer ready. `real`: our server.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from ffnsearch_service.answering.answers import Answers, Part, Times
from ffnsearch_service.answering.batcher import Batch
from ffnsearch_service.answering.engine import Engine
from ffnsearch_service.answering.opened import OpenSnapshot
from ffnsearch_service.config import ServerConfig
from ffnsearch_service.engine_watch import watch_engine
from ffnsearch_service.hosting import stay_quick
from ffnsearch_service.operations.health import Health
from ffnsearch_service.operations.logs import logging_to
from ffnsearch_service.operations.watch import Operations
from ffnsearch_service.security.protection import Protection
from ffnsearch_service.server import Server
from ffnsearch_service.servicer import SERVICE

ECHO_METHOD = "/echo.Echo/Echo"
SIZE_BYTES = 4
"""An echo's request begins with the size of its response: a little-endian number of so many bytes."""


class FreeSnapshot(OpenSnapshot):
    """Answers every prompt like the first one it was asked, at no cost. One profile, without exclusions."""

    _ready: Answers | None = None

    def _search(self, batch: Batch) -> list[Part]:
        if self._ready is None or len(self._ready.supports) < batch.prompts:
            parts = super()._search(batch)
            self._ready = _repeated(parts[0], self.limits.batch_prompts_max)
            return parts
        times = Times(0, 0, 0, batch.prompts)
        return [Part(self._ready, 0, piece.prompts, times) for piece in batch.pieces]


def main() -> None:
    """Serve until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("echo", "free", "real"))
    parser.add_argument("--snapshot", type=Path)
    options = parser.parse_args()
    if options.kind == "echo":
        asyncio.run(_serve_echo())
        return
    kind = FreeSnapshot if options.kind == "free" else OpenSnapshot
    snapshot = kind.open(options.snapshot, check="sizes")
    with Engine.of(snapshot) as engine:
        snapshot.warm_up()
        stay_quick()
        asyncio.run(_serve(engine))


async def _serve(engine: Engine) -> None:
    """Serve as `ffnsearch serve` does: measured, a line of the log for each call, errors kept from callers."""
    config = ServerConfig(port=0, grace_s=1)
    with logging_to(config.logging), Operations(config, Health(SERVICE), "benchmark") as operations:
        watch_engine(engine, operations.metrics)
        server = Server(engine, config, operations, Protection.open(config.limits))
        await _until_stdin_ends(await server.start(), server.stop)


async def _serve_echo() -> None:
    async def echo(request: bytes, context: Any) -> bytes:
        return bytes(int.from_bytes(request[:SIZE_BYTES], "little"))

    _, service, method = ECHO_METHOD.split("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(echo)}
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await _until_stdin_ends(f"127.0.0.1:{port}", lambda: server.stop(1))


async def _until_stdin_ends(address: str, stop: Callable[[], Awaitable[None]]) -> None:
    print(address, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await stop()


def _repeated(part: Part, prompts: int) -> Answers:
    """The answers to the first prompt of a part, as those to so many."""
    one = part.answers.rows(part.first, part.first + 1, with_freqs=True)
    fields = {name: value * prompts for name, value in vars(one).items() if isinstance(value, list)}
    fields |= {name: np.repeat(value, prompts, axis=0) for name, value in vars(one).items() if name not in fields}
    return Answers(**fields | {"freqs": [np.repeat(freq, prompts, axis=0) for freq in one.freqs]})


if __name__ == "__main__":
    main()

"""The servers that `wire.py` and `wire_ladder.py` load, each in a process of its own.

    python benchmarks/wire_servers.py KIND [--snapshot DIR]

It prints its address, and ends with its stdin. `echo`: asyncio gRPC that gives as many bytes as the request says.
`free`: our server with an engine that costs nothing, because it has one prompt's answer ready. `real`: our server.
The kinds between echo and free are the rungs of a ladder: each does more than the one before.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_service.answering.answers import Answers, Part, Times
from ffnsearch_service.answering.batcher import Batch, Work
from ffnsearch_service.answering.call import Call
from ffnsearch_service.answering.engine import Engine
from ffnsearch_service.answering.opened import OpenSnapshot
from ffnsearch_service.config import ServerConfig
from ffnsearch_service.door import Door
from ffnsearch_service.engine_watch import watch_engine
from ffnsearch_service.entrance import Entrance
from ffnsearch_service.names import PREDICTION_SERVICE
from ffnsearch_service.operations.calls import CallWatch
from ffnsearch_service.operations.health import Health
from ffnsearch_service.operations.logs import logging_to
from ffnsearch_service.operations.operations import Operations
from ffnsearch_service.security.protection import Protection
from ffnsearch_service.security.server_options import server_options
from ffnsearch_service.server import Server
from ffnsearch_service.servicer import PredictionServicer
from ffnsearch_service.tuning import stay_quick

ECHO_METHOD = "/echo.Echo/Echo"
SIZE_BYTES = 4
"""An echo's request begins with the size of its response: a little-endian number of so many bytes."""

RUNGS = {
    "echo": "a bare asyncio gRPC echo of the same sizes",
    "options": "our limits of connections",
    "read": "the request is parsed",
    "check": "and checked",
    "hand_over": "goes to the engine's thread and comes back; one reply is ready for all",
    "reply": "each reply is written",
    "entrance": "the door, a request id, errors kept from callers",
    "free": "metrics, and a line of the log: all of our server",
}
"""What each server does that the one before does not."""


class FreeSnapshot(OpenSnapshot):
    """Answers every prompt like the first one it was asked, at no cost. One profile, without exclusions."""

    _ready: Answers | None = None

    def _search(self, batch: Batch) -> list[Part]:
        if self._ready is None or len(self._ready.supports) < batch.prompts:
            parts = super()._search(batch)
            self._ready = _repeated(parts[0], self.limits.batch_prompts_max)
            return parts
        times = Times(0, 0, 0, batch.prompts)
        return [Part(self._ready, 0, piece.prompts, times, self.backend) for piece in batch.pieces]


class OneReply(FreeSnapshot):
    """Checks requests and hands them to the engine's thread; its reply to the first is the reply to all."""

    _reply: pb.PredictResponse | None = None

    def predict(self, request: pb.PredictRequest, call: Call) -> Generator[Work, Any, pb.PredictResponse]:
        """Answer as always, up to the reply."""
        steps = super().predict(request, call)
        parts = yield next(steps)
        if self._reply is None:
            try:
                steps.send(parts)
            except StopIteration as end:
                self._reply = end.value
        assert self._reply is not None
        return self._reply


def main() -> None:
    """Serve until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=(*RUNGS, "real"))
    parser.add_argument("--snapshot", type=Path)
    options = parser.parse_args()
    if options.kind == "echo":
        asyncio.run(_serve_method(ECHO_METHOD, _echo, [("grpc.so_reuseport", 0)]))
        return
    kind = {"real": OpenSnapshot, "hand_over": OneReply}.get(options.kind, FreeSnapshot)
    snapshot = kind.open(options.snapshot, check="sizes")
    with Engine.of(snapshot) as engine:
        snapshot.warm_up()
        stay_quick()
        whole = options.kind in ("free", "real")
        asyncio.run(_serve(engine) if whole else _serve_rung(options.kind, engine, snapshot))


async def _serve(engine: Engine) -> None:
    """Serve as `ffnsearch serve` does: measured, a line of the log for each call, errors kept from callers."""
    config = ServerConfig(port=0, grace_s=1)
    with logging_to(config.logging), Operations(config, Health(PREDICTION_SERVICE), "benchmark") as operations:
        watch_engine(engine, operations.metrics)
        server = Server(engine, config, operations, Protection.open(config.limits))
        await _until_stdin_ends(await server.start(), server.stop)


async def _serve_rung(rung: str, engine: Engine, snapshot: OpenSnapshot) -> None:
    """Serve predictions as far as a rung of the ladder goes."""
    options = server_options(snapshot.limits)
    if rung in ("options", "read", "check"):
        await _serve_method(f"/{PREDICTION_SERVICE}/Predict", _until(rung, engine, snapshot), options)
        return
    server = grpc.aio.server(options=options)
    entrance = Entrance(Door(), CallWatch(lambda: None, lambda record, is_unary: None))
    PredictionServicer(engine, lambda: None).add_to(entrance if rung == "entrance" else server)
    server.add_generic_rpc_handlers((entrance,))
    await _start(server)


def _until(rung: str, engine: Engine, snapshot: OpenSnapshot) -> Any:
    """A method that does with a request what a rung does, and replies with what is ready."""
    prompt = pb.Prompt(text=snapshot.datastore.tokenizer.decode(snapshot.datastore.substring(0)))
    ready = engine.predict(pb.PredictRequest(prompts=[prompt])).SerializeToString()

    async def answer(data: bytes, context: Any) -> bytes:
        if rung != "options":
            request = pb.PredictRequest.FromString(data)
            if rung == "check":
                snapshot.reader.predict_job(request)
        return ready

    return answer


async def _echo(request: bytes, context: Any) -> bytes:
    return bytes(int.from_bytes(request[:SIZE_BYTES], "little"))


async def _serve_method(method: str, answer: Any, options: list[tuple[str, int]]) -> None:
    _, service, name = method.split("/")
    handlers = {name: grpc.unary_unary_rpc_method_handler(answer)}
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    await _start(server)


async def _start(server: Any) -> None:
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

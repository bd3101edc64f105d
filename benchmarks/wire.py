"""What the wire costs: the service beside a bare asyncio gRPC echo of the same sizes, and beside its own engine.

    python benchmarks/wire.py --snapshot DIR --json FILE [--profile NAME] [--seconds 5] [--rounds 3]

Servers are processes of their own (`wire_servers.py`); this one makes the load (`wire_load.py`). Rounds alternate
between what is compared, and the median counts.
"""

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import query_kinds
import recording
import wire_load
import wire_servers

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_indexer.answer.predictor import Predictor
from ffnsearch_indexer.answer.profile import Profile
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_service.config import Limits

PREDICT = "/ffnsearch.v1.PredictionService/Predict"
CALLERS = 32
PROMPTS = 1024
"""Different prompts; callers go round."""

SIZES = (1, 16, 256)
"""Prompts in a call, to see what a process can carry."""

CALLS_MIN = 4
"""Calls that each caller of the real engine makes whatever they take."""

CALLS_PROMPTS = 2048
"""Prompts that all callers together wait for: fewer callers, where calls are large, than may wait."""

LARGE = (64, 256)
"""Prompts in a call, to compare with the bare engine."""


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--snapshot", required=True, type=Path)
    parser.add_argument("--json", required=True, type=Path, help="where to write the result")
    parser.add_argument("--profile", help="a profile of the snapshot", default="")
    parser.add_argument("--seconds", type=float, default=5, help="of each run")
    parser.add_argument("--rounds", type=int, default=3, help="of each comparison")
    options = parser.parse_args()
    with Datastore.open(options.snapshot, check="sizes") as datastore:
        name = options.profile or datastore.manifest.default_profile
        prompts = query_kinds.prompts(datastore, "unseen", PROMPTS)
        bench = Bench(options.snapshot, datastore, prompts, name, options.seconds, options.rounds)
        result = {
            "benchmark": "wire",
            "corpus": datastore.manifest.corpus_name,
            "substrings": datastore.manifest.substrings,
            "profile": name,
            "seconds_per_run": options.seconds,
            "free_engine": bench.free_engine(),
            "real_engine": bench.real_engine(),
        }
    recording.write(options.json, result)
    print(summary(result))


class Bench:
    """The measurements on one snapshot."""

    def __init__(
        self, path: Path, datastore: Datastore, prompts: Sequence[Any], profile: str, seconds: float, rounds: int
    ) -> None:
        self._path = path
        self._datastore = datastore
        self._prompts = prompts
        self._profile = profile
        self._seconds = seconds
        self._rounds = rounds

    def free_engine(self) -> dict[str, Any]:
        """Calls and prompts a second with an engine that costs nothing, beside an echo of the same sizes."""
        found = {}
        with served("echo") as (echo, _), served("free", self._path) as (free, _):
            for size in SIZES:
                requests = self._requests(size)
                echoes = echo_requests(free, requests[0])
                runs = [
                    (
                        self._closed(echo, wire_servers.ECHO_METHOD, echoes, size),
                        self._closed(free, PREDICT, requests, size),
                    )
                    for _ in range(self._rounds)
                ]
                shares = [ours.calls_per_second / theirs.calls_per_second for theirs, ours in runs]
                calls = median(ours.calls_per_second for _, ours in runs)
                found[str(size)] = {
                    "request_bytes": len(requests[0]),
                    "response_bytes": int.from_bytes(echoes[0][: wire_servers.SIZE_BYTES], "little"),
                    "callers": callers_of(size),
                    "calls_per_second": calls,
                    "prompts_per_second": calls * size,
                    "echo_calls_per_second": median(theirs.calls_per_second for theirs, _ in runs),
                    "share_of_echo": median(shares),
                    "shares": shares,
                    "latency_ms": wire_load.ms([ns for _, ours in runs for ns in ours.latencies_ns]),
                    "echo_latency_ms": wire_load.ms([ns for theirs, _ in runs for ns in theirs.latencies_ns]),
                }
                print(f"free engine, {size} prompts a call: {found[str(size)]}", flush=True)
        return found

    def real_engine(self) -> dict[str, Any]:
        """Latency at half load, throughput beside the bare engine's, and where the time goes."""
        with served("echo") as (echo, _), served("real", self._path) as (real, _):
            return {
                "half_load": self._half_load(echo, real),
                "throughput": {str(size): self._throughput(real, size) for size in LARGE},
                "where_time_goes": {str(size): self._where(real, size) for size in SIZES},
            }

    def _half_load(self, echo: str, real: str) -> dict[str, Any]:
        """Calls of one prompt at half the rate that one caller alone gets: the engine is busy half of the time."""
        requests = self._requests(1)
        alone = self._measured(real, requests, 1)
        rate = alone.calls_per_second / 2
        echoes = echo_requests(real, requests[0])
        seconds = self._seconds * self._rounds
        theirs = asyncio.run(wire_load.open_loop(echo, wire_servers.ECHO_METHOD, echoes, rate, seconds))
        ours = asyncio.run(wire_load.open_loop(real, PREDICT, requests, rate, seconds))
        beyond = wire_load.beyond_engine_ns(ours)
        found = {
            "one_caller": alone.to_json() | {"stages": wire_load.stages(alone)},
            "arrivals_per_second": rate,
            "latency_ms": wire_load.ms(ours.latencies_ns),
            "stages": wire_load.stages(ours),
            "beyond_engine_ms": wire_load.ms(beyond),
            "echo_latency_ms": wire_load.ms(theirs.latencies_ns),
        }
        found["beyond_engine_and_echo_ms"] = {
            name: round(value - found["echo_latency_ms"][name], 4) for name, value in found["beyond_engine_ms"].items()
        }
        print(f"half load: {found}", flush=True)
        return found

    def _throughput(self, real: str, size: int) -> dict[str, Any]:
        """Prompts a second through calls of one size, two batches' worth at a time, beside the engine's own."""
        batch = Limits().batch_prompts_max
        callers = 2 * batch // size
        requests = self._requests(size)
        runs = [
            (
                self._bare(batch),
                self._measured(real, requests, callers),
            )
            for _ in range(self._rounds)
        ]
        shares = [ours.calls_per_second * size / theirs for theirs, ours in runs]
        batches = [pb.PredictResponse.FromString(one).batch_prompts for _, ours in runs for one in ours.responses]
        found = {
            "callers": callers,
            "bare_batch": batch,
            "bare_prompts_per_second": median(theirs for theirs, _ in runs),
            "prompts_per_second": median(ours.calls_per_second * size for _, ours in runs),
            "mean_batch": sum(batches) / len(batches),
            "share_of_bare": median(shares),
            "shares": shares,
        }
        print(f"throughput, {size} prompts a call: {found}", flush=True)
        return found

    def _where(self, real: str, size: int) -> dict[str, Any]:
        """Rates with many callers, and the stages of their calls."""
        load = self._measured(real, self._requests(size), callers_of(size))
        found = load.to_json() | {
            "callers": callers_of(size),
            "prompts_per_second": load.calls_per_second * size,
            "stages": wire_load.stages(load),
        }
        print(f"{size} prompts a call: {found}", flush=True)
        return found

    def _bare(self, batch: int) -> float:
        """Prompts a second of the predictor, called in this process."""
        predictor = Predictor(self._datastore)
        profile = Profile.from_json(self._datastore.manifest.profiles[self._profile])
        predictor.predict(self._prompts[:batch], profile)
        started, answered = time.perf_counter(), 0
        while time.perf_counter() < started + self._seconds:
            first = answered % len(self._prompts)
            answered += len(predictor.predict(self._prompts[first : first + batch], profile).answers)
        return answered / (time.perf_counter() - started)

    def _measured(self, real: str, requests: Sequence[bytes], callers: int) -> wire_load.Load:
        """Load the real engine until several calls of each caller have been answered, and keep the answers."""
        loop = wire_load.closed_loop(
            real, PREDICT, requests, callers, self._seconds, calls_min=CALLS_MIN * callers, keep=True
        )
        return asyncio.run(loop)

    def _closed(self, address: str, method: str, requests: Sequence[bytes], size: int) -> wire_load.Load:
        return asyncio.run(wire_load.closed_loop(address, method, requests, callers_of(size), self._seconds))

    def _requests(self, size: int) -> list[bytes]:
        """Requests of so many prompts each, as text, that go through all prompts."""
        texts = [self._datastore.tokenizer.decode(prompt) for prompt in self._prompts]
        groups = [texts[first : first + size] for first in range(0, len(texts), size)]
        return [
            pb.PredictRequest(
                prompts=[pb.Prompt(text=text) for text in group], profile_name=self._profile
            ).SerializeToString()
            for group in groups
        ]


def callers_of(size: int) -> int:
    """Callers at once, of calls with so many prompts each: no call of theirs meets a full queue."""
    return min(CALLERS, CALLS_PROMPTS // size)


def echo_requests(address: str, request: bytes) -> list[bytes]:
    """A request to echo with the sizes of a call to one of our servers."""

    async def ask() -> Any:
        async with wire_load.channel(address) as opened:
            return await opened.unary_unary(PREDICT)(request)

    size = len(asyncio.run(ask()))
    head = size.to_bytes(wire_servers.SIZE_BYTES, "little")
    return [head + bytes(max(0, len(request) - len(head)))]


@contextmanager
def served(kind: str, snapshot: Path | None = None) -> Iterator[tuple[str, int]]:
    """Run a server in a process of its own; yields its address and process id."""
    command = [sys.executable, str(Path(wire_servers.__file__)), kind]
    command += ["--snapshot", str(snapshot)] if snapshot else []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        address = process.stdout.readline().strip()
        if not address:
            raise SystemExit(f"the {kind} server did not start")
        yield address, process.pid
        process.stdin.close()


def summary(result: dict[str, Any]) -> str:
    """What was asked of the wire, in four lines."""
    free, real = result["free_engine"]["1"], result["real_engine"]
    beyond = real["half_load"]["beyond_engine_and_echo_ms"]
    shares = ", ".join(f"{size}: {found['share_of_bare']:.0%}" for size, found in real["throughput"].items())
    return "\n".join(
        (
            f"free engine: {free['calls_per_second']:.0f} calls a second, {free['share_of_echo']:.0%} of the echo's",
            f"at half load beyond engine and echo: {beyond['p50']:.2f} ms at the median, {beyond['p99']:.2f} ms at p99",
            f"share of the bare engine's prompts a second, by prompts a call: {shares}",
        )
    )


if __name__ == "__main__":
    main()

"""What a server does with three times the load that it can carry: who is answered, who is refused, and what is left.

    python benchmarks/overload.py --snapshot DIR --json FILE [--profile NAME] [--prompts-per-call 16,1] [--seconds 60]

The server is a process of its own; this one makes the load and reads the server's memory. Before and after: calls by as
many callers as fill two batches, which is the capacity, and by one caller alone. Between: calls at `--times` that rate,
whatever comes back, each with a deadline; latency counts from when a call was due.
"""

import argparse
import asyncio
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import query_kinds
import recording

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch.v1 import ffnsearch_pb2_grpc as pb_grpc
from ffnsearch_service.client.channel import open_async_channel
from ffnsearch_service.client.failures import service_error
from ffnsearch_service.config import Limits
from ffnsearch_service.load.measuring import Ask, Load, Reply, Sample, at_rate, by_callers
from ffnsearch_service.load.summary import percentiles_ms

PROMPTS = 1024
"""Different prompts; calls go round."""

CALLERS_MAX = 384
"""Callers that never pause: fewer than the calls that the server takes, so that none of theirs is refused."""

PATIENT_S = 60.0
"""Deadline of the calls that measure what the server can do."""

COLD_S = 600.0
"""Deadline of the calls before those: the first ones wait for the disk, and a server that seems slow refuses others."""

MEMORY_PAUSE_S = 0.5
"""Between two looks at the server's memory."""

SETTLED = 0.25
"""Share of the load after which the server's memory is what it takes under load: buffers and queues have grown."""


@dataclass(frozen=True)
class Plan:
    """What is offered. seconds: of the load. idle_seconds: of each measurement before and after. deadline_s: of a call.

    times: the load, in capacities. batch_prompts_max: of the server.
    """

    prompts_per_call: int
    seconds: float = 60
    idle_seconds: float = 10
    deadline_s: float = 2
    times: float = 3
    batch_prompts_max: int = Limits().batch_prompts_max

    @property
    def callers(self) -> int:
        """Callers that keep the engine busy: while one batch runs, the next one waits."""
        return min(CALLERS_MAX, max(1, 2 * self.batch_prompts_max // self.prompts_per_call))


@dataclass
class Memory:
    """Memory of the server over time. anonymous: what it has asked for; resident: mapped files too, in MB."""

    seconds: list[float] = field(default_factory=list)
    anonymous_mb: list[float] = field(default_factory=list)
    resident_mb: list[float] = field(default_factory=list)

    def look(self, pid: int, second: float) -> None:
        """Add what the process takes now."""
        lines = (Path("/proc") / str(pid) / "status").read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) / 1e3 for line in lines if line.startswith(("VmRSS", "Rss"))}
        self.seconds.append(round(second, 1))
        self.anonymous_mb.append(round(sizes["RssAnon"], 1))
        self.resident_mb.append(round(sizes["VmRSS"], 1))

    def to_json(self) -> dict[str, Any]:
        """The samples, and how much more there was at the end than once the load had settled."""
        settled = int(SETTLED * len(self.seconds))
        growth_mb = self.anonymous_mb[-1] - self.anonymous_mb[settled]
        return {**vars(self), "settled_mb": self.anonymous_mb[settled], "growth_mb": round(growth_mb, 1)}


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--snapshot", required=True, type=Path)
    parser.add_argument("--json", required=True, type=Path, help="where to write the result")
    parser.add_argument("--profile", help="a profile of the snapshot", default="")
    parser.add_argument("--prompts-per-call", default="16,1")
    parser.add_argument("--seconds", type=float, default=Plan.seconds, help="of the load")
    parser.add_argument("--idle-seconds", type=float, default=Plan.idle_seconds, help="of what comes before and after")
    parser.add_argument("--deadline", type=float, default=Plan.deadline_s, help="of a call, in seconds")
    parser.add_argument("--times", type=float, default=Plan.times, help="the load, in capacities")
    options = parser.parse_args()
    prompts, described = read_prompts(options.snapshot)
    measured = {}
    load_before = os.getloadavg()
    with served(options.snapshot) as (address, pid):
        for size in map(int, options.prompts_per_call.split(",")):
            plan = Plan(size, options.seconds, options.idle_seconds, options.deadline, options.times)
            requests = requests_of(prompts, size, options.profile)
            measured[str(size)] = found = asyncio.run(measure(address, pid, requests, plan))
            print(summary(found), flush=True)
    result = {
        "benchmark": "overload",
        **described,
        "profile": options.profile,
        "deadline_s": options.deadline,
        "times_capacity": options.times,
        "load_average_before": [round(value, 2) for value in load_before],
        "measured": measured,
    }
    recording.write(options.json, result)


def read_prompts(snapshot: Path) -> tuple[list[str], dict[str, Any]]:
    """Prompts that the index lacks, as texts; and what the snapshot is."""
    from ffnsearch_indexer.store.datastore import Datastore

    with Datastore.open(snapshot, check="sizes") as datastore:
        prompts = query_kinds.prompts(datastore, "unseen", PROMPTS)
        manifest = datastore.manifest
        described = {"corpus": manifest.corpus_name, "substrings": manifest.substrings}
        return [datastore.tokenizer.decode(prompt) for prompt in prompts], described


def requests_of(prompts: Sequence[str], size: int, profile: str) -> list[pb.PredictRequest]:
    """Requests of so many prompts each, that go through all of them."""
    return [
        pb.PredictRequest(
            prompts=[pb.Prompt(text=text) for text in prompts[first : first + size]], profile_name=profile
        )
        for first in range(0, len(prompts) - size + 1, size)
    ]


@contextmanager
def served(snapshot: Path) -> Iterator[tuple[str, int]]:
    """Run a server in a process of its own; yields its address and process id. It must end by itself, with status 0."""
    command = [sys.executable, "-m", "ffnsearch_service.cli", "serve", str(snapshot), "--port", "0", "--skip-verify"]
    command += ["--set", "metrics.port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        announced = process.stdout.readline().split()
        if not announced:
            raise SystemExit(f"the server did not start: {' '.join(command)}")
        try:
            yield announced[1].rstrip(":"), process.pid
        finally:
            process.terminate()
    if process.returncode:
        raise SystemExit(f"the server ended with {process.returncode}")


async def measure(address: str, pid: int, requests: Sequence[pb.PredictRequest], plan: Plan) -> dict[str, Any]:
    """The capacity, what the server does under `times` that, and the capacity again. pid: of the server.

    All requests are made once before.
    """
    async with open_async_channel(address, {}, retries=False) as channel:
        predict = pb_grpc.PredictionServiceStub(channel).Predict
        for request in requests:
            await predict(request, timeout=COLD_S)
        before = await _able(predict, address, requests, plan)
        rate = plan.times * before["calls_per_second"]
        retries_s: list[float] = []
        with watching(pid) as memory:
            load = await at_rate(_asking(predict, address, requests, plan.deadline_s, retries_s), rate, plan.seconds)
        after = await _able(predict, address, requests, plan)
    return {
        "prompts_per_call": plan.prompts_per_call,
        "offered_calls_per_second": rate,
        "before": before,
        "under_load": _under_load(load, plan, retries_s),
        "memory": memory.to_json(),
        "after": after,
        "after_to_before": after["calls_per_second"] / before["calls_per_second"],
    }


async def _able(predict: Any, address: str, requests: Sequence[pb.PredictRequest], plan: Plan) -> dict[str, Any]:
    """What the server can do: calls a second with callers that never pause, and the latency of one caller alone."""
    ask = _asking(predict, address, requests, PATIENT_S, [])
    alone = await by_callers(ask, 1, plan.idle_seconds / 2)
    many = await by_callers(ask, plan.callers, plan.idle_seconds)
    failed = {sample.reply.code for load in (alone, many) for sample in load.samples} - {"OK"}
    if failed:
        raise SystemExit(f"without overload, no call may fail: {', '.join(sorted(failed))}")
    rate = len(many.samples) / many.wall_s
    return {
        "callers": plan.callers,
        "calls_per_second": rate,
        "prompts_per_second": rate * plan.prompts_per_call,
        "latency_ms": _latency_ms(many.samples),
        "alone_latency_ms": _latency_ms(alone.samples),
    }


def _asking(
    predict: Any, address: str, requests: Sequence[pb.PredictRequest], deadline_s: float, retries_s: list[float]
) -> Ask:
    """Makes the calls in turn. Adds to `retries_s` when refused callers are told to come back."""
    turn = itertools.cycle(requests)

    async def ask() -> Reply:
        try:
            await predict(next(turn), timeout=deadline_s)
        except grpc.RpcError as error:
            found = service_error(error, address)
            if found.retry_after_s is not None:
                retries_s.append(found.retry_after_s)
            return Reply(found.code)
        return Reply("OK")

    return ask


@contextmanager
def watching(pid: int) -> Iterator[Memory]:
    """Look at the memory of a process from a thread, for the length of a `with`."""
    memory, stopped, started_s = Memory(), threading.Event(), time.perf_counter()

    def watch() -> None:
        while True:
            memory.look(pid, time.perf_counter() - started_s)
            if stopped.wait(MEMORY_PAUSE_S):
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield memory
    finally:
        stopped.set()
        thread.join()


def _under_load(load: Load, plan: Plan, retries_s: Sequence[float]) -> dict[str, Any]:
    """Calls by how they ended. Taken in are those that were answered and those that ran into their deadline."""
    answered, late = _ended(load, "OK"), _ended(load, "DEADLINE_EXCEEDED")
    refused = _ended(load, "RESOURCE_EXHAUSTED")
    codes = {sample.reply.code for sample in load.samples}
    rate = len(answered) / load.wall_s
    return {
        "seconds": load.wall_s,
        "calls": len(load.samples),
        "unsent": load.unsent,
        "begun_late_ms": percentiles_ms(sample.begun_s - sample.due_s for sample in load.samples),
        "answered": {
            "calls": len(answered),
            "calls_per_second": rate,
            "prompts_per_second": rate * plan.prompts_per_call,
            "latency_ms": _latency_ms(answered),
        },
        "deadline_exceeded": {"calls": len(late), "latency_ms": _latency_ms(late)},
        "accepted_latency_ms": _latency_ms([*answered, *late]),
        "refused": {
            "calls": len(refused),
            "with_retry_info": len(retries_s),
            "retry_after_s": _spread(retries_s),
            "latency_ms": _latency_ms(refused),
        },
        "others": {
            code: len(_ended(load, code)) for code in sorted(codes - {"OK", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"})
        },
    }


def _ended(load: Load, code: str) -> list[Sample]:
    return [sample for sample in load.samples if sample.reply.code == code]


def _latency_ms(samples: Sequence[Sample]) -> dict[str, float]:
    return percentiles_ms(sample.done_s - sample.due_s for sample in samples)


def _spread(values: Sequence[float]) -> list[float]:
    """Least, median and most."""
    return [float(np.percentile(values, percent)) for percent in (0, 50, 100)] if values else []


def _at(latency: dict[str, float], name: str) -> str:
    return f"{latency[name]:.0f} ms" if latency else "none"


def summary(found: dict[str, Any]) -> str:
    """The figures of one size of calls, in some lines."""
    load, memory = found["under_load"], found["memory"]
    accepted, refused = load["accepted_latency_ms"], load["refused"]
    return "\n".join(
        (
            f"{found['prompts_per_call']} prompts a call: {found['before']['calls_per_second']:.1f} calls a second, "
            f"then {found['offered_calls_per_second']:.1f} offered for {load['seconds']:.0f} s",
            f"  answered {load['answered']['calls']:,} ({load['answered']['calls_per_second']:.1f} a second), "
            f"too late {load['deadline_exceeded']['calls']:,}: p50 {_at(accepted, 'p50')}, p99 {_at(accepted, 'p99')}",
            f"  refused {refused['calls']:,} ({refused['with_retry_info']:,} told when to come back): "
            f"p50 {_at(refused['latency_ms'], 'p50')}, p99 {_at(refused['latency_ms'], 'p99')}; "
            f"others {load['others']}",
            f"  memory {memory['settled_mb']:.0f} MB, {memory['growth_mb']:+.1f} MB; begun late "
            f"p99 {_at(load['begun_late_ms'], 'p99')}; "
            f"afterwards {found['after_to_before']:.0%} of the calls a second",
        )
    )


if __name__ == "__main__":
    main()

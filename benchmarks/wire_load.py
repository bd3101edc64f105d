"""How `wire.py` loads a server: callers in a closed loop, or arrivals at a stated rate; and what they measured."""

import asyncio
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from ffnsearch.v1 import ffnsearch_pb2 as pb

SEED = 1
WARM_UP_S = 0.5
"""Calls that begin earlier do not count."""

DEADLINE_S = 60.0


@dataclass
class Load:
    """What the calls of one run took. latencies: [M] ns. responses: as they came, where they were kept.

    answers: of all calls, those before and after it was counted too; of a closed loop.
    """

    calls: int = 0
    answers: int = 0
    seconds: float = 0.0
    latencies_ns: list[int] = field(default_factory=list)
    responses: list[bytes] = field(default_factory=list)

    @property
    def calls_per_second(self) -> float:
        """Calls that ended in a second."""
        return self.calls / self.seconds

    def to_json(self) -> dict[str, Any]:
        """The rate, and percentiles of the latency in milliseconds."""
        return {"calls": self.calls, "calls_per_second": self.calls_per_second, "latency_ms": ms(self.latencies_ns)}


def ms(nanoseconds: Sequence[float]) -> dict[str, float]:
    """Percentiles in milliseconds."""
    ordered = sorted(nanoseconds)
    return {f"p{p}": round(ordered[min(len(ordered) - 1, len(ordered) * p // 100)] / 1e6, 4) for p in (10, 50, 90, 99)}


async def closed_loop(
    address: str,
    method: str,
    requests: Sequence[bytes],
    callers: int,
    seconds: float,
    *,
    calls_min: int = 1,
    keep: bool = False,
) -> Load:
    """Let so many callers send one request after the other, each as soon as it has its answer.

    Counting begins with an answer, once each caller has had one, and ends with one, after so many seconds and calls:
    answers that come in batches do not blur the rate.
    """
    load = Load()
    warm = time.perf_counter() + WARM_UP_S
    begun = ended = 0.0

    async def caller(call: Any, number: int) -> None:
        nonlocal begun, ended
        while not ended:
            started = time.perf_counter()
            response = await call(requests[number % len(requests)], timeout=DEADLINE_S)
            now = time.perf_counter()
            number += callers
            load.answers += 1
            if ended:
                return
            if begun:
                load.calls += 1
                load.latencies_ns.append(int(1e9 * (now - started)))
                if keep:
                    load.responses.append(response)
                if now >= begun + seconds and load.calls >= calls_min:
                    ended = now
            elif load.answers >= callers and now >= warm:
                begun = now

    async with channel(address) as opened:
        call = opened.unary_unary(method)
        await asyncio.gather(*(caller(call, number) for number in range(callers)))
    load.seconds = ended - begun
    return load


async def open_loop(
    address: str, method: str, requests: Sequence[bytes], calls_per_second: float, seconds: float
) -> Load:
    """Send requests at random moments (a Poisson process) whatever comes back; a latency counts from that moment."""
    load = Load(seconds=seconds)
    rng = random.Random(SEED)
    async with channel(address) as opened:
        call = opened.unary_unary(method)
        start = time.perf_counter()
        moment, tasks = start, []

        async def one(request: bytes, moment: float) -> None:
            response = await call(request, timeout=DEADLINE_S)
            if moment >= start + WARM_UP_S:
                load.calls += 1
                load.latencies_ns.append(int(1e9 * (time.perf_counter() - moment)))
                load.responses.append(response)

        while moment < start + WARM_UP_S + seconds:
            await asyncio.sleep(moment - time.perf_counter())
            tasks.append(asyncio.create_task(one(requests[len(tasks) % len(requests)], moment)))
            moment += -math.log(1 - rng.random()) / calls_per_second
        await asyncio.gather(*tasks)
    return load


def stages(load: Load) -> dict[str, Any]:
    """Where the time of the calls went, in milliseconds: means of what the replies tell, and what they cannot know."""
    timings = [pb.PredictResponse.FromString(response).timings for response in load.responses]

    def mean(of: Callable[[Any], int]) -> float:
        return round(sum(map(of, timings)) / len(timings) / 1e6, 4)

    names = ("tokenize_ns", "queue_ns", "model_ns", "search_ns", "combine_ns")
    told = {name.replace("_ns", "_ms"): mean(lambda found, name=name: getattr(found, name)) for name in names}
    total = mean(lambda found: found.total_ns)
    latency = sum(load.latencies_ns) / len(load.latencies_ns) / 1e6
    return told | {"hops_and_writing_ms": round(total - sum(told.values()), 4), "wire_ms": round(latency - total, 4)}


def beyond_engine_ns(load: Load) -> list[int]:
    """What each call took beyond waiting for the engine and being answered by it."""
    own = []
    for response, latency in zip(load.responses, load.latencies_ns, strict=True):
        found = pb.PredictResponse.FromString(response).timings
        own.append(latency - found.queue_ns - found.model_ns - found.search_ns - found.combine_ns)
    return own


def channel(address: str) -> Any:
    """A channel that takes answers of any size."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]
    return grpc.aio.insecure_channel(address, options=options)

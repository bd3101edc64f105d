"""How fast is a running service? Calls at a stated rate, or by callers that never pause; every one is accounted for.

At a rate, calls begin when they are due, whether earlier ones have been answered or not, and their latency counts from
that moment: a service that stalls is charged with all the calls that came meanwhile (no coordinated omission). Nothing
is retried.
"""

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

Arrivals = Literal["poisson", "constant"]

OUTSTANDING_MAX = 20_000
"""Calls that may be unanswered at a time: those due beyond that are not sent, and counted as such."""

STAGES = ("tokenize", "queue", "model", "search", "combine", "total")
"""The stages whose times a reply has."""


class Reply(NamedTuple):
    """How a call ended. code: name of the gRPC status code. stages_ns: of an answer, the time of each of STAGES."""

    code: str
    stages_ns: tuple[int, ...] = ()


Ask = Callable[[], Awaitable[Reply]]
"""Makes one call; does not raise."""


class Sample(NamedTuple):
    """One call. All times in seconds since the load began: when it was due, when it began, when it ended."""

    due_s: float
    begun_s: float
    done_s: float
    reply: Reply


@dataclass(frozen=True)
class Load:
    """What was measured at one rate, or with one number of callers; the other is None.

    wall_s: until the last call ended. unsent: calls that were due while OUTSTANDING_MAX others were unanswered.
    """

    rate: float | None
    callers: int | None
    wall_s: float
    unsent: int
    samples: tuple[Sample, ...]


async def at_rate(ask: Ask, rate: float, seconds: float, *, arrivals: Arrivals = "poisson", seed: int = 0) -> Load:
    """Begin `rate` calls a second for `seconds`, then wait for the last. seed: of the Poisson arrivals.

    A thread that sleeps until a call is due wakes the event loop: the loop's own clock is a millisecond coarse.
    """
    loop, stopped = asyncio.get_running_loop(), threading.Event()
    started_s = time.perf_counter()
    samples, tasks, unsent = list[Sample](), set[asyncio.Task[None]](), 0

    async def call(due_s: float) -> None:
        begun_s = time.perf_counter() - started_s
        reply = await ask()
        samples.append(Sample(due_s, begun_s, time.perf_counter() - started_s, reply))

    def begin(due: list[float]) -> None:
        nonlocal unsent
        for due_s in due:
            if len(tasks) >= OUTSTANDING_MAX:
                unsent += 1
                continue
            task = loop.create_task(call(due_s))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    def pace() -> None:
        due: list[float] = []  # more than one where the event loop keeps this thread from running
        for due_s in due_times(rate, seconds, arrivals, seed):
            pause_s = started_s + due_s - time.perf_counter()
            if pause_s > 0:
                loop.call_soon_threadsafe(begin, due)
                due = []
                if stopped.wait(pause_s):
                    return
            due.append(due_s)
        loop.call_soon_threadsafe(begin, due)

    try:
        await asyncio.to_thread(pace)
        while tasks:
            await asyncio.wait(tasks)
    finally:
        stopped.set()
    return Load(rate, None, time.perf_counter() - started_s, unsent, tuple(samples))


async def by_callers(ask: Ask, callers: int, seconds: float) -> Load:
    """Let `callers` each make one call after the other for `seconds`, then wait for the last."""
    started_s, samples = time.perf_counter(), list[Sample]()

    async def caller() -> None:
        while (begun_s := time.perf_counter() - started_s) < seconds:
            reply = await ask()
            samples.append(Sample(begun_s, begun_s, time.perf_counter() - started_s, reply))

    await asyncio.gather(*(caller() for _ in range(callers)))
    return Load(None, callers, time.perf_counter() - started_s, 0, tuple(samples))


def due_times(rate: float, seconds: float, arrivals: Arrivals, seed: int) -> Iterator[float]:
    """When calls are due, in seconds from now: evenly, or as independent callers would have it (Poisson)."""
    if arrivals == "constant":
        yield from itertools.takewhile(lambda due_s: due_s < seconds, (call / rate for call in itertools.count()))
        return
    chance, due_s = random.Random(seed), 0.0
    while (due_s := due_s + chance.expovariate(rate)) < seconds:
        yield due_s

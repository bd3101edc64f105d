"""How a running service is loaded: with which prompts, over which connections, one level after the other."""

import asyncio
import itertools
import math
import os
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch.v1 import ffnsearch_pb2_grpc as pb_grpc
from ffnsearch_indexer.progress import Progress, silent
from ffnsearch_service.client import AsyncClient
from ffnsearch_service.client.asking import PredictOptions, PromptLike, predict_request
from ffnsearch_service.client.channel import AccessOptions, Bearer, open_async_channel
from ffnsearch_service.client.failures import service_error
from ffnsearch_service.client.prompt_files import read_prompts
from ffnsearch_service.client.queries import Queries
from ffnsearch_service.client.results import Info
from ffnsearch_service.config import CALL_TIMEOUT_S
from ffnsearch_service.errors import RequestError
from ffnsearch_service.load.measuring import STAGES, Arrivals, Ask, Load, Reply, at_rate, by_callers
from ffnsearch_service.load.summary import Document, summary

REQUESTS_MAX = 256
"""Most different requests: written before the load begins, then sent over and over."""

PROMPTS_MAX = 65_536
"""Most different prompts, of a file too."""

TEXT = """Shall I compare thee to a summer's day?
Thou art more lovely and more temperate:
Rough winds do shake the darling buds of May,
And summer's lease hath all too short a date;
Sometime too hot the eye of heaven shines,
And often is his gold complexion dimm'd;
And every fair from fair sometime declines,
By chance or nature's changing course untrimm'd;
But thy eternal summer shall not fade,
Nor lose possession of that fair thou ow'st;
Nor shall death brag thou wander'st in his shade,
When in eternal lines to time thou grow'st:
So long as men can breathe or eyes can see,
So long lives this, and this gives life to thee.
"""
"""Its windows are the prompts where none are given."""


@dataclass(frozen=True)
class LoadPlan:
    """What to load a service with: one level after the other, either rates (calls a second) or numbers of callers.

    seconds: how long calls are begun at each level. connections: over which the calls go in turn. timeout_s: of a call.
    """

    rates: Sequence[float]
    callers: Sequence[int]
    seconds: float
    prompts_per_call: int
    connections: int = 1
    arrivals: Arrivals = "poisson"
    timeout_s: float = CALL_TIMEOUT_S
    options: PredictOptions = field(default_factory=PredictOptions)


def builtin_prompts(info: Info) -> list[PromptLike]:
    """Windows of TEXT, or where the model does not know its characters, as many of random tokens; always the same."""
    window, vocabulary = info.snapshot["window_tokens"], info.vocabulary
    if set(TEXT) <= set(vocabulary):
        return [TEXT[first : first + window] for first in range(len(TEXT) - window + 1)]
    chance = random.Random(0)
    return [[chance.randrange(len(vocabulary)) for _ in range(window)] for _ in TEXT]


async def measure_service(
    address: str,
    plan: LoadPlan,
    access: AccessOptions,
    *,
    prompts_file: Path | None = None,
    progress: Progress = silent,
) -> Document:
    """What `load_service` finds, in short, with what was loaded and how; prompts from a file, or those built in.

    Raises ServiceError, RequestError, CredentialsError.
    """
    async with AsyncClient(address, timeout_s=plan.timeout_s, **access) as client:
        info = await client.info(snapshot=plan.options.get("snapshot", ""))
    prompts = builtin_prompts(info) if prompts_file is None else read_prompts(prompts_file)
    levels = load_service(address, prompts, plan, access, progress=progress)
    return {
        "address": address,
        "snapshot_id": info.snapshot["id"],
        "backend": info.backend,
        "server_version": info.server_version,
        "profile": plan.options.get("profile") or info.default_profile_name,
        "prompts_per_call": plan.prompts_per_call,
        "connections": plan.connections,
        "arrivals": plan.arrivals if plan.rates else None,
        "seconds": plan.seconds,
        "cores": len(os.sched_getaffinity(0)),
        "levels": [summary(level, plan.prompts_per_call) async for level in levels],
    }


async def load_service(
    address: str,
    prompts: Iterable[PromptLike],
    plan: LoadPlan,
    access: AccessOptions,
    *,
    progress: Progress = silent,
) -> AsyncIterator[Load]:
    """Load the service at `address`; gives what each level measured, once it is over.

    One call is made before, which must succeed whole. Raises ServiceError where it does not, RequestError for prompts
    that cannot be run, or none, or fewer different ones than a call has: a server runs its model once for equal ones.
    """
    requests, bearer = _requests(prompts, plan), Bearer(address, access)
    async with AsyncExitStack() as opened:
        methods = []
        for _ in range(plan.connections):
            channel = await opened.enter_async_context(open_async_channel(address, access, retries=False))
            methods.append(pb_grpc.PredictionServiceStub(channel).Predict)
            await _try_out(methods[-1], requests[0], bearer, plan.timeout_s, address)
        ask = _asking(methods, requests, bearer, plan.timeout_s)
        levels: list[float] = [*plan.rates, *plan.callers]
        level_s = math.ceil(plan.seconds)
        for place, level in enumerate(levels):
            ticking = asyncio.create_task(_tick(progress, place, len(levels), level_s))
            try:
                if plan.rates:
                    found = await at_rate(ask, level, plan.seconds, arrivals=plan.arrivals)
                else:
                    found = await by_callers(ask, int(level), plan.seconds)
            finally:
                ticking.cancel()
            yield found
        progress("load", len(levels) * level_s, len(levels) * level_s)


def _requests(prompts: Iterable[PromptLike], plan: LoadPlan) -> list[pb.PredictRequest]:
    """The requests that are sent over and over, none with a prompt twice; the last takes some from the beginning."""
    read = itertools.islice(prompts, PROMPTS_MAX)
    known = list({prompt if isinstance(prompt, (str, Queries)) else tuple(prompt): prompt for prompt in read}.values())
    if not known:
        raise RequestError("there are no prompts: give at least one", reason="NO_PROMPTS")
    if len(known) < plan.prompts_per_call:
        raise RequestError(
            f"{len(known):,} different prompts do not fill a call of {plan.prompts_per_call:,}, and equal ones cost a "
            "server next to nothing: take --prompts-per-call down, or give more with --prompts-file",
            reason="TOO_FEW_PROMPTS",
        )
    count = min(REQUESTS_MAX, -(-len(known) // plan.prompts_per_call))
    endless = itertools.cycle(known)
    return [predict_request(list(itertools.islice(endless, plan.prompts_per_call)), plan.options) for _ in range(count)]


async def _try_out(method: Any, request: pb.PredictRequest, bearer: Bearer, timeout_s: float, address: str) -> None:
    try:
        response = await method(request, timeout=timeout_s, metadata=bearer.metadata())
    except grpc.RpcError as error:
        raise service_error(error, address) from None
    for result in response.results:
        if result.status == pb.PROMPT_STATUS_INVALID:
            raise RequestError(result.error.message, reason=result.error.reason)


def _asking(methods: Sequence[Any], requests: Sequence[pb.PredictRequest], bearer: Bearer, timeout_s: float) -> Ask:
    """Calls in turn over the connections and the requests."""
    next_method, next_request = itertools.cycle(methods), itertools.cycle(requests)
    metadata, fields = bearer.metadata(), [f"{stage}_ns" for stage in STAGES]

    async def ask() -> Reply:
        try:
            response = await next(next_method)(next(next_request), timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            return Reply(error.code().name)
        return Reply("OK", tuple(getattr(response.timings, name) for name in fields))

    return ask


async def _tick(progress: Progress, level: int, levels: int, level_s: int) -> None:
    """Report every second how far the load is."""
    for passed_s in range(level_s):
        progress("load", level * level_s + passed_s, levels * level_s, f"s, level {level + 1} of {levels}")
        await asyncio.sleep(1)

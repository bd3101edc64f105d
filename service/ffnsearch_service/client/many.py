"""How any number of prompts are answered: by calls of a few prompts, several at a time, with the results in order.

Prompts are read as they are needed and results given as they come, so neither has to fit into memory. A call that is
refused for its prompts is halved until the bad ones stand alone; what fails for another reason ends everything.
"""

import asyncio
import itertools
import operator
import re
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from ffnsearch_indexer.errors import FfnSearchError
from ffnsearch_indexer.progress import Progress, silent
from ffnsearch_service.client.asking import BYTES, PromptLike
from ffnsearch_service.client.failures import is_too_large
from ffnsearch_service.client.queries import Queries
from ffnsearch_service.client.reading import failure
from ffnsearch_service.client.results import Failure, PredictResult, PromptResult
from ffnsearch_service.errors import RequestError, ResourceExhaustedError, ServiceError
from ffnsearch_service.status import error_message

PROMPTS_PER_CALL = 64
"""Prompts of a call where the caller does not say: the search costs a prompt little more with 512 of them."""

CONCURRENCY = 4
"""Calls at a time where the caller does not say: one is answered while others are on their way."""

CONCURRENCY_MAX = 256
"""Most calls at a time: a thread each."""

AHEAD = 2
"""Calls begun or waiting for an earlier one's results, as a multiple of those at a time."""

_PLACE = re.compile(r"^prompts\[(\d+)\]")

Batch = Sequence[PromptLike]
Ask = Callable[[Batch], PredictResult]
AskAsync = Callable[[Batch], Awaitable[PredictResult]]


def predict_many(
    ask: Ask, prompts: Iterable[PromptLike], *, prompts_per_call: int, concurrency: int, progress: Progress = silent
) -> Iterator[PromptResult]:
    """One result for each prompt, in their order; `ask` is called from `concurrency` threads.

    A result is given once the prompts of the next call have been read: a source of prompts that waits for results needs
    `predict_many_async`. Raises RequestError for numbers out of range; while iterating, whatever a call fails with that
    is not the fault of its prompts, after the results before it. Calls that are under way when the caller stops reading
    end unread.
    """
    _check(prompts, prompts_per_call, concurrency)
    return _stream(ask, prompts, prompts_per_call, concurrency, _Count(prompts, progress))


def predict_many_async(
    ask: AskAsync,
    prompts: Iterable[PromptLike] | AsyncIterable[PromptLike],
    *,
    prompts_per_call: int,
    concurrency: int,
    progress: Progress = silent,
) -> AsyncIterator[PromptResult]:
    """`predict_many` for asyncio: tasks take the place of threads, and calls under way are cancelled at the end.

    A result is given as soon as it is there, whether or not another prompt has come.
    """
    _check(prompts, prompts_per_call, concurrency)
    return _stream_async(ask, prompts, prompts_per_call, concurrency, _Count(prompts, progress))


class _Count:
    """Counts results and reports them to `progress`; an unknown total is reported as 0."""

    def __init__(self, prompts: Any, progress: Progress) -> None:
        self._total = operator.length_hint(prompts)
        self._done, self._refused = 0, 0
        self._progress = progress
        progress("predict", 0, self._total)

    def add(self, results: Sequence[PromptResult]) -> Sequence[PromptResult]:
        self._done += len(results)
        self._refused += sum(result.status == "INVALID" for result in results)
        self._progress("predict", self._done, self._total, f"{self._refused:,} refused" if self._refused else "")
        return results


def _stream(
    ask: Ask, prompts: Iterable[PromptLike], prompts_per_call: int, concurrency: int, count: _Count
) -> Iterator[PromptResult]:
    pending: deque[Future[list[PromptResult]]] = deque()
    failures: list[Exception] = []
    threads = ThreadPoolExecutor(concurrency, thread_name_prefix="ffnsearch-many")
    try:
        for first, batch in _batches(_until_failure(prompts, failures), prompts_per_call):
            pending.append(threads.submit(_answer, ask, batch, first))
            while pending and (len(pending) >= AHEAD * concurrency or pending[0].done()):
                yield from count.add(pending.popleft().result())
        while pending:
            yield from count.add(pending.popleft().result())
        for failure in failures:
            raise failure
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


async def _stream_async(
    ask: AskAsync,
    prompts: Iterable[PromptLike] | AsyncIterable[PromptLike],
    prompts_per_call: int,
    concurrency: int,
    count: _Count,
) -> AsyncIterator[PromptResult]:
    pending: deque[asyncio.Task[list[PromptResult]]] = deque()
    places = asyncio.Semaphore(concurrency)
    failures: list[Exception] = []
    batches = _batches_async(prompts, prompts_per_call, failures)
    reading: asyncio.Task[tuple[int, Batch] | None] | None = None
    is_read = False

    async def answer(first: int, batch: Batch) -> list[PromptResult]:
        async with places:
            return await _answer_async(ask, batch, first)

    async def next_batch() -> tuple[int, Batch] | None:
        return await anext(batches, None)

    try:
        while pending or not is_read:
            if not (reading or is_read) and len(pending) < AHEAD * concurrency:
                reading = asyncio.create_task(next_batch())
            waited = [task for task in (reading, pending[0] if pending else None) if task]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if pending and pending[0].done():
                for result in count.add(pending.popleft().result()):
                    yield result
            elif reading:
                batch, reading = reading.result(), None
                is_read = batch is None
                if batch:
                    pending.append(asyncio.create_task(answer(*batch)))
        for failure in failures:
            raise failure
    finally:
        left = [*pending, *([reading] if reading else [])]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await batches.aclose()


def _answer(ask: Ask, batch: Batch, first: int) -> list[PromptResult]:
    """The results of a batch whose first prompt has the number `first`; halved where it is refused for its prompts."""
    try:
        return _numbered(ask(batch), first)
    except FfnSearchError as error:
        if not _blames_prompts(error):
            raise
        if len(batch) == 1:
            return [_refused(error, first)]
    half = len(batch) // 2
    return _answer(ask, batch[:half], first) + _answer(ask, batch[half:], first + half)


async def _answer_async(ask: AskAsync, batch: Batch, first: int) -> list[PromptResult]:
    """`_answer` for asyncio."""
    try:
        return _numbered(await ask(batch), first)
    except FfnSearchError as error:
        if not _blames_prompts(error):
            raise
        if len(batch) == 1:
            return [_refused(error, first)]
    half = len(batch) // 2
    return await _answer_async(ask, batch[:half], first) + await _answer_async(ask, batch[half:], first + half)


def _batches(prompts: Iterable[PromptLike], size: int) -> Iterator[tuple[int, Batch]]:
    """Batches in order, each with the number of its first prompt."""
    rest, first = iter(prompts), 0
    while batch := list(itertools.islice(rest, size)):
        yield first, batch
        first += len(batch)


async def _batches_async(
    prompts: Iterable[PromptLike] | AsyncIterable[PromptLike], size: int, failures: list[Exception]
) -> AsyncGenerator[tuple[int, Batch]]:
    if not isinstance(prompts, AsyncIterable):
        for numbered in _batches(_until_failure(prompts, failures), size):
            yield numbered
        return
    first, batch = 0, list[PromptLike]()
    async for prompt in _until_failure_async(prompts, failures):
        batch.append(prompt)
        if len(batch) == size:
            yield first, batch
            first, batch = first + size, []
    if batch:
        yield first, batch


def _until_failure(prompts: Iterable[PromptLike], failures: list[Exception]) -> Iterator[PromptLike]:
    """The prompts that a source gives before it fails, and what it fails with: to be raised after their results."""
    try:
        yield from prompts
    except Exception as error:
        failures.append(error)


async def _until_failure_async(
    prompts: AsyncIterable[PromptLike], failures: list[Exception]
) -> AsyncIterator[PromptLike]:
    """`_until_failure` for asyncio."""
    try:
        async for prompt in prompts:
            yield prompt
    except Exception as error:
        failures.append(error)


def _blames_prompts(error: FfnSearchError) -> bool:
    """Whether fewer prompts, or others, might be answered."""
    if isinstance(error, ResourceExhaustedError):
        return is_too_large(error)
    field = error.field if isinstance(error, ServiceError) else error.metadata.get("field", "")
    return field.startswith("prompts")


def _refused(error: FfnSearchError, number: int) -> PromptResult:
    """The result of a prompt that was refused alone."""
    if isinstance(error, ServiceError):
        told = Failure(error.code, error.reason, error.message, error.field, error.metadata)
    else:
        told = failure(error_message(error))
    return PromptResult(
        status="INVALID",
        error=_moved(told, number),
        distribution=None,
        model=None,
        hellinger=None,
        expected_hellinger=None,
        support=None,
        used_tokens=0,
        short_prompt=False,
        self_id=None,
        blocks=(),
        queries=None,
    )


def _numbered(answer: PredictResult, first: int) -> list[PromptResult]:
    """The results of a call; their errors name the prompts by their numbers among all."""
    return [replace(result, error=_moved(result.error, first)) if result.error else result for result in answer.results]


def _moved(told: Failure, first: int) -> Failure:
    """The same failure of a prompt whose call began with the prompt `first`."""
    field = _PLACE.sub(lambda place: f"prompts[{int(place[1]) + first}]", told.field)
    return replace(
        told, field=field, message=told.message.replace(told.field, field, 1) if told.field else told.message
    )


def _check(prompts: object, prompts_per_call: int, concurrency: int) -> None:
    if isinstance(prompts, str):
        raise RequestError("prompts: one text is given, and each character would be a prompt: give a list of texts")
    if isinstance(prompts, Queries):
        raise RequestError("prompts: the queries of one prompt are given: give a list of such")
    if isinstance(prompts, BYTES):
        raise RequestError(f"prompts: {type(prompts).__name__} are given: .decode() them, and give a list of texts")
    if prompts_per_call < 1:
        raise RequestError(f"prompts_per_call is {prompts_per_call}: choose at least 1")
    if not 1 <= concurrency <= CONCURRENCY_MAX:
        raise RequestError(f"concurrency is {concurrency}: choose 1 to {CONCURRENCY_MAX}")

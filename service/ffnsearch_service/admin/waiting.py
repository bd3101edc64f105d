"""Who waits for the end of an operation? A limited number of callers, which share one look at all operations."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable

from ffnsearch_service.errors import ExhaustedError

LOOK_S = 0.05
"""Pause between two looks at the operations while anybody waits."""


class Waits:
    """The callers that wait for operations. Lives in one event loop.

    unfinished: gives the names of the operations that have not ended. waits_max: how many may wait at a time.
    """

    def __init__(self, unfinished: Callable[[], Awaitable[Collection[str]]], waits_max: int) -> None:
        self._unfinished = unfinished
        self._waits_max = waits_max
        self._waiting: dict[asyncio.Future[None], str] = {}
        self._looking: asyncio.Task[None] | None = None
        self._is_over = False

    async def until_ended(self, name: str, timeout_s: float) -> None:
        """Return when an operation has ended, `timeout_s` has passed, or all waits are over.

        The operation must have been there before. Raises ExhaustedError where too many wait.
        """
        if self._is_over:
            return
        if len(self._waiting) >= self._waits_max:
            raise ExhaustedError(
                f"{len(self._waiting)} callers wait for operations, the most that this server takes: ask now and then",
                reason="TOO_MANY_WAITS",
                limit=self._waits_max,
            )
        ended = asyncio.get_running_loop().create_future()
        self._waiting[ended] = name
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        try:
            await asyncio.wait((ended,), timeout=timeout_s)
        finally:
            del self._waiting[ended]

    def end(self) -> None:
        """Let nobody wait any more."""
        self._is_over = True
        if self._looking is not None:
            self._looking.cancel()
        _wake(self._waiting)

    async def _look(self) -> None:
        """Wake those whose operations have ended, for as long as anybody waits."""
        try:
            while self._waiting:
                await asyncio.sleep(LOOK_S)
                waiting = dict(self._waiting)  # the look says nothing of an operation that begins meanwhile
                unfinished = await self._unfinished()
                _wake(ended for ended, name in waiting.items() if name not in unfinished)
        finally:
            self._looking = None


def _wake(waiting: Iterable[asyncio.Future[None]]) -> None:
    for ended in waiting:
        if not ended.done():
            ended.set_result(None)

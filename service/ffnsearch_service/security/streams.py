"""How does a stream end once its caller may no longer call?"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from ffnsearch_service.aborting import abort
from ffnsearch_service.errors import AuthenticationError, ScopeError
from ffnsearch_service.security.handlers import behavior_of, with_behavior

Check = Callable[[], None]
"""Raises AuthenticationError or ScopeError once the caller may no longer call."""


def checked_stream(handler: Any, check: Check, interval_s: float) -> Any:
    """A handler that checks before every message, in either direction, and every `interval_s` while there is none."""
    behavior = behavior_of(handler)

    async def answer(request: Any, context: Any) -> Any:
        if handler.request_streaming:
            request = _checked_requests(request, check)
        try:
            return await _first_of(behavior(request, _CheckedContext(context, check)), _checking(check, interval_s))
        except (AuthenticationError, ScopeError) as refusal:
            await abort(context, refusal)

    return with_behavior(handler, answer)


class _CheckedContext:
    """The context of a call, with a check before each message that is written."""

    def __init__(self, context: Any, check: Check) -> None:
        self._context = context
        self._check = check

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:
        self._check()
        await self._context.write(message)


async def _checked_requests(requests: AsyncIterator[Any], check: Check) -> AsyncIterator[Any]:
    async for request in requests:
        check()
        yield request


async def _checking(check: Check, interval_s: float) -> None:
    while True:
        await asyncio.sleep(interval_s)
        check()


async def _first_of(work: Awaitable[Any], watch: Awaitable[None]) -> Any:
    """What `work` gives or raises, or what `watch` raises before that; neither is left running."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(watch)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

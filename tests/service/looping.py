"""How a test runs an event loop in a thread of its own, so that the test itself may call and wait."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

WAIT_S = 60.0


@contextmanager
def loop_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WAIT_S)
        loop.close()


def run_in(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any]) -> Any:
    """What work in the loop returns, or raises."""
    return asyncio.run_coroutine_threadsafe(work, loop).result(WAIT_S)

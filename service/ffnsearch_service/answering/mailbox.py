"""How does an event loop learn that the engine thread has ended some of its calls? With one wakeup for many."""

import asyncio
from collections import deque


class Mailbox:
    """Resolves futures of one loop, from any thread. Those of a batch are resolved in one turn of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._ended: deque[asyncio.Future[None]] = deque()
        self._is_called = False

    def put(self, future: "asyncio.Future[None]") -> None:
        """Resolve a future of the loop soon, unless it was cancelled. Does nothing once the loop is closed."""
        self._ended.append(future)
        if not self._is_called:  # else a delivery is due, and will find this future too
            self._is_called = True
            try:
                self.loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                assert self.loop.is_closed(), "only a closed loop takes no calls"

    def _deliver(self) -> None:
        self._is_called = False
        while self._ended:
            future = self._ended.popleft()
            if not future.done():
                future.set_result(None)

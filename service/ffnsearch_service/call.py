"""How long a caller waits: a deadline and a flag, looked at between tiles of work."""

import threading
import time

from ffnsearch_indexer.errors import CancelledError


class Call:
    """One caller's patience. `check` is the checkpoint of the search; any thread may call any method."""

    def __init__(self, timeout_s: float | None = None) -> None:
        self._deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._gone = threading.Event()

    def cancel(self) -> None:
        """Say that the caller has gone: the next `check` stops the work."""
        self._gone.set()

    def check(self) -> None:
        """Raise CancelledError if the caller has gone or the deadline has passed."""
        if self._gone.is_set():
            raise CancelledError("the caller has cancelled the call")
        if self._deadline_s is not None and time.monotonic() >= self._deadline_s:
            raise CancelledError(
                "the deadline has passed: allow more time, or send fewer prompts", reason="DEADLINE_EXCEEDED"
            )

"""How long a caller waits: until a deadline or until it leaves, checked between tiles of work."""

import time
from typing import Any

from ffnsearch_indexer.errors import CancelledError


class Call:
    """One call, which is over at its deadline or once its caller leaves. Any thread may call any method.

    It also keeps what logs and metrics say of the call afterwards, set by the code that learns it. prompts: how many
    the request has. snapshot: the name that it asks. timings: those of the response.
    """

    prompts: int | None = None
    snapshot: str | None = None
    timings: Any = None

    def __init__(self, timeout_s: float | None = None) -> None:
        self._deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._is_gone = False

    def cancel(self) -> None:
        """Note that the caller has left: the next `check` stops the work."""
        self._is_gone = True

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the deadline, at least 0; None without one."""
        return None if self._deadline_s is None else max(0.0, self._deadline_s - time.monotonic())

    def over(self) -> CancelledError | None:
        """Why the call is over, None while its caller waits. Once over, it stays so."""
        if self._is_gone:
            return CancelledError("the caller has cancelled the call")
        if self._deadline_s is not None and time.monotonic() >= self._deadline_s:
            return CancelledError(
                "the deadline has passed: allow more time, or send fewer prompts", reason="DEADLINE_EXCEEDED"
            )
        return None

    def check(self) -> None:
        """Raise CancelledError if the caller has left or the deadline has passed."""
        error = self.over()
        if error is not None:
            raise error

"""How one call is made: its deadline covers all tries, its token goes with it, its failure becomes an exception.

gRPC itself retries UNAVAILABLE, as service_config.json says. A call that the server refused for being busy is sent
again only where the client was asked to: then after the time that the server's RetryInfo names, and never past the
deadline.
"""

import asyncio
import math
import random
import time
from typing import Any

import grpc

from ffnsearch_service.client.channel import Bearer
from ffnsearch_service.client.failures import service_error
from ffnsearch_service.errors import CallCancelledError, RequestError, ResourceExhaustedError, ServiceError

TIMEOUT_S_MAX = 1e9
"""30 years. Beyond 200 years gRPC's own clock overflows, and the call would be over before it began."""

PAUSE_S_MIN = 0.01
"""Shortest pause before a call is sent again, whatever the server says."""


class Deadline:
    """When one call must have ended, all tries together."""

    def __init__(self, timeout_s: float) -> None:
        """Begin now; `math.inf` is for ever. Raises RequestError for NaN."""
        if math.isnan(timeout_s):
            raise RequestError("timeout_s is nan: give seconds", field="timeout_s")
        self._deadline_s = time.monotonic() + min(timeout_s, TIMEOUT_S_MAX)

    def left_s(self) -> float:
        """Seconds that are left, at least 0."""
        return max(0.0, self._deadline_s - time.monotonic())

    def pause_s(self, error: ServiceError) -> float | None:
        """How long to wait before a refused call is sent again, None if it should not be.

        That is up to half longer than the server asks, so that callers refused together do not come back together.
        """
        if not isinstance(error, ResourceExhaustedError) or error.retry_after_s is None:
            return None
        pause_s = max(PAUSE_S_MIN, error.retry_after_s) * random.uniform(1.0, 1.5)
        return pause_s if pause_s < self.left_s() else None


class Caller:
    """Makes calls to one server. Safe to share between threads."""

    def __init__(self, address: str, bearer: Bearer, *, timeout_s: float, retry_overloaded: bool) -> None:
        self.address = address
        self._bearer = bearer
        self._timeout_s = timeout_s
        self._retry_overloaded = retry_overloaded
        self._is_closed = False

    def close(self) -> None:
        """Make no calls from now on. To be called before the channel is closed."""
        self._is_closed = True

    def call(self, method: Any, request: Any, timeout_s: float | None) -> Any:
        """Send a request through a method of a stub, and return the response.

        Raises ServiceError, CredentialsError, and RequestError for a `timeout_s` that is NaN.
        """
        deadline = self._deadline(timeout_s)
        while True:
            self._require_open()
            try:
                return method(request, timeout=deadline.left_s(), metadata=self._bearer.metadata())
            except grpc.RpcError as error:
                self._require_open()  # else a call under way would fail in gRPC's own words
                pause_s = self._pause_s(error, deadline)
            except ValueError:  # what gRPC raises where another thread has just closed the channel
                self._require_open()
                raise
            time.sleep(pause_s)

    async def call_async(self, method: Any, request: Any, timeout_s: float | None) -> Any:
        """`call` for the stubs of asyncio."""
        deadline = self._deadline(timeout_s)
        while True:
            self._require_open()
            try:
                return await method(request, timeout=deadline.left_s(), metadata=self._bearer.metadata())
            except grpc.RpcError as error:
                pause_s = self._pause_s(error, deadline)
            except asyncio.CancelledError:
                if not _is_cancelled():  # the call is cancelled, by a channel that was closed
                    self._require_open()
                raise
            await asyncio.sleep(pause_s)

    def _deadline(self, timeout_s: float | None) -> Deadline:
        return Deadline(self._timeout_s if timeout_s is None else timeout_s)

    def _require_open(self) -> None:
        if self._is_closed:
            raise CallCancelledError(
                f"the client of {self.address} is closed: make another one", code="CANCELLED", reason="CLIENT_CLOSED"
            )

    def _pause_s(self, error: grpc.RpcError, deadline: Deadline) -> float:
        """How long to wait before the call is sent again. Raises the error where it is not."""
        failed = service_error(error, self.address)
        pause_s = deadline.pause_s(failed) if self._retry_overloaded else None
        if pause_s is None:
            raise failed from None
        return pause_s


def _is_cancelled() -> bool:
    """Whether the current task is being cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

"""Is a server ready? Its health service is asked until it says so, or until the time is over."""

import asyncio
import time
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ffnsearch_service.client.call import Caller, Deadline
from ffnsearch_service.errors import DeadlineExceededError, NotFoundError, ServiceError, UnavailableError
from ffnsearch_service.names import PREDICTION_SERVICE

POLL_S = 0.2
"""Pause between two questions."""

_NOT_YET = (UnavailableError, DeadlineExceededError, NotFoundError)
"""How calls fail while a server does not run yet, or does not know its services yet."""


def health_stub(channel: grpc.Channel | grpc.aio.Channel) -> Any:
    """A stub of the health service, untyped since its types lack the methods. Made of a closed channel, it crashes."""
    return health_pb2_grpc.HealthStub(channel)


def wait_until_ready(caller: Caller, health: Any, timeout_s: float, *, service: str = PREDICTION_SERVICE) -> None:
    """Return once `service` is SERVING; `health` is a `health_stub`.

    Raises DeadlineExceededError, with what was in the way, if it is not within `timeout_s`; and at once a
    ServiceError that waiting does not mend, such as a token that is not accepted.
    """
    waiting = _Waiting(caller.address, timeout_s, service)
    while True:
        try:
            if waiting.is_over(caller.call(health.Check, waiting.question, waiting.left_s())):
                return
        except _NOT_YET as error:
            waiting.note(error)
        time.sleep(waiting.pause_s())


async def wait_until_ready_async(caller: Caller, health: Any, timeout_s: float) -> None:
    """Return once PredictionService is SERVING; `wait_until_ready` for asyncio."""
    waiting = _Waiting(caller.address, timeout_s, PREDICTION_SERVICE)
    while True:
        try:
            if waiting.is_over(await caller.call_async(health.Check, waiting.question, waiting.left_s())):
                return
        except _NOT_YET as error:
            waiting.note(error)
        await asyncio.sleep(waiting.pause_s())


class _Waiting:
    """How long there is to wait, and what was in the way the last time."""

    def __init__(self, address: str, timeout_s: float, service: str) -> None:
        self.question = health_pb2.HealthCheckRequest(service=service)
        self._address = address
        self._timeout_s = timeout_s
        self._deadline = Deadline(timeout_s)
        self._obstacle = "it was not asked"

    def left_s(self) -> float:
        return self._deadline.left_s()

    def is_over(self, answer: Any) -> bool:
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        self._obstacle = f"it says {name}"
        return name == "SERVING"

    def note(self, error: ServiceError) -> None:
        if not isinstance(error, DeadlineExceededError):  # which says less than the error before it
            self._obstacle = error.message

    def pause_s(self) -> float:
        """Seconds to wait before the next question. Raises DeadlineExceededError where there are none left."""
        if self.left_s() == 0:
            raise DeadlineExceededError(
                f"{self._address} is not ready after {self._timeout_s:g} s: {self._obstacle}",
                code="DEADLINE_EXCEEDED",
                reason="NOT_READY",
            )
        return min(POLL_S, self.left_s())

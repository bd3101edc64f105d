"""Is a new call taken? Until the server begins to end; then each is refused with an error that clients act on."""

import asyncio
from collections.abc import Callable

from grpc_health.v1 import health

from ffnsearch_service.errors import ShuttingDownError

TOLD_S = 0.1
"""How long calls are still refused once none runs: a caller that never pauses calls again, and learns it."""

LOOK_S = 0.01
"""Pause between two checks whether calls still run."""

_HEALTH = f"/{health.SERVICE_NAME}/"


class Door:
    """Lets calls in until it is closed. Lives in one event loop.

    Calls that arrive while gRPC closes end with CANCELLED, which no client retries elsewhere. Refused here they are
    UNAVAILABLE and have no initial metadata, after which gRPC would not retry either. Health is answered to the end.
    """

    def __init__(self) -> None:
        self._is_open = True

    async def close(self, runs: Callable[[], int], grace_s: float) -> None:
        """Refuse new calls; return `TOLD_S` after the last of those that were taken has ended, or the grace is over.

        runs: how many calls run now.
        """
        self._is_open = False
        loop = asyncio.get_running_loop()
        latest_s = loop.time() + grace_s
        while runs() and loop.time() < latest_s:
            await asyncio.sleep(LOOK_S)
        await asyncio.sleep(TOLD_S)

    def refusal(self, method: str) -> ShuttingDownError | None:
        """Why a call of a method, `/package.Service/Method`, is not taken; None where it is."""
        if self._is_open or method.startswith(_HEALTH):
            return None
        return ShuttingDownError()

"""Is a new call taken? Until the end begins; from then on each is told so, in words that a client acts on."""

import asyncio
from collections.abc import Callable

from grpc_health.v1 import health

from ffnsearch_service.errors import ShuttingDownError

TOLD_S = 0.1
"""How long callers are told once no call runs: who never pauses calls again in that time, and hears it."""

LOOK_S = 0.01
"""How often it is looked whether calls still run."""

_HEALTH = f"/{health.SERVICE_NAME}/"


class Door:
    """Lets calls in until it is closed. Lives in one event loop.

    gRPC ends calls that come while it closes with CANCELLED, which no client tries again elsewhere. Refused here they
    are UNAVAILABLE, without the initial metadata after which gRPC does not try again either. Health is told to the end.
    """

    def __init__(self) -> None:
        self._is_open = True

    async def close(self, runs: Callable[[], int], grace_s: float) -> None:
        """Take no more calls; returns once none of those that were taken runs, or the grace is over, and callers know.

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

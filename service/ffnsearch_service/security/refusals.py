"""How does the operator learn of refused callers, when there may be thousands a second?"""

import logging
import time
from collections import Counter

INTERVAL_S = 10.0
"""Least time between two lines: guessing tokens must not fill the disk."""

_log = logging.getLogger(__name__)


class RefusalLog:
    """Counts refused calls by reason, and logs the counts at most once in INTERVAL_S. Lives in one thread."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._told_s = -INTERVAL_S

    def note(self, reason: str) -> None:
        """Count a refused call. The first one is logged at once, the others with the next one after the interval."""
        self._counts[reason] += 1
        now_s = time.monotonic()
        if now_s - self._told_s < INTERVAL_S:
            return
        self._told_s = now_s
        counts = ", ".join(f"{count} {name}" for name, count in sorted(self._counts.items()))
        _log.warning("calls refused since the last such line: %s", counts)
        self._counts.clear()

"""How far a build is: the events of its process become rates and times left."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Progress:
    """How far the current stage is. done, total: units of the stage. rate: units a second; None before it is known."""

    stage: str
    done: int = 0
    total: int = 0
    rate: float | None = None

    @property
    def fraction(self) -> float:
        """Share of the stage that is done, in [0, 1]."""
        return min(1.0, self.done / self.total) if self.total else 0.0

    @property
    def seconds_left(self) -> float | None:
        """What the stage will take yet at this rate; None before that is known."""
        return (self.total - self.done) / self.rate if self.rate else None


QUEUED, STARTED, DONE = Progress("queued"), Progress("start"), Progress("done", 1, 1)
"""How far a build is before its turn, at its beginning, and once it has succeeded."""


class Meter:
    """Turns the events of one process into progress. Belongs to one thread."""

    def __init__(self) -> None:
        self._stage, self._began_s, self._first = "", 0.0, 0

    def read(self, event: Mapping[str, Any]) -> Progress:
        """The progress after an event with `stage`, `done` and `total`."""
        stage, done, total, now_s = event["stage"], event["done"], event["total"], time.monotonic()
        if stage != self._stage:
            self._stage, self._began_s, self._first = stage, now_s, done
        is_known = done > self._first and now_s > self._began_s
        return Progress(stage, done, total, (done - self._first) / (now_s - self._began_s) if is_known else None)

"""How progress is shown: bars with rate and time left on a terminal, lines elsewhere, JSON for a program."""

import contextlib
import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ffnsearch_indexer.errors import FfnSearchError, OutputError

LINE_INTERVAL_S = 15.0
"""Where output is no terminal: seconds between two lines of one stage."""

SHORT_STAGE_S = 1.0
"""Where output is no terminal: a stage that ends sooner is not worth a line."""


EVENT_INTERVAL_S = 0.1
"""For a program: seconds between two events of one stage."""


class ProgressDisplay:
    """A `progress` callback that writes to stderr; use it as a context manager.

    events: a file to which JSON lines are appended: `{"stage", "done", "total", "detail"}`, at most ten a second, and
    `{"error": {"reason", "message"}}` where an error of the tree ends the work. Where they cannot be written any more,
    that is said once, and the work goes on without them. passing: for what comes before the work itself; its bars
    disappear when it is done, and nothing is written where stderr is no terminal.
    """

    def __init__(self, events: Path | None = None, *, passing: bool = False) -> None:
        self._bars = _Bars(passing) if sys.stderr.isatty() else None
        self._lines = None if passing else _Lines()
        self._events = _Events(events) if events else None

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()
        if self._events:
            self._events.close(error)

    def __call__(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Show that `done` of `total` units of a stage are done; a total of 0 means that it is not known."""
        if shown := self._bars or self._lines:
            shown.show(stage, done, total, detail)
        if self._events:
            try:
                self._events.show(stage, done, total, detail)
            except OSError as problem:
                self._give_up_events(problem)

    def say(self, line: str) -> None:
        """Write a line to stderr, above the bars where there are any."""
        if self._bars:
            self._bars.say(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def _give_up_events(self, problem: OSError) -> None:
        assert self._events, "they could not be written"
        path = self._events.path
        self._events.close(None)
        self._events = None
        self.say(f"no more progress is written to {path}: {problem.strerror}")


class _Bars:
    def __init__(self, passing: bool) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<11}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=Console(stderr=True),
            transient=passing,
        )
        self._tasks: dict[str, TaskID] = {}
        self.start, self.stop = self._progress.start, self._progress.stop

    def say(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def show(self, stage: str, done: int, total: int, detail: str) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total or None, detail=detail)
        self._progress.update(self._tasks[stage], completed=done, total=total or None, detail=detail)


class _Lines:
    def __init__(self) -> None:
        self._stage, self._started, self._first, self._last_line = "", 0.0, 0, 0.0

    def show(self, stage: str, done: int, total: int, detail: str) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._started, self._first, self._last_line = stage, now, done, now
        seconds = now - self._started
        is_end = done == total and seconds >= SHORT_STAGE_S
        if is_end or now - self._last_line >= LINE_INTERVAL_S:
            self._last_line = now
            of_total = f" of {total:,}" if total else ""
            line = f"{stage}: {done:,}{of_total}{self._rate(seconds, done, total)}{detail and ', ' + detail}"
            print(line, file=sys.stderr, flush=True)

    def _rate(self, seconds: float, done: int, total: int) -> str:
        if done == total:
            return f", {seconds:,.1f} s"
        if done <= self._first:
            return ""
        rate = (done - self._first) / seconds
        if not total:
            return f", {rate:,.1f} a second"
        return f", {rate:,.1f} a second, {(total - done) / rate:,.0f} s left"


class _Events:
    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write progress to {path}: {error.strerror}; choose another file") from None
        self.path = path
        self._stage, self._last_event = "", 0.0

    def show(self, stage: str, done: int, total: int, detail: str) -> None:
        now = time.monotonic()
        if stage != self._stage or done == total or now - self._last_event >= EVENT_INTERVAL_S:
            self._stage, self._last_event = stage, now
            self._write({"stage": stage, "done": done, "total": total, "detail": detail})

    def close(self, error: BaseException | None) -> None:
        with contextlib.suppress(OSError):  # the reader may be gone, which does not change how the work ended
            if isinstance(error, FfnSearchError):
                self._write({"error": {"reason": error.reason, "message": error.message}})
            self._file.close()

    def _write(self, event: dict[str, object]) -> None:
        print(json.dumps(event), file=self._file, flush=True)

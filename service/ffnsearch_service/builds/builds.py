"""Which builds wait, run and have ended: a queue of processes that outlives the service.

A build is QUEUED, then RUNNING, then SUCCEEDED, FAILED or CANCELLED. Its record is written before anything is done of
which a restart must know; `start` takes up what was queued or running. Records, logs and locks lie in one folder.
"""

import contextlib
import json
import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ffnsearch_indexer.files import PARTIAL, beside, is_full
from ffnsearch_indexer.store.work import build_folder
from ffnsearch_service.builds.command import build_command, paths_of
from ffnsearch_service.builds.outcome import cancelled, failure_of, failure_of_error, result_of
from ffnsearch_service.builds.process import BuildProcess, Ended
from ffnsearch_service.builds.progress import DONE, QUEUED, STARTED, Meter, Progress
from ffnsearch_service.builds.record import (
    BuildRecord,
    BuildSpec,
    operation_name,
    read_records,
    record_file,
    write_record,
)
from ffnsearch_service.config import Limits
from ffnsearch_service.confined import Folders
from ffnsearch_service.errors import AbsentError, ExhaustedError, PresentError, ShuttingDownError, StateError

_ID_TIME_DIGITS = 11
"""Hexadecimal digits with which an id begins: milliseconds since the epoch."""

_DISCARDED = ".discarded"
"""How the name of a folder ends that is to be deleted: work that nobody will continue."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildView:
    """A build at one moment."""

    record: BuildRecord
    progress: Progress


@dataclass
class _Build:
    """A build of this process. The lock of `Builds` guards every field. has_begun: whether it has had its turn."""

    record: BuildRecord
    progress: Progress = QUEUED
    process: BuildProcess | None = None
    has_begun: bool = False

    def view(self) -> BuildView:
        return BuildView(self.record, (self.record.progress or DONE) if self.record.is_done else self.progress)


class Builds:
    """Runs builds, `builds_max` at a time, the others in the order in which they came. Any thread may call it.

    folder: where records, logs and locks are. open_built: opens what was built, where that was asked for; its errors
    become those of the build. command: makes the command of a build, as `build_command` does.
    """

    def __init__(
        self,
        folders: Folders,
        folder: Path,
        *,
        builds_max: int = 1,
        limits: Limits | None = None,
        open_built: Callable[[BuildSpec], None] = lambda spec: None,
        command: Callable[..., list[str]] = build_command,
    ) -> None:
        self._folders = folders
        self._folder = folder
        self._builds_max = builds_max
        self._limits = limits or Limits()
        self._open_built = open_built
        self._command = command
        self._lock = threading.Lock()
        self._builds: dict[str, _Build] = {}
        self._workers = ThreadPoolExecutor(builds_max, thread_name_prefix="ffnsearch-build")
        self._is_closing = False

    def start(self) -> None:
        """Read what is remembered, and go on with what had not ended. Call it once, before all else.

        What was cancelled, and ended with the service rather than before it, ends here.
        """
        records = read_records(self._folder)
        with self._lock:
            self._builds = {record.id: _Build(record) for record in records}
            for build in self._builds.values():
                if build.record.is_cancelled and not build.record.is_done:
                    build.progress = STARTED  # one that had not begun ended when it was cancelled
                    self._end(build, state="CANCELLED", error=cancelled())
            unfinished = [build for build in self._builds.values() if not build.record.is_done]
        threading.Thread(target=_clear_all, args=[self._discarded()], name="ffnsearch-discard", daemon=True).start()
        for build in unfinished:
            self._workers.submit(self._run, build)

    def create(self, spec: BuildSpec) -> BuildView:
        """Queue a build; a build of the same that has not ended is returned instead.

        Raises RequestError, AbsentError and StateError for folders and names, PresentError where there is a snapshot or
        another build of this name, ExhaustedError where too many wait, ShuttingDownError.
        """
        out = paths_of(spec, self._folders).out
        with self._lock:
            if self._is_closing:
                raise ShuttingDownError
            last = self._last_of(spec.name)
            if last and not last.record.is_done:
                return self._joined(last, spec)
            resumes = out.exists()
            if resumes and not (last and last.record.state != "SUCCEEDED" and last.record.spec == spec):
                raise PresentError(
                    f"there is a snapshot {spec.name} already: choose another name, or load it",
                    reason="SNAPSHOT_EXISTS",
                    field="name",
                    snapshot=spec.name,
                )
            self._require_room()
            build = _Build(BuildRecord(self._next_id(), spec, time.time(), resumes=resumes))
            self._save(build.record)
            self._builds[build.record.id] = build
            self._forget_oldest()
            view = build.view()
        self._workers.submit(self._run, build)
        return view

    def get(self, id: str) -> BuildView:
        """Describe a build. Raises AbsentError."""
        with self._lock:
            return self._find(id).view()

    def list(self) -> list[BuildView]:
        """Describe all builds, oldest first, which is by ascending id."""
        with self._lock:
            return [build.view() for build in self._builds.values()]

    def cancel(self, id: str) -> None:
        """Stop a build; what is done is kept. One that has ended stays as it is. Raises AbsentError."""
        with self._lock:
            build = self._find(id)
            if build.record.is_done:
                return
            if not build.has_begun:
                self._end(build, state="CANCELLED", error=cancelled())
                return
            self._note(build, is_cancelled=True)
            if build.process:
                build.process.stop()

    def delete(self, id: str) -> None:
        """Forget a build that has ended, and delete what it left undone if it is the last one of its name.

        Raises AbsentError, StateError.
        """
        with self._lock:
            build = self._find(id)
            record = build.record
            if not record.is_done:
                raise StateError("the build has not ended: cancel it first", reason="OPERATION_RUNNING")
            takes_work = record.state != "SUCCEEDED" and self._last_of(record.spec.name) is build
            discarded = self._set_aside(record) if takes_work else None
            self._forget(id)
        if discarded:
            shutil.rmtree(discarded, ignore_errors=True)  # it may take a while: without the lock

    def unfinished(self) -> frozenset[str]:
        """The ids of the builds that have not ended."""
        with self._lock:
            return frozenset(id for id, build in self._builds.items() if not build.record.is_done)

    def stop(self) -> None:
        """Stop what runs, so that the next start goes on with it, and let no other build begin."""
        with self._lock:
            self._is_closing = True
            for build in self._builds.values():
                if build.process:
                    build.process.stop()

    def close(self) -> None:
        """Stop, and wait until nothing runs."""
        self.stop()
        self._workers.shutdown(wait=True, cancel_futures=True)

    def _run(self, build: _Build) -> None:
        """Take a build from the queue to its end; on a worker's thread."""
        try:
            process = self._begin(build)
            if process:
                meter = Meter()
                self._finish(build, process.run(lambda event: self._show(build, meter.read(event))))
        except Exception as error:
            if self._is_closing:
                return  # its load was stopped by us: the next start does the last step again
            failure = failure_of_error(error)
            _log.error("build %s of %s failed: %s", build.record.id, build.record.spec.name, failure.message)
            with self._lock:
                if not build.record.is_done:  # it may have been cancelled meanwhile
                    self._end(build, state="FAILED", error=failure)

    def _begin(self, build: _Build) -> BuildProcess | None:
        """Make a build a running one; None for one that was cancelled, or is left for the next start."""
        resume = build.record.resumes or build.record.attempts > 0
        command = self._command(build.record.spec, self._folders, resume=resume)  # reads folders: without the lock
        with self._lock:
            if self._is_closing or build.record.is_done:
                return None
            record = build.record
            started_s = record.started_s or time.time()
            record = replace(record, state="RUNNING", attempts=record.attempts + 1, started_s=started_s)
            self._save(record)
            build.record, build.has_begun = record, True
            build.progress = STARTED
            build.process = BuildProcess(command, self._file(record, ".lock"), self._file(record, ".log"))
            return build.process

    def _finish(self, build: _Build, ended: Ended) -> None:
        with self._lock:
            build.process = None
            if ended.status != 0:
                self._end_undone(build, ended)
                return
            build.progress = Progress("load")
        result = result_of(json.loads(ended.output))
        self._open_built(build.record.spec)
        with self._lock:
            self._end(build, state="SUCCEEDED", result=result)

    def _end_undone(self, build: _Build, ended: Ended) -> None:
        """Note that a process did not succeed; the caller has the lock."""
        if build.record.is_cancelled:
            self._end(build, state="CANCELLED", error=cancelled())
        elif not self._is_closing:  # or else we have stopped it: the next start goes on with it
            _log.error("build %s failed, see its log in the state folder", build.record.id)
            self._end(build, state="FAILED", error=failure_of(ended))

    def _show(self, build: _Build, progress: Progress) -> None:
        with self._lock:
            build.progress = progress

    def _end(self, build: _Build, **changes: Any) -> None:
        """Note how a build ended, and where; the caller has the lock."""
        progress = DONE if changes["state"] == "SUCCEEDED" else replace(build.progress, rate=None)
        self._note(build, ended_s=time.time(), progress=progress, **changes)
        self._file(build.record, ".lock").unlink(missing_ok=True)

    def _note(self, build: _Build, **changes: Any) -> None:
        """Remember what became of a build; what the disk does not take is forgotten by the next start."""
        build.record = replace(build.record, **changes)
        try:
            write_record(self._folder, build.record)
        except OSError as error:
            _log.error("what became of build %s cannot be written: %s", build.record.id, error.strerror)

    def _save(self, record: BuildRecord) -> None:
        try:
            write_record(self._folder, record)
        except OSError as error:
            if is_full(error):
                raise ExhaustedError(
                    "the disk of the server's state folder is full: make room", reason="DISK_FULL"
                ) from error
            raise

    def _joined(self, running: _Build, spec: BuildSpec) -> BuildView:
        if running.record.spec == spec and not running.record.is_cancelled:
            return running.view()
        raise PresentError(
            f"another build of {spec.name} waits or runs: wait for it, cancel it, or choose another name",
            reason="BUILD_EXISTS",
            field="name",
            operation=operation_name(running.record.id),
        )

    def _find(self, id: str) -> _Build:
        build = self._builds.get(id)
        if build is None:
            raise AbsentError(
                f"there is no operation {operation_name(id)[:80]!r}: list them",
                reason="OPERATION_NOT_FOUND",
                field="name",
            )
        return build

    def _last_of(self, name: str) -> _Build | None:
        """The last build of a name: the only one that may not have ended, and the one whose work is kept."""
        return next((build for build in reversed(self._builds.values()) if build.record.spec.name == name), None)

    def _require_room(self) -> None:
        unfinished = sum(not build.record.is_done for build in self._builds.values())
        limit = self._builds_max + self._limits.builds_queued_max
        if unfinished >= limit:
            raise ExhaustedError(
                f"{unfinished} builds wait or run, the most that this server takes: try again later",
                reason="TOO_MANY_BUILDS",
                limit=limit,
            )

    def _forget_oldest(self) -> None:
        ended = [id for id, build in self._builds.items() if build.record.is_done]
        for id in ended[: max(0, len(self._builds) - self._limits.operations_max)]:
            self._forget(id)

    def _forget(self, id: str) -> None:
        record = self._builds.pop(id).record
        for path in (record_file(self._folder, id), self._file(record, ".log"), self._file(record, ".lock")):
            with contextlib.suppress(OSError):
                path.unlink()

    def _set_aside(self, record: BuildRecord) -> Path:
        """Move what a build left undone, if anything, to where no build looks; returns where that is."""
        work = build_folder(self._folders.snapshot(record.spec.name, field="name"))
        aside = beside(work, f".{record.id}{_DISCARDED}")
        try:
            work.rename(aside)
        except FileNotFoundError:
            pass
        except OSError:  # a full disk may have no room for that
            shutil.rmtree(work, ignore_errors=True)
        return aside

    def _discarded(self) -> Collection[Path]:
        """What was set aside, and is still there because the service ended meanwhile."""
        folder = self._folders.snapshots
        return [*folder.glob(f"*{PARTIAL}.*{_DISCARDED}")] if folder else []

    def _file(self, record: BuildRecord, suffix: str) -> Path:
        return self._folder / f"{record.id}{suffix}"

    def _next_id(self) -> str:
        """An id that sorts after those of all builds, even where the clock has stepped back."""
        last_ms = int(next(reversed(self._builds), "0")[:_ID_TIME_DIGITS], 16)
        now_ms = max(time.time_ns() // 1_000_000, last_ms + 1)
        return f"{now_ms:0{_ID_TIME_DIGITS}x}{secrets.token_hex(4)}"


def _clear_all(folders: Collection[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)

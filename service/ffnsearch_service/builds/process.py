"""A build's process: how it is started, listened to, and stopped."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffnsearch_service.builds import child

STOP_GRACE_S = 10.0
"""How long a process may take to end after it was asked to, before it is killed; it ends between two shards."""


@dataclass(frozen=True)
class Ended:
    """How a process ended. status: its exit status, below 0 the signal. error: the last one that it reported."""

    status: int
    output: str
    error: dict[str, str] | None


class BuildProcess:
    """One run of a command that reports its progress. `run` belongs to one thread, `stop` to any."""

    def __init__(self, command: Sequence[str], lock_file: Path, log_file: Path) -> None:
        """Prepare a run. lock_file: held while the process lives. log_file: gets what it writes to stderr."""
        self._command = command
        self._lock_file = lock_file
        self._log_file = log_file
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._killer: threading.Timer | None = None

    def run(self, on_event: Callable[[dict[str, Any]], None]) -> Ended:
        """Run the command to its end. It dies with the thread that calls this. Raises OSError where it cannot start."""
        events, told = os.pipe()
        with open(events, encoding="utf-8", errors="replace") as lines:
            try:
                process = self._start(told)
            finally:
                os.close(told)
            error = self._listen(lines, on_event)
            output, _ = process.communicate()
        with self._lock:
            if self._killer:
                self._killer.cancel()
        return Ended(process.returncode, output, error)

    def stop(self) -> None:
        """Ask the process, and all that it started, to end; kill them after a grace."""
        with self._lock:
            if self._killer:
                return
            self._killer = threading.Timer(STOP_GRACE_S, self._kill)
            self._killer.daemon = True
            self._killer.start()
            self._signal(signal.SIGINT)

    def _start(self, told: int) -> "subprocess.Popen[str]":
        starter = [sys.executable, "-I", "-S", child.__file__, str(os.getpid()), str(self._lock_file)]
        with self._log_file.open("w") as log, self._lock:
            self._process = subprocess.Popen(
                [*starter, *self._command, "--progress-json", f"/dev/fd/{told}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                pass_fds=(told,),
                start_new_session=True,
            )
            if self._killer:  # stopped before it began
                self._signal(signal.SIGINT)
            return self._process

    @staticmethod
    def _listen(lines: Any, on_event: Callable[[dict[str, Any]], None]) -> dict[str, str] | None:
        error = None
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:  # cut off by a kill
                continue
            if "error" in event:
                error = event["error"]
            else:
                on_event(event)
        return error

    def _kill(self) -> None:
        with self._lock:
            self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        """Signal the process and all that it started, unless it has ended; the caller has the lock."""
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, number)

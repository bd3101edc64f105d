"""The first moments of a build's process: it yields to the service, ends with it, and is the only one of its build.

Run as a file with the number of the parent process, a lock file and a command, which then takes the process over. The
lock goes with the process, so a build that is started again waits for what is left of the one before. It imports the
standard library alone: the process is `ffnsearch build` a few milliseconds later.
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import sys
from pathlib import Path

NICENESS = 19
OUT_OF_MEMORY_SCORE = "500"
"""What is added, of 1000, to the reasons for the kernel to end this process rather than another."""
_PR_SET_PDEATHSIG = 1


def become(parent: int, lock_file: str, command: list[str]) -> None:
    """Turn this process into the command, once the lock is free; never returns."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)  # the service had ended before the line above
    os.nice(NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OUT_OF_MEMORY_SCORE)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where the service was started in the background
    lock = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.set_inheritable(lock, True)
    os.execv(command[0], command)


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2], sys.argv[3:])

"""What can be seen of a server's process from outside, and which port one may take."""

import contextlib
import os
import re
import socket
import time
from pathlib import Path

from serving import get

from ffnsearch_service.builds.child import NICENESS


class Watched:
    """A server in a process of its own. pid: of the process. metrics: address at which it tells its measurements."""

    pid: int
    metrics: str

    @property
    def rss_bytes(self) -> int:
        """Memory that it has in use, mapped files included."""
        return self._status_kb("VmRSS") << 10

    @property
    def peak_bytes(self) -> int:
        """The most memory that it has ever had in use."""
        return self._status_kb("VmHWM") << 10

    @property
    def threads(self) -> int:
        """How many threads it has."""
        return self._status_kb("Threads")

    @property
    def files(self) -> int:
        """File descriptors that it has open, sockets included."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def measured(self, name: str) -> float:
        """The value of a metric without labels, or the sum over those that it has."""
        lines = get(self.metrics, "/metrics")[1].splitlines()
        values = [float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        assert values, f"there is no metric {name}"
        return sum(values)

    def _status_kb(self, name: str) -> int:
        found = re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        assert found, f"Linux tells no {name}"
        return int(found[1])


def is_running(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def hurry(pid: int) -> None:
    """Let a build's process take its turns once it has stepped back behind all others: beside tests it would starve."""
    with contextlib.suppress(OSError):  # root alone may; or it has ended
        while os.getpriority(os.PRIO_PROCESS, pid) != NICENESS:
            time.sleep(0.005)
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(thread.name), 0)

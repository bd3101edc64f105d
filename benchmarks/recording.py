"""What every measurement records beside its figures: the code, the machine, the libraries, the time."""

import json
import os
import platform
import re
import resource
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
LIBRARIES = ("torch", "triton", "numpy", "numba", "faiss-cpu", "faiss-gpu", "lmdb", "grpcio")


def circumstances() -> dict[str, Any]:
    """The revision of the code, the machine and the versions of the libraries.

    The revision is None where the code was copied without its history, a version where a library is not installed.
    Changes are of all but results.
    """
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    return {
        "revision": _git("rev-parse", "HEAD"),
        "uncommitted_changes": None if changes is None else bool(changes),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
            "system": platform.platform(),
        },
        "libraries": {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}},
    }


def run_measured(command: list[str]) -> dict[str, Any]:
    """Run a command to its end; its output, its times, and the peak memory of its processes together.

    Memory is resident memory with all mapped files, sampled ten times a second: a peak between two samples is missed,
    and pages that processes share count for each of them. What the system remembers as a child's peak is not asked: it
    is that of all commands so far, or of this process, where these had more.
    """
    started = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak_bytes = 0
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE) as process, ThreadPoolExecutor(1) as reader:
        assert process.stdout is not None
        output = reader.submit(process.stdout.read)
        while process.poll() is None:
            peak_bytes = max(peak_bytes, _resident_bytes(process.pid))
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "command": command,
        "output": output.result(),
        "seconds": time.monotonic() - started,
        "processor_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "memory_peak_gb": peak_bytes / 1e9,
    }


def write(path: Path, result: dict[str, Any]) -> None:
    """Write a result as JSON that reads well in a diff: a list of numbers is one line."""
    text = json.dumps({**result, **circumstances()}, indent=1)
    path.write_text(re.sub(r"\[([-\d.e+,\s]+)\]", lambda numbers: f"[{' '.join(numbers[1].split())}]", text) + "\n")
    print(f"written: {path}")


def _resident_bytes(root: int) -> int:
    """Resident memory of a process and of all that it has started."""
    parents, resident = {}, {}
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit():
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                parents[int(folder.name)], resident[int(folder.name)] = int(fields[1]), int(fields[21])
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
    family = {root}
    for process in sorted(parents):  # a child has a higher number than its parent, but for a wrap-around
        if parents[process] in family:
            family.add(process)
    return sum(resident.get(process, 0) for process in family) * os.sysconf("SC_PAGE_SIZE")


def _git(*arguments: str) -> str | None:
    command = ["git", *arguments]
    try:
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()

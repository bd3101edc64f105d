"""Who works on a snapshot that is not whole yet: one build at a time, and only the one that began it."""

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ffnsearch_indexer.errors import OutputError
from ffnsearch_indexer.files import PARTIAL

IDENTITY_FILE = "build.json"

Identity = dict[str, object]
"""What must be the same for a killed build to be continued, by name; it survives JSON."""


def work_folder(out: Path) -> Path:
    """Where a build of `out` works until it is whole."""
    return out.parent / (out.name + PARTIAL)


@contextmanager
def claim(work: Path, identity: Identity) -> Iterator[None]:
    """Make or reopen the work folder for this build alone; a folder in which nothing was built goes again."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / IDENTITY_FILE
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"another build is writing {work}: wait for it, or choose another name", reason="OUTPUT_BUSY", path=work
            ) from None
        try:
            require_own(work, identity)
            file.truncate(0)
            file.write(json.dumps(identity, sort_keys=True))
            file.flush()
            yield
        finally:
            if not _is_begun(work):
                shutil.rmtree(work, ignore_errors=True)


def require_own(work: Path, identity: Identity) -> None:
    """Refuse a work folder with something in it that this very build would not continue."""
    if not _is_begun(work):
        return
    found = _identity_in(work)
    for name, value in identity.items():
        if found.get(name) != value:
            what = name.removesuffix("_sha256").replace("_", " ")
            raise OutputError(
                f"{work} is what is left of a build with another {what}: delete it, or choose another name",
                reason="OUTPUT_EXISTS",
                path=work,
                different=name,
            )


def _identity_in(work: Path) -> Identity:
    try:
        found = json.loads((work / IDENTITY_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_begun(work: Path) -> bool:
    return work.exists() and any(path.name != IDENTITY_FILE for path in work.iterdir())

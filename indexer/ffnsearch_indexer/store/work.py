"""Who works in a folder of unfinished work: one process at a time, and only on what was begun there."""

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ffnsearch_indexer.errors import OutputError
from ffnsearch_indexer.files import PARTIAL

IDENTITY_FILE = "work.json"

Identity = dict[str, object]
"""What must be the same for killed work to be continued, by name; it survives JSON."""


def work_folder(out: Path) -> Path:
    """Where a build of `out` works until it is whole."""
    return out.parent / (out.name + PARTIAL)


@contextmanager
def claim(work: Path, identity: Identity) -> Iterator[None]:
    """Make or reopen a work folder for this process alone; a folder in which nothing was done goes again.

    Raises OutputError for a folder in use, or with other work begun in it.
    """
    work.mkdir(parents=True, exist_ok=True)
    path = work / IDENTITY_FILE
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"{work} is in use, the same work is being done: wait for it", reason="OUTPUT_BUSY", path=work
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
    """Refuse a work folder with something in it that the work of this identity would not continue."""
    if not _is_begun(work):
        return
    if name := first_difference(_identity_in(work), identity):
        raise OutputError(
            f"{work} holds unfinished work with another {in_words(name)}: "
            "finish that with its own command, or delete it",
            reason="OUTPUT_EXISTS",
            path=work,
            different=name,
        )


def first_difference(found: Mapping[str, object], wanted: Identity) -> str | None:
    """The first name of an identity under which something else was found, or None."""
    return next((name for name, value in wanted.items() if found.get(name) != value), None)


def in_words(name: str) -> str:
    """A name of an identity, for a person."""
    return name.removesuffix("_sha256").replace("_", " ")


def _identity_in(work: Path) -> Identity:
    try:
        found = json.loads((work / IDENTITY_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_begun(work: Path) -> bool:
    return work.exists() and any(path.name != IDENTITY_FILE for path in work.iterdir())

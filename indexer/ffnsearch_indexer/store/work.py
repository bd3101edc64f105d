"""Who works in a folder of unfinished work: one process at a time, and only on what was begun there."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ffnsearch_indexer.alone import LOCK_FILE, Identity, alone_in, first_difference, in_words
from ffnsearch_indexer.errors import OutputError
from ffnsearch_indexer.files import PARTIAL, save_text

IDENTITY_FILE = "work.json"
_BESIDE_WORK = {LOCK_FILE, IDENTITY_FILE, IDENTITY_FILE + PARTIAL}


def build_folder(out: Path) -> Path:
    """Where a build of `out` works until it is whole."""
    return out.parent / (out.name + PARTIAL)


def part_folder(snapshot: Path, part: str) -> Path:
    """The folder that the process that makes a part of a snapshot claims, until the part is whole."""
    return snapshot / (part + PARTIAL)


@contextmanager
def claim(work: Path, identity: Identity) -> Iterator[None]:
    """Make or reopen a work folder for this process alone; a folder in which nothing was done is deleted again.

    Raises OutputError for a folder in use, or with other work begun in it.
    """
    with alone_in(work):
        try:
            require_own(work, identity)
            if _identity_in(work) != identity:
                save_text(work / IDENTITY_FILE, json.dumps(identity, sort_keys=True))
            yield
        finally:
            if not _is_begun(work):
                clear(work)


def clear(work: Path) -> None:
    """Delete what is in a claimed folder but the lock; the identity last, so that a kill meanwhile does no harm."""
    for path in sorted(work.iterdir(), key=lambda path: path.name == IDENTITY_FILE):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK_FILE:
            path.unlink()


def delete_step(folder: Path) -> str:
    """What helps where unfinished work in a folder is damaged, for the end of a message."""
    return f"delete {folder}; the same command makes it again"


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


def _identity_in(work: Path) -> Identity:
    try:
        found = json.loads((work / IDENTITY_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_begun(work: Path) -> bool:
    """Whether anything but empty folders is there."""
    return any(path.is_symlink() or not path.is_dir() for path in work.rglob("*") if path.name not in _BESIDE_WORK)

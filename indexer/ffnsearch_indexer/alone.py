"""How does one process work in a folder alone? With a lock on a file there, which goes with the process."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ffnsearch_indexer.errors import OutputError

LOCK_FILE = "ffnsearch.lock"
"""In a folder in which one process works; nothing is in it."""


@contextlib.contextmanager
def alone_in(folder: Path, *, stays: bool = False) -> Iterator[None]:
    """Make or reopen a folder for this process alone; if nothing is in it in the end, it goes again, unless it `stays`.

    Raises OutputError where it is in use.
    """
    with _locked(folder):
        try:
            yield
        finally:
            (folder / LOCK_FILE).unlink(missing_ok=True)
            if not stays:
                with contextlib.suppress(OSError):  # something is in it
                    folder.rmdir()


def _locked(folder: Path) -> IO[str]:
    """The lock file of a folder, open and locked; only who holds it may delete it."""
    path = folder / LOCK_FILE
    while True:
        with contextlib.suppress(FileExistsError):  # which `exist_ok` lets through where another deletes it meanwhile
            folder.mkdir(parents=True)
        with contextlib.ExitStack() as closing, contextlib.suppress(FileNotFoundError):  # another has just deleted it
            file = closing.enter_context(path.open("a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputError(
                    f"{folder} is in use, the same work is being done: wait for it", reason="OUTPUT_BUSY", path=folder
                ) from None
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                closing.pop_all()
                return file

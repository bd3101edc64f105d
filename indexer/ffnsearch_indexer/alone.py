"""How does one process work in a folder alone, and how does it know what was begun there?

A lock on a file in the folder goes with the process. An identity says what the work is.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from ffnsearch_indexer.errors import OutputError

LOCK_FILE = "ffnsearch.lock"
"""In a folder in which one process works; nothing is in it."""

Identity = dict[str, object]
"""What must be the same for killed work to be continued, by name; it survives JSON.

A name reads well after "another", as `in_words` puts it into a message: `set_of_prompts_sha256` is "set of prompts".
"""


@contextlib.contextmanager
def alone_in(folder: Path, *, stays: bool = False) -> Iterator[None]:
    """Make or reopen a folder for this process alone; one that is empty in the end is deleted, unless it `stays`.

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
    """The lock file of a folder, open and locked; only the process that holds it may delete it."""
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


def first_difference(found: Mapping[str, object], wanted: Identity) -> str | None:
    """The first name of an identity under which something else was found, or None."""
    return next((name for name, value in wanted.items() if found.get(name) != value), None)


def in_words(name: str) -> str:
    """A name of an identity, for a person."""
    return name.removesuffix("_sha256").replace("_", " ")

"""Where is compiled code kept? This is numba, which has a place: whoever compiles with `cache=True` takes it from here.

numba keeps what it has compiled in NUMBA_CACHE_DIR if that is set, or beside the code, or in the user's cache, and
fails where none of them can be written: an installation that belongs to root, for a user without a home. Then the place
is a folder of this user in the temporary folder, which later processes find again.
"""

import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import numba

from ffnsearch_indexer.errors import OutputError

__all__ = ["numba"]

PREFIX = "ffnsearch-compiled-"
"""How the names of such folders begin; the rest is random, so that nobody can be there first."""

_config: Any = numba.config  # its attributes come from the environment


def find_place() -> None:
    """Leave the place to numba if it has one, else give it one. Raises OutputError."""
    if _has_place():
        return
    if _config.CACHE_DIR:
        raise OutputError(
            f"the search cannot be compiled, because {_config.CACHE_DIR} cannot be written: "
            "set NUMBA_CACHE_DIR to a folder that can"
        )
    try:
        _config.CACHE_DIR = str(private_folder(Path(tempfile.gettempdir())))
    except OSError as error:
        raise OutputError(
            "the search cannot be compiled, because neither the folder of the installation, nor the user's cache, nor "
            f"the temporary folder is a safe place for its code ({error.strerror}): set NUMBA_CACHE_DIR to a folder "
            "that can be written"
        ) from None


def private_folder(temporary: Path) -> Path:
    """A folder that this user alone can write, made unless it is there. Raises OSError where none is safe."""
    found = temporary.stat()
    is_open = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX
    if is_open or found.st_uid not in (0, os.geteuid()):
        raise PermissionError(errno.EPERM, f"in {temporary} others may rename the folders of this user")
    ours = (folder for folder in sorted(temporary.glob(f"{PREFIX}*")) if _is_private(folder))
    return next(ours, None) or Path(tempfile.mkdtemp(prefix=PREFIX, dir=temporary))


def _is_private(folder: Path) -> bool:
    found = folder.lstat()
    is_shared = found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    return stat.S_ISDIR(found.st_mode) and not is_shared and found.st_uid == os.geteuid()


def _has_place() -> bool:
    try:
        numba.njit(cache=True)(_has_place)  # looks for the place, compiles nothing
    except RuntimeError:
        return False
    return True


find_place()

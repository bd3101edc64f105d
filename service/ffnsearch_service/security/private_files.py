"""May this file be trusted, and has it changed? Files of tokens, certificates and keys, as an operator puts them."""

import os
import stat
from pathlib import Path

from ffnsearch_service.errors import CredentialsError

FILE_BYTES_MAX = 1 << 20
"""Largest file of tokens, certificates or keys: hundreds of either."""

_OTHERS = stat.S_IRWXO | stat.S_IWGRP
"""Mode bits that a private file must not have. Its group may read it, as a service with a user of its own needs."""

Stamp = tuple[int, ...]
"""What tells one state of a file from another."""


def stamp(path: Path) -> Stamp | None:
    """Inode, size, times and mode of a file, without reading it; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode


def read_file(path: Path, what: str, *, private: bool) -> bytes:
    """Read a file whole; `what` names it in messages, as in "tokens file".

    Raises CredentialsError for a file that is missing, not an ordinary file, larger than FILE_BYTES_MAX or, where it is
    `private`, open to others: readable by anybody, writable by its group, or owned by neither this user nor root.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not block
        try:
            _require_usable(os.fstat(descriptor), path, what, private)
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(FILE_BYTES_MAX)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CredentialsError(
            f"the {what} {path} cannot be read: {error.strerror}; check its path and who may read it",
            reason="FILE_UNREADABLE",
        ) from None


def _require_usable(found: os.stat_result, path: Path, what: str, private: bool) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise CredentialsError(
            f"the {what} {path} is not an ordinary file: give the path of one", reason="FILE_UNREADABLE"
        )
    if found.st_size > FILE_BYTES_MAX:
        raise CredentialsError(
            f"the {what} {path} has {found.st_size} bytes, more than {FILE_BYTES_MAX}: is it the right file?",
            reason="FILE_TOO_LARGE",
        )
    if private and found.st_mode & _OTHERS:
        raise CredentialsError(
            f"the {what} {path} is open to others (mode {stat.S_IMODE(found.st_mode):04o}): run `chmod 600 {path}`, "
            "or 640 with a group of its own",
            reason="FILE_NOT_PRIVATE",
        )
    if private and found.st_uid not in (0, os.geteuid()):
        raise CredentialsError(
            f"the {what} {path} belongs to user {found.st_uid}, who may change it: give it to root or to the user "
            f"that runs this (uid {os.geteuid()})",
            reason="FILE_NOT_PRIVATE",
        )

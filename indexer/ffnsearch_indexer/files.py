"""How files are named, made durable and checked, and what is said where the disk refuses."""

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.errors import DamageError, OutputError, SnapshotError
from ffnsearch_indexer.progress import Progress, silent

PARTIAL = ".partial"
"""Ends the name of what is not whole yet."""

_NO_DAMAGE = {
    errno.EACCES: "let this user read it",
    errno.EPERM: "let this user read it",
    errno.EMFILE: "let this process open more files (ulimit -n)",
    errno.ENFILE: "let this machine open more files",
    errno.ENOMEM: "free some memory, or let this process map more of it",
    errno.EIO: "check the disk, or copy the snapshot to another",
}
"""What helps where a file cannot be read and nothing says that it is damaged, by errno."""

_MADE_AGAIN = "copy the snapshot again, or build it again"
"""What helps where a file of a snapshot is damaged."""

_HASH_BYTES = 1 << 22
_HASH_THREADS = 4


def beside(path: Path, suffix: str) -> Path:
    """The absolute path in the same folder with the same name and a suffix; even `.` has a name there."""
    whole = Path(os.path.abspath(path))
    return whole.with_name(whole.name + suffix)


def sync(path: Path) -> None:
    """Push a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, make it durable, and give it its name: a file with that name is whole.

    The folder is made where it is missing; what an earlier attempt left of the file is deleted.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    partial.unlink(missing_ok=True)
    try:
        write(partial)
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    except OSError as error:
        error.filename = error.filename or str(partial)  # a failed write does not know where it was going
        raise


def save_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, whole or not at all."""
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array as .npy, whole or not at all."""

    def write(partial: Path) -> None:
        whole = np.ascontiguousarray(array)
        with partial.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(whole))
            file.write(whole.data)  # np.save leaves the last buffer to C's fclose, and a full disk unnoticed

    write_whole(path, write)


def create_array(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """Create a .npy file of zeros, mapped for writing. Its room on disk is reserved: a full disk is an OSError here."""
    np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    mapped: np.memmap[Any, Any] = np.load(path, mmap_mode="r+", allow_pickle=False)
    return mapped


def load_array(path: Path, dtype: type, shape: tuple[int | None, ...], *, next_step: str = _MADE_AGAIN) -> NDArray[Any]:
    """Map an array into memory, read-only. Raises DamageError where dtype or shape (None: any) is not the expected.

    Other errors are those of `unreadable`. next_step: what helps where the file is damaged.
    """
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise unreadable(path, error, next_step) from None
    fits = len(array.shape) == len(shape) and all(
        want in (None, have) for want, have in zip(shape, array.shape, strict=True)
    )
    if array.dtype != dtype or not fits:
        raise DamageError(
            f"{path} holds {array.dtype} {list(array.shape)} instead of {np.dtype(dtype)} {list(shape)}: {next_step}",
            file=path.name,
        )
    return array


def unreadable(path: Path, error: Exception, next_step: str = _MADE_AGAIN) -> SnapshotError:
    """What to raise for a file that cannot be read: a DamageError, unless the file may well be whole.

    next_step: what helps where the file is damaged.
    """
    if isinstance(error, OSError) and error.errno in _NO_DAMAGE:
        return SnapshotError(
            f"{path} cannot be read: {error.strerror}; {_NO_DAMAGE[error.errno]}",
            reason="SNAPSHOT_UNREADABLE",
            file=path.name,
        )
    return DamageError(f"{path} cannot be read ({error}): {next_step}", file=path.name)


def require_readable(path: Path) -> None:
    """Raise what `unreadable` says where a file of a snapshot cannot be opened: some libraries do not say why."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise unreadable(path, error) from None


def hash_files(paths: list[Path], *, stage: str = "", progress: Progress = silent) -> list[str]:
    """SHA-256 of each file, in hexadecimal; several files are read at once.

    progress: counts the megabytes of all files as a stage; it is called from several threads, one at a time, and what
    it raises ends the reading. An OSError knows its file.
    """
    was_read = _counter(stage, sum(path.stat().st_size for path in paths), progress)
    with ThreadPoolExecutor(_HASH_THREADS) as pool:
        return list(pool.map(partial(_hash_file, was_read), paths))


def _counter(stage: str, total_bytes: int, progress: Progress) -> Callable[[int], None]:
    """What several threads call with the number of bytes that they have read."""
    done_bytes, lock = 0, Lock()

    def was_read(read_bytes: int) -> None:
        nonlocal done_bytes
        with lock:
            done_bytes += read_bytes
            progress(stage, -(-done_bytes // 10**6), -(-total_bytes // 10**6))

    return was_read


def _hash_file(was_read: Callable[[int], None], path: Path) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(path):
        digest.update(piece)
        was_read(len(piece))
    return digest.hexdigest()


def _pieces(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while piece := file.read(_HASH_BYTES):
                yield piece
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed read does not know of what
        raise


def size_in_words(size_bytes: int) -> str:
    """A size for a person: in GB, or in MB below one."""
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.2f} MB"


def require_free_disk(folder: Path, needed_bytes: int) -> None:
    """Refuse work (OutputError) where `folder`, or its nearest existing parent, may not be written or has no room."""
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(
            f"cannot write in {folder}: it is not a folder, or you have no write permission there; "
            "change that, or choose another place",
            reason="WRITE_FAILED",
        )
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise OutputError(
            f"{size_in_words(needed_bytes)} of disk are needed and {folder} has {size_in_words(free)} free: "
            "free some, or write to another disk",
            reason="DISK_FULL",
            needed_bytes=needed_bytes,
            free_bytes=free,
        )


def is_full(error: OSError) -> bool:
    """Whether the file system has no room left: for anybody, for this user, or in this file."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def disk_errors(next_step: str) -> Iterator[None]:
    """Turn whatever the file system refuses into an OutputError that ends in what to do."""
    try:
        yield
    except OSError as error:
        reason = "DISK_FULL" if is_full(error) else "WRITE_FAILED"
        where = f" {error.filename}" if error.filename else ""
        raise OutputError(f"cannot write{where}: {error.strerror or error}; {next_step}", reason=reason) from error

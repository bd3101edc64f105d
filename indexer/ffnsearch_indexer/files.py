"""How files are made durable and checked: written whole, fsynced, hashed."""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.errors import DamageError, OutputError

_HASH_BYTES = 1 << 22
_HASH_THREADS = 4


def sync(path: Path) -> None:
    """Push a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, make it durable, and give it its name: a file with that name is whole."""
    partial = path.with_name(path.name + ".partial")
    write(partial)
    sync(partial)
    partial.replace(path)
    sync(path.parent)


def save_array(path: Path, array: NDArray) -> None:
    """Write an array as .npy, whole or not at all."""

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            np.save(file, array)

    write_whole(path, write)


def create_array(path: Path, dtype: type, shape: tuple[int, ...]) -> NDArray:
    """Create a .npy file of zeros, mapped for writing. Its room on disk is reserved: a full disk is an OSError here."""
    np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return np.load(path, mmap_mode="r+", allow_pickle=False)


def load_array(path: Path, dtype: type, shape: tuple[int | None, ...]) -> NDArray:
    """Map an array into memory, read-only. Raises DamageError where dtype or shape (None: any) is not the expected."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DamageError(f"{path} cannot be read as an array ({error}): build the snapshot again", file=path.name) from None
    fits = len(array.shape) == len(shape) and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
    if array.dtype != dtype or not fits:
        raise DamageError(
            f"{path} holds {array.dtype} {list(array.shape)} where the manifest says {np.dtype(dtype)} {list(shape)}: "
            "build the snapshot again",
            file=path.name,
        )
    return array


def hash_files(paths: list[Path]) -> list[str]:
    """SHA-256 of each file, in hexadecimal; several files are read at once."""
    with ThreadPoolExecutor(_HASH_THREADS) as pool:
        return list(pool.map(_hash_file, paths))


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(path):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_HASH_BYTES):
            yield piece


def require_free_disk(folder: Path, needed_bytes: int) -> None:
    """Refuse work (OutputError) for which the disk of `folder`, or of its nearest existing parent, has no room."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise OutputError(
            f"the build needs {needed_bytes / 1e9:.2f} GB of disk and {folder} has {free / 1e9:.2f} GB free: "
            "free some, or write to another disk",
            reason="DISK_FULL",
            needed_bytes=needed_bytes,
            free_bytes=free,
        )


@contextmanager
def disk_errors(what_is_kept: str) -> Iterator[None]:
    """Turn a failed write into an OutputError that says what is kept and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EFBIG):
            raise
        reason = "DISK_FULL" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "WRITE_FAILED"
        where = f" ({error.filename})" if error.filename else ""
        raise OutputError(f"cannot write{where}: {error.strerror}; {what_is_kept}", reason=reason) from error

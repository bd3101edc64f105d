"""Where a substring is looked up by its tokens: its id, its next-token counts, its places (LMDB).

The key is the L token ids, big-endian uint16, so that LMDB's order is the order of the windows. The
value is little-endian: id int64, numbers of counts and of places uint32 each, then the tokens (uint16),
their counts (uint32) and the places (int64).

LMDB cannot open one file twice in a process; readers of the same file share one environment here.
"""

import errno
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import lmdb
import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.corpora.substrings import Substrings
from ffnsearch_indexer.corpora.tokenizer import Tokens
from ffnsearch_indexer.files import require_readable, unreadable

_HEADER = struct.Struct("<qII")
_PAGE_BYTES = 4096
_ENGINE = 0  # lmdb bundles two engines whose files differ: pin one

FileKey = tuple[int, int]
"""Device and inode: what a file is, whatever its name."""


@dataclass(frozen=True)
class Record:
    """One substring. tokens: [M] uint16 that follow it, ascending. counts: [M] uint32. places: [P] int64, ascending."""

    id: int
    tokens: NDArray[np.uint16]
    counts: NDArray[np.uint32]
    places: NDArray[np.int64]

    def followers(self) -> list[tuple[int, int]]:
        """The tokens that follow it and how often, the most frequent first, equally frequent ones by id."""
        order = np.lexsort((self.tokens, -self.counts.astype(np.int64)))
        return list(zip(self.tokens[order].tolist(), self.counts[order].tolist(), strict=True))


def write_records(path: Path, substrings: Substrings, windows: NDArray[np.uint16], order: NDArray[np.int64]) -> None:
    """Write all records in one transaction. windows: [N, L] by id. order: [N], the ids in ascending order of windows.

    Raises OSError where the disk has no room or fails.
    """
    keys = windows[order].astype(">u2").tobytes()
    try:
        with _open_new(path, map_bytes(substrings)) as environment, environment.begin(write=True) as transaction:
            _, added = transaction.cursor().putmulti(_pairs(substrings, keys, order), append=True)
    except lmdb.Error as error:  # LMDB writes through the file, so a full disk is an error here, not a signal
        if type(error) not in (lmdb.Error, lmdb.DiskError):
            raise  # what LMDB has a name for beside these is a mistake of ours
        number = errno.ENOSPC if isinstance(error, lmdb.DiskError) else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error
    assert added == len(substrings), "windows ascend and differ"


def map_bytes(substrings: Substrings) -> int:
    """An upper bound of the file: twice the records (pages may be half full), whole pages for large ones, a margin."""
    counts = np.diff(substrings.counts.offsets)
    places = np.diff(substrings.place_offsets)
    record = 16 + 2 * substrings.window_tokens + _HEADER.size + 6 * counts + 8 * places
    large = record > _PAGE_BYTES // 4
    return int(2 * record.sum() + 2 * _PAGE_BYTES * large.sum() + 256 * _PAGE_BYTES)


def _pairs(substrings: Substrings, keys: bytes, order: NDArray[np.int64]) -> Iterator[tuple[bytes, bytes]]:
    key_bytes = 2 * substrings.window_tokens
    offsets, place_offsets = substrings.counts.offsets.tolist(), substrings.place_offsets.tolist()
    tokens, counts = substrings.counts.tokens.tobytes(), substrings.counts.counts.tobytes()
    places = substrings.places.tobytes()
    for row, substring_id in enumerate(order.tolist()):
        first, last = offsets[substring_id], offsets[substring_id + 1]
        first_place, last_place = place_offsets[substring_id], place_offsets[substring_id + 1]
        value = (
            _HEADER.pack(substring_id, last - first, last_place - first_place)
            + tokens[2 * first : 2 * last]
            + counts[4 * first : 4 * last]
            + places[8 * first_place : 8 * last_place]
        )
        yield keys[row * key_bytes : (row + 1) * key_bytes], value


class RecordStore:
    """Reads records. Safe to use from several threads; `close` when done."""

    def __init__(self, path: Path) -> None:
        self._key, self._environment = _shared_environments.acquire(path)
        self._is_open = True

    def find(self, tokens: Tokens) -> Record | None:
        """Look a substring up by its L token ids; None where the corpus does not hold it."""
        with self._environment.begin(buffers=False) as transaction:
            value = transaction.get(np.asarray(tokens).astype(">u2").tobytes())
        return None if value is None else _unpack(value)

    def find_ids(self, substrings: Sequence[Tokens]) -> list[int | None]:
        """The ids of several, None where the corpus lacks one; together, for transactions take most of the time."""
        keys = [np.asarray(tokens).astype(">u2").tobytes() for tokens in substrings]
        with self._environment.begin(buffers=True) as transaction:
            values = map(transaction.get, keys)
            return [None if value is None else _HEADER.unpack_from(value)[0] for value in values]

    def __len__(self) -> int:
        with self._environment.begin() as transaction:
            return int(transaction.stat()["entries"])

    def close(self) -> None:
        """Give the environment back, once; the last reader of a file closes it."""
        if self._is_open:
            self._is_open = False
            _shared_environments.release(self._key)


class _SharedEnvironments:
    """One open environment a file, counted by its readers. A path may name another file later: the inode is the key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[FileKey, tuple[lmdb.Environment, int]] = {}

    def acquire(self, path: Path) -> tuple[FileKey, lmdb.Environment]:
        with self._lock:
            key = _file_key(path)
            environment, readers = self._open.get(key, (None, 0))
            if environment is None:
                environment = _open_read_only(path)
            self._open[key] = environment, readers + 1
            return key, environment

    def release(self, key: FileKey) -> None:
        with self._lock:
            environment, readers = self._open.pop(key)
            if readers > 1:
                self._open[key] = environment, readers - 1
            else:
                environment.close()


_shared_environments = _SharedEnvironments()


def _open_new(path: Path, size_bytes: int) -> lmdb.Environment:
    return lmdb.open(
        str(path), map_size=size_bytes, subdir=False, lock=False, sync=False, mode=0o644, lib_version=_ENGINE
    )


def _file_key(path: Path) -> FileKey:
    try:
        status = path.stat()
    except OSError as error:
        raise unreadable(path, error) from None
    return status.st_dev, status.st_ino


def _open_read_only(path: Path) -> lmdb.Environment:
    require_readable(path)
    try:
        return lmdb.open(
            str(path), subdir=False, readonly=True, lock=False, readahead=False, max_readers=1024, lib_version=_ENGINE
        )
    except lmdb.Error as error:
        raise unreadable(path, error) from None


def _unpack(value: bytes) -> Record:
    substring_id, counts, places = _HEADER.unpack_from(value)
    first_count = _HEADER.size + 2 * counts
    first_place = first_count + 4 * counts
    return Record(
        substring_id,
        np.frombuffer(value, "<u2", counts, _HEADER.size),
        np.frombuffer(value, "<u4", counts, first_count),
        np.frombuffer(value, "<i8", places, first_place),
    )

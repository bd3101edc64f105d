"""How a snapshot gets its self-sums: every substring is asked with its own key, block by block, resumable in pieces.

Shapes: N substrings, S thresholds of a block, V vocabulary.

Work is done in a folder `self-sums.partial` inside the snapshot, which stays what it was until all of it is there:

work.json           whose sums these are
pieces/             those of one block, until they are put together
whole/self-sums/    becomes the part of the snapshot
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ffnsearch_indexer.alone import Identity
from ffnsearch_indexer.answer.backends import choose, look, open_indexes
from ffnsearch_indexer.answer.profile import Profile, thresholds_of
from ffnsearch_indexer.errors import BackendError, DamageError, LimitError
from ffnsearch_indexer.files import disk_errors, require_free_disk, sync
from ffnsearch_indexer.index.base import Index, Int64, RangeSums
from ffnsearch_indexer.parts import parts_of
from ffnsearch_indexer.progress import Progress, silent
from ffnsearch_indexer.store import self_sums as store
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_indexer.store.layout import (
    COUNTS_FILE,
    OFFSETS_FILE,
    SELF_SUMS_FOLDER,
    TOKENS_FILE,
    keys_file,
    self_sums_files,
)
from ffnsearch_indexer.store.manifest import Manifest, drop_part, list_part, read_manifest
from ffnsearch_indexer.store.work import claim, clear, part_folder, require_own

PIECE_QUERIES = 32_768
"""Substrings of a piece: some ten seconds of a block of the reference model, and all that a kill can lose."""

CALL_QUERIES_MAX = 512
"""Substrings that are asked in one call: what is read of a tile serves all of them."""

CALL_BYTES_MAX = 1 << 28
"""What the sums of one call may take."""

SAMPLE_RUNS, SAMPLE_RUN = 32, 32
"""How many runs of neighboring substrings are asked beforehand, and how many substrings a run has."""

SPARE, HEADERS_BYTES = 1.25, 1 << 16
"""How much more room than the sample says is asked for, and what the headers of files take."""

Thresholds = list[tuple[float, ...]]
"""Those of each block, ascending."""


@dataclass(frozen=True)
class SelfSumsPlan:
    """What making self-sums will take, as far as a sample can tell before the work starts.

    pieces, pieces_done: of all blocks. seconds: of what is left. bytes: of the result. disk_bytes: what the work needs
    at most beside what it has written, with some to spare.
    """

    substrings: int
    thresholds: int
    pieces: int
    pieces_done: int
    seconds: float
    bytes: int
    disk_bytes: int


def add_self_sums(
    folder: Path,
    profiles: Sequence[Profile],
    *,
    backend: str = "tiles",
    announce: Callable[[SelfSumsPlan], None] = lambda plan: None,
    progress: Progress = silent,
) -> Manifest:
    """Give a snapshot the sums of all its substrings at the thresholds of some profiles; return its new manifest.

    Sums at other thresholds that it has are replaced; where it has these, nothing is done. announce: called once with
    what the work will take, before it starts. Raises what opening a snapshot and a backend raises, BackendError for an
    approximate backend, LimitError for counts beyond SUM_MAX, and OutputError where the disk refuses or has no room;
    what is done is kept then, and the same call continues it.
    """
    with (
        disk_errors("make room; what is done is kept, the same command continues it"),
        Datastore.open(folder, check="sizes") as datastore,
    ):
        work = part_folder(folder, SELF_SUMS_FOLDER)
        wanted = thresholds_of(profiles)
        if _has(datastore, wanted) and not work.exists():
            return datastore.manifest
        with claim(work, _identity(datastore, wanted)):
            manifest = datastore.manifest
            if not _has(datastore, wanted):
                if not _is_whole(folder, datastore, wanted):  # else it was stopped before the manifest was written
                    _make(datastore, backend, wanted, work, announce, progress)
                    _publish(folder, work / "whole", manifest)
                manifest = list_part(folder, SELF_SUMS_FOLDER, progress)
            clear(work)
            return manifest


def estimate_self_sums(folder: Path, profiles: Sequence[Profile], *, backend: str = "tiles") -> SelfSumsPlan:
    """Say what `add_self_sums` would take for the same arguments, or why it would be refused; writes nothing."""
    with disk_errors("make the snapshot writable"), Datastore.open(folder, check="sizes") as datastore:
        work, wanted = part_folder(folder, SELF_SUMS_FOLDER), thresholds_of(profiles)
        require_own(work, _identity(datastore, wanted))
        plan = _plan(_blocks(datastore, backend, wanted, work))
        if not _has(datastore, wanted):
            require_free_disk(work, plan.disk_bytes)
        return plan


def drop_self_sums(folder: Path) -> Manifest:
    """Take the self-sums and what unfinished work on them has left out of a snapshot; return its new manifest.

    A process that has them open keeps them until it closes the snapshot. Raises SnapshotError and its kinds, and
    OutputError where the disk refuses, or another process is at work on them.
    """
    read_manifest(folder)  # nothing is made in what is no snapshot
    work = part_folder(folder, SELF_SUMS_FOLDER)
    with disk_errors("make the snapshot writable; the same command continues"), claim(work, {}):
        manifest = drop_part(folder, SELF_SUMS_FOLDER)
        if (folder / SELF_SUMS_FOLDER).exists():
            shutil.rmtree(folder / SELF_SUMS_FOLDER)
        clear(work)
    return manifest


@dataclass(frozen=True)
class _Block:
    """The sums of one block on their way. order: [N], the ids of substrings as they are asked."""

    number: int
    index: Index
    thresholds: tuple[float, ...]
    order: Int64
    pieces: Path
    whole: Path

    @property
    def is_whole(self) -> bool:
        """Whether its files are all there; the offsets are written last."""
        return (self.whole / self_sums_files(self.number)["offsets"]).exists()

    def ids_of_pieces(self) -> list[Int64]:
        """The substrings of each piece."""
        return [self.order[part] for part in parts_of(len(self.order), PIECE_QUERIES)]

    def pieces_done(self) -> int:
        """How many pieces are there, or were before they were put together."""
        pieces = range(len(self.ids_of_pieces()))
        return sum(self.is_whole or store.piece_path(self.pieces, number).exists() for number in pieces)

    def run(self, tell: Callable[[int], None]) -> None:
        """Make what is missing. tell: called with the number of substrings whose sums are new, or found there."""
        if self.is_whole:
            tell(len(self.order))
        else:
            for number, ids in enumerate(self.ids_of_pieces()):
                path = store.piece_path(self.pieces, number)
                if path.exists():
                    tell(len(ids))
                else:
                    store.save_piece(path, list(self._asked(ids, tell)))
            store.assemble_block(self.pieces, self.ids_of_pieces(), len(self.thresholds), self.whole, self.number)
        if self.pieces.exists():
            shutil.rmtree(self.pieces)

    def sample(self) -> tuple[float, float]:
        """What a substring takes: seconds, and entries of all its rows."""
        starts = np.linspace(0, max(0, len(self.order) - SAMPLE_RUN), SAMPLE_RUNS).astype(np.int64)
        ids = self.order[np.unique(starts[:, None] + np.arange(min(SAMPLE_RUN, len(self.order))))]
        self._ask(ids[:1])  # compiles the search, or loads what was compiled
        started = time.perf_counter()
        entries = sum(len(rows.tokens) for rows in self._asked(ids, lambda substrings: None))
        return (time.perf_counter() - started) / len(ids), entries / len(ids)

    def _asked(self, ids: Int64, tell: Callable[[int], None]) -> Iterator[store.Rows]:
        sums_bytes = 8 * len(self.thresholds) * self.index.counts.vocabulary_size
        step = max(1, min(CALL_QUERIES_MAX, CALL_BYTES_MAX // max(1, sums_bytes)))
        for part in parts_of(len(ids), step):
            yield store.compressed(self._ask(ids[part]))
            tell(len(ids[part]))

    def _ask(self, ids: Int64) -> RangeSums:
        return self.index.range_sum(self.index.keys[ids], self.thresholds)


def _blocks(datastore: Datastore, backend: str, thresholds: Thresholds, work: Path) -> list[_Block]:
    """What is to be made of each block; raises BackendError and LimitError for what cannot be."""
    choice = choose(backend, "cpu", look(datastore, backend, "cpu"))
    indexes = open_indexes(datastore, choice.backend)
    if indexes[0].approximate:
        raise BackendError(
            f"the backend {choice.backend} is approximate, and self-sums are exact: choose tiles or exact",
            reason="APPROXIMATE_BACKEND",
        )
    total = int(datastore.counts.counts.sum(dtype=np.int64))
    if total > store.SUM_MAX:
        raise LimitError(
            f"the counts of {datastore.path} add up to {total:,}, and a self-sum is at most {store.SUM_MAX:,}: "
            "search without them",
            reason="CORPUS_TOO_LARGE",
        )
    return [
        _Block(number, index, of_block, _order(datastore, number), work / f"pieces/block-{number}", work / "whole")
        for number, (index, of_block) in enumerate(zip(indexes, thresholds, strict=True))
    ]


def _order(datastore: Datastore, block: int) -> Int64:
    """The ids as they are asked: near keys one after the other where that is known, for they open the same tiles."""
    if datastore.tiles is None:
        return np.arange(datastore.manifest.substrings)
    return datastore.tiles[block].order.astype(np.int64)


def _plan(blocks: Sequence[_Block]) -> SelfSumsPlan:
    """Ask a sample, and say what the whole takes."""
    N, seconds = len(blocks[0].order), 0.0
    whole_bytes, left_bytes, of_pieces_bytes = [], [], []
    pieces, pieces_done = len(blocks[0].ids_of_pieces()), [block.pieces_done() for block in blocks]
    for block, done in zip(blocks, pieces_done, strict=True):
        of_query, entries = block.sample()
        seconds += of_query * N * (1 - done / pieces)
        rows = len(block.thresholds)
        whole_bytes.append(int(N * (rows * store.ROW_BYTES + entries * store.ENTRY_BYTES)))
        left_bytes.append(0 if block.is_whole else whole_bytes[-1])
        of_pieces_bytes.append(int(N * (rows + entries) * store.PIECE_BYTES * (1 - done / pieces)))
    return SelfSumsPlan(
        substrings=N,
        thresholds=sum(len(block.thresholds) for block in blocks),
        pieces=pieces * len(blocks),
        pieces_done=sum(pieces_done),
        seconds=seconds,
        bytes=sum(whole_bytes),
        disk_bytes=int(SPARE * (sum(left_bytes) + max(of_pieces_bytes))) + HEADERS_BYTES,
    )


def _make(
    datastore: Datastore,
    backend: str,
    thresholds: Thresholds,
    work: Path,
    announce: Callable[[SelfSumsPlan], None],
    progress: Progress,
) -> None:
    """Make the sums of all blocks, one after the other: the pieces of one alone take room."""
    blocks = _blocks(datastore, backend, thresholds, work)
    plan = _plan(blocks)
    require_free_disk(work, plan.disk_bytes)
    announce(plan)
    done, total = 0, len(blocks) * plan.substrings

    def tell(substrings: int) -> None:
        nonlocal done
        done += substrings
        progress("self-sums", done, total)

    tell(0)
    for block in blocks:
        block.run(tell)
    store.save_thresholds(work / "whole", thresholds)


def _publish(folder: Path, whole: Path, manifest: Manifest) -> None:
    """Put the part, which is whole, into its place; until the manifest lists it, the snapshot has none."""
    if SELF_SUMS_FOLDER in manifest.parts:
        drop_part(folder, SELF_SUMS_FOLDER)
    if (folder / SELF_SUMS_FOLDER).exists():
        shutil.rmtree(folder / SELF_SUMS_FOLDER)
    (whole / SELF_SUMS_FOLDER).rename(folder / SELF_SUMS_FOLDER)
    sync(folder)


def _has(datastore: Datastore, thresholds: Thresholds) -> bool:
    """Whether a snapshot has the sums at these thresholds and no others."""
    return datastore.self_sums is not None and [of.thresholds for of in datastore.self_sums] == thresholds


def _is_whole(folder: Path, datastore: Datastore, thresholds: Thresholds) -> bool:
    """Whether the sums at these thresholds lie in the snapshot's folder, though its manifest may not say so."""
    try:
        found = store.load_self_sums(folder, datastore.manifest.blocks, datastore.manifest.substrings)
    except DamageError:
        return False
    return [of.thresholds for of in found] == thresholds


def _identity(datastore: Datastore, thresholds: Thresholds) -> Identity:
    """What must be the same for killed work to be continued; any exact backend gives the same pieces."""
    manifest = datastore.manifest
    names = [*map(keys_file, range(manifest.blocks)), OFFSETS_FILE, TOKENS_FILE, COUNTS_FILE]
    contents = [manifest.files[name].sha256 for name in names]
    return {
        "snapshot_sha256": hashlib.sha256(json.dumps(contents).encode()).hexdigest(),
        "set_of_thresholds": [list(of_block) for of_block in thresholds],
        "order_of_substrings": "ids" if datastore.tiles is None else "tiles",
        "piece_queries": PIECE_QUERIES,
    }

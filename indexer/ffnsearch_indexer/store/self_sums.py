"""The sums of every substring, kept beside its key: how they are read, and how they are written, piece by piece.

Shapes: N substrings, S thresholds of a block, M entries, V vocabulary, B ids that are asked for, n those of a piece.

A piece holds the sums of some substrings of a block until all of them are there; its ids are known by its number. It is
one array of uint32: how many entries each row has [n S], the numbers of neighbors [n S], tokens, sums.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.corpora.substrings import entries_of_rows
from ffnsearch_indexer.errors import DamageError
from ffnsearch_indexer.files import create_array, load_array, save_array, save_text, unreadable, write_whole
from ffnsearch_indexer.index.base import Int64, RangeSums
from ffnsearch_indexer.store.layout import SELF_SUMS_THRESHOLDS_FILE, self_sums_files
from ffnsearch_indexer.store.work import delete_step

Uint32 = NDArray[np.uint32]

SUM_MAX = 2**32 - 1
"""Largest sum that is kept: no corpus with fewer tokens has a larger one."""

ENTRY_BYTES = 6
"""Bytes of a token and its sum."""

ROW_BYTES = 12
"""Bytes of a row beside its entries: where it begins, and its number of neighbors."""


PIECE_BYTES = 8
"""Bytes of a row and of an entry in a piece."""


class SelfSums:
    """What each of N substrings finds in one block when it is asked with its own key. Read-only.

    thresholds: S of them, ascending. Row `id * S + s` holds the next-token counts above threshold s. offsets: [N S + 1]
    int64. tokens: [M] uint16, ascending in a row. sums: [M] uint32, at least 1. neighbors: [N, S] uint32.
    """

    def __init__(
        self,
        thresholds: Sequence[float],
        offsets: Int64,
        tokens: NDArray[np.uint16],
        sums: Uint32,
        neighbors: Uint32,
    ) -> None:
        self.thresholds = tuple(thresholds)
        self.offsets, self.tokens, self.sums, self.neighbors = offsets, tokens, sums, neighbors

    @cached_property
    def _places(self) -> dict[float, int]:
        return {threshold: place for place, threshold in enumerate(self.thresholds)}

    def has(self, thresholds: Sequence[float]) -> bool:
        """Whether the sums above all of these thresholds are here; they are compared to the bit."""
        return all(threshold in self._places for threshold in thresholds)

    def read(self, ids: Int64, thresholds: Sequence[float], vocabulary_size: int) -> RangeSums:
        """The sums of substrings [B] above thresholds that are here, in any order: what a search returns."""
        places = np.array([self._places[threshold] for threshold in thresholds], dtype=np.int64)
        rows = (ids[:, None] * len(self.thresholds) + places).ravel()
        firsts, lasts = self.offsets[rows], self.offsets[rows + 1]
        sizes = lasts - firsts
        entries = entries_of_rows(firsts, sizes)
        freq = np.zeros((len(rows), vocabulary_size), dtype=np.int64)
        freq[np.repeat(np.arange(len(rows)), sizes), self.tokens[entries]] = self.sums[entries]
        neighbors = self.neighbors[ids[:, None], places].astype(np.int64)
        return RangeSums(freq.reshape(len(ids), len(places), vocabulary_size), neighbors)


def load_self_sums(folder: Path, blocks: int, substrings: int) -> list[SelfSums]:
    """Map the sums of all blocks into memory.

    folder: of the snapshot, or of one on its way. Raises DamageError for files that are not those of such a snapshot.
    """
    return [_load_block(folder, block, of, substrings) for block, of in enumerate(load_thresholds(folder, blocks))]


def load_thresholds(folder: Path, blocks: int) -> list[tuple[float, ...]]:
    """At which thresholds the sums of each block are; raises DamageError where the file does not say so."""
    path = folder / SELF_SUMS_THRESHOLDS_FILE
    try:
        thresholds = [tuple(map(float, of_block)) for of_block in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise unreadable(path, error) from None
    is_ascending = all(low < high for of_block in thresholds for low, high in itertools.pairwise(of_block))
    if len(thresholds) != blocks or not is_ascending:
        raise DamageError(
            f"{path} does not hold ascending thresholds for {blocks} blocks: make the self-sums again",
            file=SELF_SUMS_THRESHOLDS_FILE,
        )
    return thresholds


def save_thresholds(folder: Path, thresholds: Sequence[Sequence[float]]) -> None:
    """Write at which thresholds the sums of each block are."""
    save_text(folder / SELF_SUMS_THRESHOLDS_FILE, json.dumps([list(of_block) for of_block in thresholds]) + "\n")


def piece_path(pieces: Path, number: int) -> Path:
    """Where a piece of a block is kept."""
    return pieces / f"piece-{number:05}.npy"


class Rows(NamedTuple):
    """The sums of n substrings in compressed rows.

    sizes: entries of each row, [n, S] int64. neighbors: [n, S]. tokens, sums: [m], row after row; all uint32.
    """

    sizes: Int64
    neighbors: Uint32
    tokens: Uint32
    sums: Uint32


def compressed(found: RangeSums) -> Rows:
    """What a search found for some substrings, no sum above SUM_MAX."""
    places = np.nonzero(found.freq)
    sizes = np.count_nonzero(found.freq, axis=2).astype(np.int64)
    tokens, sums = places[2].astype(np.uint32), found.freq[places].astype(np.uint32)
    return Rows(sizes, found.neighbors.astype(np.uint32), tokens, sums)


def save_piece(path: Path, parts: Sequence[Rows]) -> None:
    """Write the sums of some substrings, one part after the other, whole or not at all."""
    columns = (np.concatenate([array.ravel() for array in arrays]) for arrays in zip(*parts, strict=True))
    save_array(path, np.concatenate([column.astype(np.uint32) for column in columns]))


def assemble_block(pieces: Path, ids_of_pieces: Sequence[Int64], thresholds: int, out: Path, block: int) -> None:
    """Put the pieces of a block together, in the order of ids; a file that is there is whole, and left as it is.

    ids_of_pieces: for each piece, the substrings that it holds; together they are 0 to N - 1. thresholds: S. out: the
    folder of a snapshot, or of one on its way.
    """
    N = sum(map(len, ids_of_pieces))
    paths = {name: out / file for name, file in self_sums_files(block).items()}
    sizes, neighbors = np.zeros((N, thresholds), dtype=np.int64), np.zeros((N, thresholds), dtype=np.uint32)
    for ids, piece in _load_pieces(pieces, ids_of_pieces, thresholds):
        sizes[ids], neighbors[ids] = piece.sizes, piece.neighbors
    offsets = np.append(0, np.cumsum(sizes))

    def write(field: str, dtype: type, path: Path) -> None:
        array = create_array(path, dtype, (int(offsets[-1]),))
        firsts = offsets[:-1].reshape(N, thresholds)
        for ids, piece in _load_pieces(pieces, ids_of_pieces, thresholds):
            array[entries_of_rows(firsts[ids].ravel(), piece.sizes.ravel())] = getattr(piece, field)
        array.flush()

    for field, dtype in (("tokens", np.uint16), ("sums", np.uint32)):
        if not paths[field].exists():
            write_whole(paths[field], partial(write, field, dtype))
    save_array(paths["neighbors"], neighbors)
    save_array(paths["offsets"], offsets)  # the last: a block with offsets is whole


def _load_pieces(pieces: Path, ids_of_pieces: Sequence[Int64], thresholds: int) -> Iterator[tuple[Int64, Rows]]:
    for number, ids in enumerate(ids_of_pieces):
        path, next_step = piece_path(pieces, number), delete_step(pieces)
        values = load_array(path, np.uint32, (None,), next_step=next_step)
        rows = len(ids) * thresholds
        entries = int(values[:rows].sum(dtype=np.int64))
        if len(values) != 2 * (rows + entries):
            raise DamageError(f"{path} has another length than it says: {next_step}", file=path.name)
        sizes, neighbors, tokens, sums = np.split(values, np.cumsum([rows, rows, entries]))
        shape = len(ids), thresholds
        yield ids, Rows(sizes.reshape(shape).astype(np.int64), neighbors.reshape(shape), tokens, sums)


def _load_block(folder: Path, block: int, thresholds: tuple[float, ...], substrings: int) -> SelfSums:
    files, rows = self_sums_files(block), substrings * len(thresholds)
    offsets = load_array(folder / files["offsets"], np.int64, (rows + 1,))
    entries = int(offsets[-1])
    if offsets[0] != 0 or entries < 0:
        raise DamageError(
            f"{folder / files['offsets']} does not begin at 0: make the self-sums again", file=files["offsets"]
        )
    return SelfSums(
        thresholds,
        offsets,
        load_array(folder / files["tokens"], np.uint16, (entries,)),
        load_array(folder / files["sums"], np.uint32, (entries,)),
        load_array(folder / files["neighbors"], np.uint32, (substrings, len(thresholds))),
    )

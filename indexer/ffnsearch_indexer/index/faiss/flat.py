"""faiss' flat inner-product index on a CPU, made exact by the shared rule."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from ffnsearch_indexer.corpora.substrings import NextTokenCounts
from ffnsearch_indexer.index.base import Float16, Float32
from ffnsearch_indexer.index.faiss.library import library
from ffnsearch_indexer.index.scan import Pairs, ScanIndex
from ffnsearch_indexer.parts import parts_of

BLAS_QUERIES = 3
"""From how many queries on faiss multiplies matrices; by default it waits for 128,000 / D, ten times slower at 64."""

HEADER_BYTES = 1 << 12
"""More than faiss writes into a file beside vectors, centres and ids."""


def flat_bytes(substrings: int, d_model: int) -> int:
    """How many bytes the flat index of one block takes, at most, on disk and in memory."""
    return 4 * substrings * d_model + HEADER_BYTES


def flat_of(keys: Float16) -> Any:
    """Put keys [N, D] into an `IndexFlatIP`. No more than its 4 N D bytes are needed."""
    flat = library().IndexFlatIP(keys.shape[1])
    flat.codes.resize(4 * keys.size)  # adding part by part would move all that is there already
    flat.ntotal = len(keys)
    _vectors(flat)[:] = keys
    return flat


class FaissFlatIndex(ScanIndex):
    """Scores by the range search of `IndexFlatIP` over tiles of ids, its radius lowered by a float32 score's error.

    flat: the index of these keys, which may be mapped; else it is made at the first search: 4 N D bytes that stay. A
    search takes up to 70 bytes for each pair of a tile and `queries_max` queries: about 150 MB when all match.

    faiss brings its own OpenBLAS and OpenMP, torch has others: each keeps a pool of threads, so set
    OMP_NUM_THREADS where both must share few cores. The settings in `faiss.cvar` are the process'.
    """

    tile_keys: ClassVar[int] = 16_384
    queries_max: ClassVar[int] = 128

    def __init__(self, keys: Float16, counts: NextTokenCounts, flat: Any = None) -> None:
        super().__init__(keys, counts)
        assert flat is None or (flat.ntotal, flat.d) == keys.shape, "the flat index is that of the keys"
        self._given = flat

    def scan(self, queries: Float16, cut_score: np.float32, ids: range) -> Iterator[Pairs]:
        """Search the tiles that `ids` touches, some queries at a time; the contract is the base's."""
        vectors = queries.astype(np.float32)
        for tile in self._tiles(ids):
            inside = range(max(tile.start, ids.start), min(tile.stop, ids.stop))
            for part in parts_of(len(vectors), self.queries_max):
                pairs = self._search_tile(inside, vectors[part], cut_score)
                yield Pairs(pairs.rows + part.start, pairs.ids, pairs.scores)

    def _tiles(self, ids: range) -> list[range]:
        """The tiles that have some of `ids`, whole: the same whatever else is asked for."""
        if not ids:
            return []
        first = ids.start - ids.start % self.tile_keys
        return [range(len(self.keys))[at : at + self.tile_keys] for at in range(first, ids.stop, self.tile_keys)]

    def _search_tile(self, tile: range, vectors: Float32, cut_score: np.float32) -> Pairs:
        """What `IndexFlatIP.range_search` does, with some of the vectors of one index in place of a copy of them."""
        faiss, (B, D) = library(), vectors.shape
        faiss.cvar.distance_compute_blas_threshold = BLAS_QUERIES * D
        found = faiss.RangeSearchResult(B)
        keys = self._vectors[tile.start : tile.stop]
        faiss.range_search_inner_product(
            faiss.swig_ptr(vectors), faiss.swig_ptr(keys), D, B, len(tile), float(cut_score), found
        )
        lims = faiss.rev_swig_ptr(found.lims, B + 1).astype(np.int64)
        columns = faiss.rev_swig_ptr(found.labels, int(lims[-1])) + tile.start
        scores = faiss.rev_swig_ptr(found.distances, int(lims[-1])).copy()
        return Pairs(np.repeat(np.arange(B), np.diff(lims)), columns, scores)

    @cached_property
    def flat(self) -> Any:
        """The index that was given, or one made here."""
        return flat_of(self.keys) if self._given is None else self._given

    @cached_property
    def _vectors(self) -> Float32:
        return _vectors(self.flat)


def _vectors(flat: Any) -> Float32:
    """The vectors [N, D] in a flat index: the same memory."""
    vectors: Float32 = library().rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)
    return vectors

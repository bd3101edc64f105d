"""What races whom: our backends, and faiss used as well as we know, all answering the same question exactly.

Shapes: B queries, N substrings, D d_model, S thresholds.

Every backend may use all cores at any batch size. `tiles` and `exact` spread over them by themselves. faiss spreads
over queries alone, so it would leave cores idle at batch 1, and filter on one of them always: `SideBySide` gives
each core its share of the queries, or of the keys where there are fewer queries than cores.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import faiss
import numpy as np
import torch

from ffnsearch_indexer.corpora.substrings import NextTokenCounts
from ffnsearch_indexer.index.base import Float16, Float32, Index, RangeSums
from ffnsearch_indexer.index.exact import ExactIndex
from ffnsearch_indexer.index.faiss.flat import FaissFlatIndex
from ffnsearch_indexer.index.scan import Pairs, ScanIndex
from ffnsearch_indexer.index.tiled import TiledIndex
from ffnsearch_indexer.index.tiles import ENDING_TOKENS, Tiles, tiles_of
from ffnsearch_indexer.store.datastore import Datastore

RangeSum = Callable[[Float16, Sequence[float]], RangeSums]

BACKENDS = {
    "tiles": "TiledIndex: tiles of near keys, decided by bounds",
    "exact": "ExactIndex: float32 matrix products of all pairs",
    "faiss-flat": "IndexFlatIP: BLAS from 3 queries on, tiles of 16,384 keys and 128 queries, each core its share",
    "faiss-panorama": "IndexFlatIPPanorama: 16 levels after a rotation by PCA, tiles as above, each core its share",
}
"""The backends by name, and how each is used."""

FAISS = tuple(name for name in BACKENDS if name.startswith("faiss"))

EXACT_QUERIES_MAX = 512
"""Queries in a call of `exact` from which on one costs the same in any larger call: a tile of scores has 384."""

PCA_KEYS = 1 << 14
"""Keys that the rotation is found from."""


class PanoramaIndex(ScanIndex):
    """faiss' Panorama: dimensions in levels, after each of which keys that cannot reach the threshold are dropped.

    The rotation adds to the error of a float32 score what `base.score_error` does not cover by proof; in practice the
    error is a twentieth of that, and every integer that a benchmark reads is compared with those of `exact`. In tiles
    of 16,384 keys the first levels stay in the cache for all queries: 1.6 times as fast as one index of all keys.
    """

    tile_keys: ClassVar[int] = 16_384
    queries_max: ClassVar[int] = 128
    levels: ClassVar[int] = 16

    def scan(self, queries: Float16, cut_score: np.float32, ids: range) -> Iterator[Pairs]:
        """Search all tiles, some queries at a time; the contract is the base's, for all ids."""
        assert ids == range(len(self.keys)), "a benchmark sums over all keys"
        rotated = self._rotated(queries)
        for number, tile in enumerate(self._tiles):
            for row in range(0, len(rotated), self.queries_max):
                lims, scores, columns = tile.range_search(rotated[row : row + self.queries_max], float(cut_score))
                rows = np.repeat(np.arange(len(lims) - 1), np.diff(lims.astype(np.int64)))
                yield Pairs(rows + row, columns + number * self.tile_keys, scores)

    def _rotated(self, vectors: Float16) -> Float32:
        rotated: Float32 = vectors.astype(np.float32) @ self._basis
        return rotated

    @cached_property
    def _basis(self) -> Float32:
        """The eigenvectors of the second moments, largest first; not centred, which would change inner products."""
        sample = self.keys[:: max(1, len(self.keys) // PCA_KEYS)].astype(np.float64)
        return np.ascontiguousarray(np.linalg.eigh(sample.T @ sample).eigenvectors[:, ::-1], dtype=np.float32)

    @cached_property
    def _tiles(self) -> list[Any]:
        tiles = []
        for first in range(0, len(self.keys), self.tile_keys):
            tiles.append(faiss.IndexFlatIPPanorama(self.keys.shape[1], min(self.levels, self.keys.shape[1])))
            tiles[-1].add(self._rotated(self.keys[first : first + self.tile_keys]))
        return tiles


class SideBySide:
    """Range sums of one kind of scanning index on several threads, one core each."""

    def __init__(self, kind: type[ScanIndex], keys: Float16, counts: NextTokenCounts, threads: int) -> None:
        edges = [len(keys) * share // threads for share in range(threads + 1)]
        self._parts = [kind(keys[a:b], rows_of(counts, range(a, b))) for a, b in pairwise(edges) if b > a]
        self._pool = ThreadPoolExecutor(threads, initializer=faiss.omp_set_num_threads, initargs=(1,))
        self._threads = threads

    def range_sum(self, queries: Float16, thresholds: Sequence[float]) -> RangeSums:
        """The contract of `Index.range_sum`."""
        if len(queries) < self._threads:
            return _added(list(self._pool.map(lambda part: part.range_sum(queries, thresholds), self._parts)))
        sums = list(self._pool.map(lambda own: self._sum(own, thresholds), np.array_split(queries, self._threads)))
        return RangeSums(*(np.concatenate(arrays) for arrays in zip(*sums, strict=True)))

    def _sum(self, queries: Float16, thresholds: Sequence[float]) -> RangeSums:
        return _added([part.range_sum(queries, thresholds) for part in self._parts])


def open_backend(
    name: str, keys: Float16, counts: NextTokenCounts, make_tiles: Callable[[], Tiles], threads: int
) -> RangeSum:
    """The range sums of one backend, on so many threads; it is ready after a first search."""
    kinds: dict[str, type[ScanIndex]] = {"faiss-flat": FaissFlatIndex, "faiss-panorama": PanoramaIndex}
    if name in kinds:
        return SideBySide(kinds[name], keys, counts, threads).range_sum
    torch.set_num_threads(threads)
    index: Index = TiledIndex(keys, counts, make_tiles()) if name == "tiles" else ExactIndex(keys, counts)
    return index.range_sum


def tiles(datastore: Datastore, block: int) -> Tiles:
    """The tiles of a block: the snapshot's, or made here as `ffnsearch index` would."""
    if datastore.tiles:
        return datastore.tiles[block]
    return tiles_of(datastore.keys[block], datastore.counts, datastore.substring_tokens()[:, -ENDING_TOKENS:])


def queries_max(name: str, threads: int) -> int | None:
    """From how many queries in a call on a backend does the same for each, whatever their number; None: never."""
    share = {"faiss-flat": FaissFlatIndex.queries_max, "faiss-panorama": PanoramaIndex.queries_max}
    if name in share:
        return share[name] * threads
    return EXACT_QUERIES_MAX if name == "exact" else None


def rows_of(counts: NextTokenCounts, ids: range) -> NextTokenCounts:
    """The counts of some substrings."""
    offsets = counts.offsets[ids.start : ids.stop + 1]
    part = slice(offsets[0], offsets[-1])
    return NextTokenCounts(offsets - offsets[0], counts.tokens[part], counts.counts[part], counts.vocabulary_size)


def differing(one: RangeSums, other: RangeSums) -> int:
    """How many integers of two answers to the same queries differ."""
    return int((one.freq != other.freq).sum() + (one.neighbors != other.neighbors).sum())


def _added(sums: list[RangeSums]) -> RangeSums:
    return RangeSums(sum(part.freq for part in sums), sum(part.neighbors for part in sums))

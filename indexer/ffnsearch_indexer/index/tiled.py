"""The fast exact backend for CPUs: bounds decide most keys, whole tiles at a time, and few keys are read.

Shapes: B queries, n tiles of 32 keys, D d_model, E = D rounded up to a multiple of 32, S thresholds, V vocabulary.

1. Queries are multiplied with all centres, a few tiles at a time, and each tile that is above or below every threshold
   as a whole is decided by that, with its summed counts.
2. Where a tile is left open, 32 dimensions of its keys bound their scores from above: most are below every threshold.
3. Where one is not, all dimensions of the tile's keys, as int8, bound the scores closely from both sides.
4. Only pairs that a threshold still lies between read the key itself: a float32 score, and where that is too close, the
   exact one.

The products of the first three are of bfloat16 numbers, in instructions made for them where the processor has some
(`hardware.matrix`); where a tile has few queries, of whole numbers. The bounds, and why they hold, are in `tiles`.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cached_property, partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ffnsearch_indexer.corpora.substrings import NextTokenCounts
from ffnsearch_indexer.hardware.matrix import WAYS
from ffnsearch_indexer.hardware.vectors import COLUMNS, aligned, aligned_zeros
from ffnsearch_indexer.index.base import (
    Checkpoint,
    Float16,
    Float32,
    Float64,
    Index,
    Int64,
    Neighbors,
    RangeSums,
    exact_scores,
    join_neighbors,
    levels_above,
    nobody_waits,
    score_error,
)
from ffnsearch_indexer.index.sums import SumAccumulator
from ffnsearch_indexer.index.tile_search import FEW, WHOLE_ROUNDINGS, Queries, candidates, rounded, sum_tiles
from ffnsearch_indexer.index.tiles import GROUP_TILES, NORM_MAX, TILE_KEYS, Tiles, padded, slack, tiles_of
from ffnsearch_indexer.parts import parts_of

QUERIES_MAX = 512
"""Queries that are searched together: what is read of a tile serves all, and they stay in a core's cache."""

PAIRS_MAX = 1 << 21
"""Pairs of queries and tiles between two checkpoints."""

CANDIDATES_MAX = 1 << 20
"""Most pairs of queries and keys that are listed between two checkpoints."""

COPIES_BYTES_MAX = 1 << 28
"""Where the sums of all threads would take more, threads share out the queries instead of the tiles."""


class _Part(NamedTuple):
    """Some of the queries of a search, and the first tile that they have not seen: [1]."""

    rows: slice
    queries: Queries
    next_tile: Int64


class TiledIndex(Index):
    """Tiles of near keys, decided by bounds. The tiles are given, or made here (`tiles_of`).

    A search runs on as many threads as torch may use where it is called. It takes some 10 MB a thread beside the
    result, and a result for each thread where these take COPIES_BYTES_MAX at most or there are fewer queries than
    threads.
    """

    queries_max: ClassVar[int] = QUERIES_MAX
    pairs_max: ClassVar[int] = PAIRS_MAX
    candidates_max: ClassVar[int] = CANDIDATES_MAX

    def __init__(self, keys: Float16, counts: NextTokenCounts, tiles: Tiles | None = None) -> None:
        super().__init__(keys, counts)
        made = tiles_of(keys, counts) if tiles is None else tiles
        assert len(made.order) == len(keys), "the tiles are those of the keys"
        self.tiles = Tiles(*(_fixed(array) for array in made))
        self._way = WAYS[-1]
        self._pools: dict[int, ThreadPoolExecutor] = {}
        self._bits = _fixed(self.keys.view(np.uint16))

    def range_sum(
        self, queries: Float16, thresholds: Sequence[float], *, checkpoint: Checkpoint = nobody_waits
    ) -> RangeSums:
        """Decide tile by tile, then pair by pair; the contract is the base's."""
        self.begin(queries, thresholds, checkpoint)
        threads = torch.get_num_threads()
        results = [SumAccumulator(len(queries), thresholds, self.counts)]
        if not results[0].freq.size:
            return results[0].sums()
        by_tile = len(queries) < threads or threads * results[0].freq.nbytes <= COPIES_BYTES_MAX
        if by_tile:
            results += [SumAccumulator(len(queries), thresholds, self.counts) for _ in range(threads - 1)]
        most = self.queries_max if by_tile else min(self.queries_max, -(-len(queries) // threads))
        parts = [
            _Part(rows, self._prepared(queries[rows]), np.zeros(1, np.int64)) for rows in parts_of(len(queries), most)
        ]
        work = parts if by_tile else iter(parts)  # of which each thread takes all, or what no other one has taken
        add = partial(self._add, work, checkpoint=checkpoint)
        if threads == 1:
            add(results[0])
        else:
            futures = [self._pool(threads).submit(add, results[thread % len(results)]) for thread in range(threads)]
            wait(futures)  # all of them, so that nothing of a cancelled search goes on
            for future in futures:
                future.result()
        for other in results[1:]:
            results[0].merge(other)
        return results[0].sums()

    def range_search(
        self, queries: Float16, threshold: float, *, ids: range | None = None, checkpoint: Checkpoint = nobody_waits
    ) -> Neighbors:
        """Compute the exact score of every pair that bounds do not rule out; the contract is the base's."""
        self.begin(queries, [threshold], checkpoint)
        searched = self.require_ids(ids)
        limits = np.array([threshold], np.float64)
        found = []
        for rows in parts_of(len(queries), self.queries_max):
            prepared = self._prepared(queries[rows])
            step = _whole_groups(self.candidates_max // (len(prepared.vectors) * TILE_KEYS))
            for tiles in parts_of(self._tiles, step):
                row, key = candidates(tiles.start, tiles.stop, prepared, self.tiles, _comparable(limits), self._way)
                inside = np.flatnonzero((key >= searched.start) & (key < searched.stop))
                row, key = row[inside] + rows.start, key[inside]
                scores = exact_scores(queries, self.keys, row, key)
                is_above = np.flatnonzero(levels_above(scores, limits))
                found.append((row[is_above], key[is_above], scores[is_above]))
                checkpoint()
        return join_neighbors(found, len(queries))

    def _add(self, parts: Iterable[_Part], result: SumAccumulator, *, checkpoint: Checkpoint) -> None:
        """Add to a result what parts of the queries find in tiles, until other threads have taken all that is left."""
        limits = _comparable(result.thresholds)
        for part in parts:
            freq, neighbors = result.rows(part.rows)
            while part.next_tile[0] < self._tiles and self._sum_some(part, result, limits, freq, neighbors):
                checkpoint()

    def _sum_some(self, part: _Part, result: SumAccumulator, limits: Float32, freq: Int64, neighbors: Int64) -> bool:
        """Add what queries find in the next tiles, as many as are searched between two checkpoints."""
        tiles_max = _whole_groups(self.pairs_max // len(part.queries.vectors))
        arrays = self.tiles, self._bits, result.thresholds, limits, result.order, freq, neighbors
        return sum_tiles(part.next_tile, self._tiles, tiles_max, part.queries, *arrays, self._way) > 0

    @property
    def _tiles(self) -> int:
        return len(self.tiles.offsets) - 1

    def _prepared(self, queries: Float16) -> Queries:
        """Rotate queries [B, D] and round them."""
        (B, D), width = queries.shape, len(self._basis)
        vectors = np.zeros((B, width), np.float32)
        vectors[:, :D] = queries
        panels = aligned_zeros((-(-B // COLUMNS), width // 2, COLUMNS, 2), np.uint16)
        measured = rounded(vectors, self._basis, panels, max(D, WHOLE_ROUNDINGS) * 2.0**-24 * NORM_MAX)
        return Queries(vectors, panels.view(np.uint32)[..., 0], *measured, self._slack, score_error(D), FEW[self._way])

    def _pool(self, threads: int) -> ThreadPoolExecutor:
        """Threads of this index, which stay: to start them would take longer than one query."""
        if threads not in self._pools:
            self._pools[threads] = ThreadPoolExecutor(threads, "tiles")
        return self._pools[threads]

    @cached_property
    def _basis(self) -> Float32:
        """The basis [E, E]: zeros are behind what tiles have of it."""
        basis = self.tiles.basis
        missing = padded(len(basis)) - len(basis)
        return np.pad(basis, ((0, missing), (0, missing)))

    @cached_property
    def _slack(self) -> np.float32:
        return np.float32(slack(self.tiles.basis))


def _fixed(array: NDArray[Any]) -> NDArray[Any]:
    """A plain array that `multiply` and the compiled code of all indexes take: aligned, and not to be written."""
    fixed = np.asarray(aligned(array)).view()
    fixed.flags.writeable = False
    return fixed


def _comparable(thresholds: Float64) -> Float32:
    """Thresholds as bounds are compared with them: no score is beyond -2 or 2, and `slack` covers what is rounded."""
    return thresholds.clip(-2, 2).astype(np.float32)


def _whole_groups(tiles: int) -> int:
    """A number of tiles that is a multiple of a group's, and not 0."""
    return max(1, tiles // GROUP_TILES) * GROUP_TILES

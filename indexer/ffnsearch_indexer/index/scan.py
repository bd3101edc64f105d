"""What the backends share that compute a float32 score for every pair: only how they do so differs."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ffnsearch_indexer.index.base import (
    Checkpoint,
    Float16,
    Float32,
    Float64,
    Index,
    Int64,
    Neighbors,
    RangeSums,
    cut,
    decide,
    exact_scores,
    join_neighbors,
    levels_above,
    nobody_waits,
)
from ffnsearch_indexer.index.sums import SumAccumulator
from ffnsearch_indexer.parts import parts_of

PAIRS_MAX = 1 << 17
"""Most pairs that are decided at once, between two checkpoints."""


class Pairs(NamedTuple):
    """Pairs of a query and a key, and their float32 scores. rows: [M] int64. ids: [M] int64. scores: [M] float32."""

    rows: Int64
    ids: Int64
    scores: Float32


class ScanIndex(Index):
    """An index that reads all keys and leaves every decision to the shared rule."""

    @abstractmethod
    def scan(self, queries: Float16, cut_score: np.float32, ids: range) -> Iterator[Pairs]:
        """Yield, tile by tile and in any order, each pair with an id in `ids` and a float32 score above `cut_score`.

        A tile without such pairs is yielded too, so that the work can be cancelled there.
        """

    def range_sum(
        self, queries: Float16, thresholds: Sequence[float], *, checkpoint: Checkpoint = nobody_waits
    ) -> RangeSums:
        """Sum pair by pair, each at the highest threshold it exceeds; the contract is the base's."""
        self.begin(queries, thresholds, checkpoint)
        sums = SumAccumulator(len(queries), thresholds, self.counts)
        if len(thresholds):
            for pairs in self._candidates(queries, min(thresholds), range(len(self.keys)), checkpoint):
                sums.add(pairs.rows, pairs.ids, decide(queries, self.keys, *pairs, sums.thresholds))
        return sums.sums()

    def range_search(
        self, queries: Float16, threshold: float, *, ids: range | None = None, checkpoint: Checkpoint = nobody_waits
    ) -> Neighbors:
        """Compute the exact score of every pair that may be above the threshold; the contract is the base's."""
        self.begin(queries, [threshold], checkpoint)
        searched = self.require_ids(ids)
        found: list[tuple[Int64, Int64, Float64]] = []
        for pairs in self._candidates(queries, threshold, searched, checkpoint):
            scores = exact_scores(queries, self.keys, pairs.rows, pairs.ids)
            above = np.flatnonzero(levels_above(scores, np.array([threshold])))
            found.append((pairs.rows[above], pairs.ids[above], scores[above]))
        return join_neighbors(found, len(queries))

    def _candidates(self, queries: Float16, threshold: float, ids: range, checkpoint: Checkpoint) -> Iterator[Pairs]:
        """Yield every pair that may be above the threshold, PAIRS_MAX at a time."""
        if not len(queries):
            return
        for pairs in self.scan(queries, cut(threshold, self.keys.shape[1]), ids):
            for part in parts_of(len(pairs.ids), PAIRS_MAX):
                yield Pairs(pairs.rows[part], pairs.ids[part], pairs.scores[part])
                checkpoint()
            checkpoint()

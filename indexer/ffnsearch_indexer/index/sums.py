"""How decided pairs become sums: each pair's next-token counts, added at its highest level."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.corpora.substrings import NextTokenCounts
from ffnsearch_indexer.hardware.compiled import numba
from ffnsearch_indexer.index.base import Int64, RangeSums


class SumAccumulator:
    """The running sums of B queries at S thresholds; `sums` ends it.

    thresholds: [S] float64, ascending; a pair of level l exceeds the first l of them. order: [S] int64, the place of
    each in the caller's order. freq: [B, S, V] and neighbors: [B, S] int64, in the caller's order: a pair is added only
    at the highest threshold that it exceeds, `order[level - 1]`.
    """

    def __init__(self, queries: int, thresholds: Sequence[float], counts: NextTokenCounts) -> None:
        wanted = np.asarray(thresholds, dtype=np.float64)
        self.order = np.argsort(wanted, kind="stable")
        self._counts = counts
        self.freq = np.zeros((queries, len(wanted), counts.vocabulary_size), dtype=np.int64)
        self.neighbors = np.zeros((queries, len(wanted)), dtype=np.int64)
        self.thresholds = wanted[self.order]

    def rows_within(self, size_bytes: int) -> int:
        """How many queries have sums that fit in `size_bytes` together; at least one."""
        levels, vocabulary_size = self.freq.shape[1:]
        return max(1, size_bytes // max(1, levels * (vocabulary_size + 1) * self.freq.itemsize))

    def add(self, rows: Int64, ids: Int64, levels: Int64) -> None:
        """Add pairs [M] by level: how many thresholds a pair exceeds; those of level 0 exceed none."""
        counts = self._counts
        arrays = (counts.offsets, counts.tokens, counts.counts)
        _add(self.freq, self.neighbors, self.order, *arrays, rows, ids, levels)

    def add_sums(self, queries: slice, found: Int64) -> None:
        """Add for some queries [b, S, V + 1] what is at each ascending level alone; the last column is neighbors."""
        self.freq[queries, self.order] += found[:, :, :-1]
        self.neighbors[queries, self.order] += found[:, :, -1]

    def rows(self, part: slice) -> tuple[Int64, Int64]:
        """Freq and neighbors of some queries: the same memory."""
        return self.freq[part], self.neighbors[part]

    def merge(self, other: "SumAccumulator") -> None:
        """Add what another found with other keys, for the same queries and thresholds."""
        self.freq += other.freq
        self.neighbors += other.neighbors

    def sums(self) -> RangeSums:
        """The sums above each threshold, in the caller's order: what exceeds one exceeds all lower ones."""
        for lower, higher in zip(self.order[-2::-1], self.order[:0:-1], strict=True):
            self.freq[:, lower] += self.freq[:, higher]
            self.neighbors[:, lower] += self.neighbors[:, higher]
        return RangeSums(self.freq, self.neighbors)


@numba.njit(nogil=True, cache=True)
def _add(
    freq: Int64,
    neighbors: Int64,
    order: Int64,
    offsets: Int64,
    tokens: NDArray[np.uint16],
    counts: NDArray[np.uint32],
    rows: Int64,
    ids: Int64,
    levels: Int64,
) -> None:
    """Add the counts of each pair at its highest threshold: freq [B, S, V], neighbors [B, S]."""
    for pair in range(len(ids)):
        if levels[pair] == 0:
            continue
        row, step, substring_id = rows[pair], order[levels[pair] - 1], ids[pair]
        neighbors[row, step] += 1
        for entry in range(offsets[substring_id], offsets[substring_id + 1]):
            freq[row, step, tokens[entry]] += counts[entry]

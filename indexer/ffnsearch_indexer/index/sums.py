"""How decided pairs become sums: each pair's next-token counts, added at its highest level."""

from collections.abc import Sequence

import numpy as np

from ffnsearch_indexer.corpora.substrings import NextTokenCounts
from ffnsearch_indexer.index.base import Int64, RangeSums

ENTRIES_MAX = 1 << 20
"""Most counts that are unfolded at once, unless one substring alone has more: 40 MB."""


class SumAccumulator:
    """The running sums of B queries at S thresholds; `sums` ends it.

    thresholds: [S] float64, ascending, what the levels of `add` refer to.
    """

    def __init__(self, queries: int, thresholds: Sequence[float], counts: NextTokenCounts) -> None:
        wanted = np.asarray(thresholds, dtype=np.float64)
        assert not np.isnan(wanted).any(), "thresholds are numbers"
        self._order = np.argsort(wanted, kind="stable")
        self._counts = counts
        self._freq = np.zeros((queries, len(wanted), counts.vocabulary_size), dtype=np.int64)
        self._neighbors = np.zeros((queries, len(wanted)), dtype=np.int64)
        self.thresholds = wanted[self._order]

    def add(self, rows: Int64, ids: Int64, levels: Int64) -> None:
        """Add pairs [M] by level: how many thresholds a pair exceeds; those of level 0 exceed none."""
        above = np.flatnonzero(levels)
        ids = ids[above]
        cells = rows[above] * len(self._order) + self._order[levels[above] - 1]
        np.add.at(self._neighbors.reshape(-1), cells, 1)
        self._add_counts(cells, ids)

    def sums(self) -> RangeSums:
        """The sums above each threshold, in the caller's order: what exceeds one exceeds all lower ones."""
        for lower, higher in zip(self._order[-2::-1], self._order[:0:-1], strict=True):
            self._freq[:, lower] += self._freq[:, higher]
            self._neighbors[:, lower] += self._neighbors[:, higher]
        return RangeSums(self._freq, self._neighbors)

    def _add_counts(self, cells: Int64, ids: Int64) -> None:
        """Add the counts of substrings `ids` [M] to the cells [M] of freq seen as [B*S, V]."""
        starts = self._counts.offsets[ids]
        lengths = self._counts.offsets[ids + 1] - starts
        ends = np.cumsum(lengths)
        if len(ids) > 1 and ends[-1] > ENTRIES_MAX:
            half = len(ids) // 2
            self._add_counts(cells[:half], ids[:half])
            self._add_counts(cells[half:], ids[half:])
        elif len(ids):
            entries = np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)
            places = np.repeat(cells * self._counts.vocabulary_size, lengths) + self._counts.tokens[entries]
            np.add.at(self._freq.reshape(-1), places, self._counts.counts[entries].astype(np.int64))

"""Answers that need no search, to compare with: own next tokens, unigram, and a back-off n-gram.

Shapes: B prompts, L window, N substrings, V vocabulary, M entries of counts.
"""

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.corpora.substrings import NextTokenCounts
from ffnsearch_indexer.fidelity.windows import SortedWindows

Int64 = NDArray[np.int64]

NAMES = ("own_next_tokens", "unigram", "backoff_ngram")


class Baselines:
    """What follows each suffix in the indexed text. Memory is about 2 L + 60 bytes a substring.

    windows: [N, L] uint16 by id, with the counts of the same ids.
    """

    def __init__(self, windows: NDArray[np.uint16], counts: NextTokenCounts) -> None:
        self._counts = counts
        self._suffixes = SortedWindows(windows[:, ::-1], counts.vocabulary_size)
        entries, self._offsets = _permuted(counts.offsets, self._suffixes.order)
        self._tokens = counts.tokens[entries]
        self._frequencies = counts.counts[entries]
        self._mass_before = np.concatenate([[0], np.cumsum(self._frequencies, dtype=np.int64)])
        self._totals = self._sum(0, len(entries))  # asked for often, and long

    def freqs(self, prompts: NDArray[np.uint16], own_ids: Int64, *, exclude_self: bool) -> dict[str, Int64]:
        """The sums of counts [B, V] of each baseline, by name, for prompts [B, L].

        own_ids: [B], the substring equal to each prompt, -1 where there is none; with `exclude_self` its row is
        taken out of every sum. The n-gram is the longest suffix of the prompt, L tokens down to none, after
        which something follows.
        """
        own = self._rows(own_ids)
        excluded = own if exclude_self else np.zeros_like(own)
        first, last = (self._offsets[places] for places in self._suffixes.beginning_like(prompts[:, ::-1]))
        mass = self._mass_before[last] - self._mass_before[first] - excluded.sum(axis=1)
        # Masses fall with the length: the number of lengths that have some is the longest of them, and one.
        longest = np.maximum((mass > 0).sum(axis=0) - 1, 0)
        backoff = [
            self._sum(first[length, row], last[length, row]) if length else self._totals
            for row, length in enumerate(longest)
        ]
        sums = (own, np.broadcast_to(self._totals, own.shape), np.array(backoff).reshape(own.shape))
        return {name: freq - excluded for name, freq in zip(NAMES, sums, strict=True)}

    def _rows(self, ids: Int64) -> Int64:
        """The counts [B, V] of substrings; zeros for the id -1."""
        freq = np.zeros((len(ids), self._counts.vocabulary_size), dtype=np.int64)
        for row in np.flatnonzero(ids >= 0):
            tokens, counts = self._counts.row(ids[row])
            freq[row, tokens] = counts
        return freq

    def _sum(self, first: int, last: int) -> Int64:
        """The sum [V] of a range of entries in the order of suffixes."""
        part = slice(first, last)
        # Weights are float64, which holds these sums exactly.
        return np.bincount(self._tokens[part], self._frequencies[part], self._counts.vocabulary_size).astype(np.int64)


def _permuted(offsets: Int64, order: Int64) -> tuple[Int64, Int64]:
    """Compressed rows in another order: where each entry [M] was, and the new offsets [N+1]."""
    sizes = np.diff(offsets)[order]
    moved = np.concatenate([[0], np.cumsum(sizes)])
    return np.repeat(offsets[order] - moved[:-1], sizes) + np.arange(moved[-1]), moved

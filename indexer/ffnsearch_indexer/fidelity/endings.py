"""What follows each ending of a prompt in the indexed text: the counts that n-grams are made of.

Shapes: B prompts, L window, N substrings, V vocabulary, M entries of counts.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.corpora.substrings import NextTokenCounts
from ffnsearch_indexer.fidelity.windows import SortedWindows
from ffnsearch_indexer.index.base import Int64


class Followers(NamedTuple):
    """What shares the last l tokens of each prompt, for l from 0 to L or fewer, and what follows it.

    freq: [B, L+1, V] int64, sums of next-token counts. substrings: [B, L+1] int64, of how many substrings.
    """

    freq: Int64
    substrings: Int64


class Endings:
    """The substrings of an index by how they end; immutable. Memory is about 2 L + 8 bytes a substring and 6 an entry.

    windows: [N, L] uint16 by id, with the counts of the same ids. totals: [V] int64, what follows all substrings.
    """

    def __init__(self, windows: NDArray[np.uint16], counts: NextTokenCounts) -> None:
        self._counts = counts
        self._suffixes = SortedWindows(windows[:, ::-1], counts.vocabulary_size)
        self._by_suffix = counts.reordered(self._suffixes.order)
        self.totals = self._sum(0, len(counts.tokens))  # asked for often, and long

    def followers(
        self, prompts: NDArray[np.uint16], own_ids: Int64, *, exclude_self: bool, longest: int | None = None
    ) -> Followers:
        """What follows the endings of prompts [B, L].

        own_ids: [B], the substring equal to each prompt, -1 where there is none; with `exclude_self` it does not count.
        longest: tokens of the longest ending, by default L.
        """
        kept = slice(None if longest is None else longest + 1)
        first, last = (places[kept].T for places in self._suffixes.beginning_like(prompts[:, ::-1]))
        substrings = last - first
        freq = np.empty((*first.shape, self._counts.vocabulary_size), dtype=np.int64)
        freq[:, 0] = self.totals
        for row, length in np.ndindex(len(prompts), first.shape[1] - 1):
            if substrings[row, length + 1] == substrings[row, length]:
                freq[row, length + 1] = freq[row, length]  # none too: long endings are new, or of one place
            else:
                begin, end = self._by_suffix.offsets[[first[row, length + 1], last[row, length + 1]]]
                freq[row, length + 1] = self._sum(begin, end)
        if exclude_self:
            for row in np.flatnonzero(own_ids >= 0):
                tokens, counts = self._counts.row(own_ids[row])
                freq[row][:, tokens] -= counts
                substrings[row] -= 1
        return Followers(freq, substrings)

    def _sum(self, first: int, last: int) -> Int64:
        """The sum [V] of a range of entries in the order of suffixes."""
        part, ordered = slice(first, last), self._by_suffix
        # Weights are float64, which holds these sums exactly.
        return np.bincount(ordered.tokens[part], ordered.counts[part], ordered.vocabulary_size).astype(np.int64)

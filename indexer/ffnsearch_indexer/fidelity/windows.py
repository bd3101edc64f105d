"""Windows in ascending order, and which of them begin like a prompt: exact, at any length and vocabulary.

Shapes: B prompts, L window, M windows.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.corpora.substrings import pack_windows, sort_windows
from ffnsearch_indexer.corpora.tokenizer import Tokens
from ffnsearch_indexer.index.base import Int64


class Ranges(NamedTuple):
    """For each length l from 0 to L and each prompt, a range of sorted windows. first, last: [L+1, B] int64."""

    first: Int64
    last: Int64


class SortedWindows:
    """M windows [M, L] in ascending order; immutable. It keeps 2 L + 8 bytes a window.

    order: [M] int64, which of the given windows is at each place.
    """

    def __init__(self, windows: NDArray[np.uint16], vocabulary_size: int) -> None:
        self.order = sort_windows(pack_windows(windows, vocabulary_size))
        self._columns = np.ascontiguousarray(windows[self.order].T)

    def beginning_like(self, prompts: NDArray[np.uint16]) -> Ranges:
        """The windows that share the first l tokens of each prompt [B, L], for each l from 0 to L."""
        first = np.zeros((prompts.shape[1] + 1, len(prompts)), dtype=np.int64)
        last = np.full_like(first, len(self.order))
        for length, (column, tokens) in enumerate(zip(self._columns, prompts.T.astype(np.int64), strict=True), 1):
            shorter = first[length - 1], last[length - 1]
            first[length] = _bisect(column, tokens, *shorter)
            last[length] = _bisect(column, tokens + 1, *shorter)
        return Ranges(first, last)


def _bisect(column: Tokens, tokens: Int64, first: Int64, last: Int64) -> Int64:
    """Where in its range, in which the column ascends, each token [B] would stand before those not below it."""
    low, high = first, last
    while (is_open := low < high).any():
        middle = (low + high) // 2
        is_below = column[np.where(is_open, middle, 0)] < tokens
        low, high = np.where(is_open & is_below, middle + 1, low), np.where(is_open & ~is_below, middle, high)
    return low

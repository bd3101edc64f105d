"""The prefixes that were run before, and what attention needs of them.

With causal attention the keys and values at a position depend on the prefix alone. A cache has room for the most
common prefixes of the indexed windows; what a batch computes of these is kept for the next ones, which then run only
what follows (prefix caching: Zheng et al., SGLang, 2024). Nothing is computed for the cache's sake, and no answer
changes by a bit: what is kept is what would be computed again.

Shapes: n windows, L window, K block, D d_model, P prefixes, E longest prefix.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.models.packed import PackedModel

PREFIX_TOKENS_MAX = 6
"""Longest prefix that is kept: longer ones are rarely common."""

_CODE_BITS = 62


class CachedPrefixes(NamedTuple):
    """What a cache says of n windows. rows: [n, E] int64, the place of each prefix, -1 where it has none.

    tokens: [n] int64, how many leading tokens of each window need not be run: less than its length.
    """

    rows: NDArray[np.int64]
    tokens: NDArray[np.int64]


class PrefixCache:
    """Attention keys and values of common prefixes: `key_values` [K, P, 2D] float32, `parents` [P] int64.

    A parent is the prefix without its last token, as `PrefixTree` refers to what is in a cache: -1 - place; prefixes of
    one token are their own. Several threads may run windows with one cache at once: they write equal bytes to a place,
    and none reads it before `keep` was called for it. Memory is taken as the cache fills: 8 K D bytes a prefix.
    """

    def __init__(self, blocks: int, d_model: int, prefixes: Sequence[NDArray[np.int64]], token_bits: int) -> None:
        self._codes = prefixes
        self._first = np.cumsum([0, *map(len, prefixes)])
        self._token_bits = token_bits
        self._is_there = np.zeros(self._first[-1], dtype=np.bool_)
        self.key_values = np.zeros((blocks, self._first[-1], 2 * d_model), dtype=np.float32)
        self.parents = -1 - np.arange(self._first[-1])
        for depth in range(1, len(prefixes)):
            above = np.searchsorted(prefixes[depth - 1], prefixes[depth] >> token_bits)
            self.parents[self._first[depth] : self._first[depth + 1]] = -1 - (self._first[depth - 1] + above)

    @classmethod
    def empty(cls, blocks: int, d_model: int) -> Self:
        """A cache without room: every prefix is run."""
        return cls(blocks, d_model, [], 0)

    @classmethod
    def of_common_prefixes(cls, model: PackedModel, windows: NDArray[np.uint16], bytes_max: int) -> Self:
        """Room for the most common prefixes of windows [n, L], which may be a sample, within `bytes_max`."""
        token_bits = max(1, int(model.vocabulary_size - 1).bit_length())
        depths = min(PREFIX_TOKENS_MAX, windows.shape[1] - 1, _CODE_BITS // token_bits)
        counted = [np.unique(codes, return_counts=True) for codes in _codes(windows, depths, token_bits)]
        if not counted:
            return cls.empty(model.blocks, model.d_model)
        depth = np.repeat(np.arange(depths), [len(codes) for codes, _ in counted])
        codes, counts = (np.concatenate(parts) for parts in zip(*counted, strict=True))
        # the shorter of equally common ones comes first, so that no prefix is without its parent
        chosen = np.lexsort((codes, depth, -counts))[: bytes_max // (8 * model.blocks * model.d_model)]
        prefixes = [np.sort(codes[chosen[depth[chosen] == tokens]]) for tokens in range(depths)]
        return cls(model.blocks, model.d_model, prefixes, token_bits)

    def find(self, windows: NDArray[np.uint16], lengths: NDArray[np.int64]) -> CachedPrefixes:
        """Look up the prefixes of the first `lengths` [n] tokens of windows [n, L]."""
        depths = min(len(self._codes), windows.shape[1])
        rows = np.full((len(windows), depths), -1, dtype=np.int64)
        for depth, codes in enumerate(_codes(windows, depths, self._token_bits)):
            known = self._codes[depth]
            if not len(known):
                break
            places = np.searchsorted(known, codes).clip(max=len(known) - 1)
            is_known = (known[places] == codes) & (lengths > depth)
            rows[is_known, depth] = self._first[depth] + places[is_known]
        is_there = (rows >= 0) & self._is_there[rows] if self._is_there.size else rows >= 0
        tokens = np.cumprod(is_there, axis=1, dtype=np.int64).sum(axis=1)
        return CachedPrefixes(rows, np.minimum(tokens, lengths - 1))

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Declare these places [n], -1 for none, as written."""
        self._is_there[rows[rows >= 0]] = True


def _codes(windows: NDArray[np.uint16], depths: int, token_bits: int) -> list[NDArray[np.int64]]:
    """The first 1, 2 and so on tokens of windows [n, L] as a whole number [n] each."""
    codes = [np.zeros(len(windows), dtype=np.int64)]
    for depth in range(depths):
        codes.append((codes[-1] << token_bits) | windows[:, depth])
    return codes[1:]

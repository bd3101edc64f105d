"""The prefixes that sorted windows share: a tree whose nodes are the distinct prefixes.

With causal attention the state at a position depends on the prefix alone, so each node is run once.
Nodes are numbered in the order of a walk through the tree (a window's new nodes follow one another),
so that a node's ancestors are close by in memory.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.models.prefix_cache import CachedPrefixes

COUNTED_TOGETHER = 1 << 14
"""Windows whose prefixes are counted at once: some MB of room."""


class PrefixTree(NamedTuple):
    """The distinct prefixes of n sorted windows of at most L tokens that are to be run, m nodes.

    tokens: [m] int64, the last token of each prefix. depths: [m] int64, its position, 0 to L-1.
    parents: [m] int64, the prefix without its last token: a node, or -1 - place of one that is in a `PrefixCache`;
    a root is its own parent. places: [m] int64, where there is room for it in the cache, -1 for none. ends: [n] int64,
    the node of each whole window, ascending.
    """

    tokens: NDArray[np.int64]
    depths: NDArray[np.int64]
    parents: NDArray[np.int64]
    places: NDArray[np.int64]
    ends: NDArray[np.int64]


def shared_prefix_tokens(windows: NDArray[np.uint16]) -> NDArray[np.int64]:
    """How many leading tokens each of the sorted windows [n, L] shares with the one before; 0 for the first."""
    shared = np.zeros(len(windows), dtype=np.int64)
    shared[1:] = np.logical_and.accumulate(windows[1:] == windows[:-1], axis=1).sum(axis=1)
    return shared


def count_prefixes(windows: NDArray[np.uint16]) -> int:
    """How many distinct prefixes the sorted, different windows [n, L] have, of every length from 1 to L."""
    shared = 0
    for first in range(0, len(windows), COUNTED_TOGETHER):
        part = windows[max(0, first - 1) : first + COUNTED_TOGETHER]  # the one before is there to be compared with
        shared += int(shared_prefix_tokens(part).sum())
    return windows.size - shared


def prefix_tree(
    windows: NDArray[np.uint16], lengths: NDArray[np.int64], cached: CachedPrefixes | None = None
) -> PrefixTree:
    """Build the tree of the first `lengths` [n] tokens, at least one, of windows [n, L]: sorted and different so far.

    A window comes before those that begin with it. What stands behind its end does not matter. cached: what a cache
    says of these windows.
    """
    if cached is None:
        cached = CachedPrefixes(np.empty((len(windows), 0), np.int64), np.zeros(len(windows), np.int64))
    positions = np.arange(windows.shape[1])
    shared = np.minimum(shared_prefix_tokens(windows), np.minimum(lengths, np.roll(lengths, 1)))
    shared[0] = 0
    begins = np.maximum(shared, cached.tokens)
    rows, depths = np.nonzero((positions >= begins[:, None]) & (positions < lengths[:, None]))
    nodes = np.arange(len(rows))
    ends = np.cumsum(lengths - begins) - 1
    firsts = ends + 1 - (lengths - begins)  # the first node of each window; the others follow their parents
    parents = nodes - 1
    has_cached = (cached.tokens > 0) & (cached.tokens >= shared)
    parents[firsts[has_cached]] = -1 - cached.rows[has_cached, cached.tokens[has_cached] - 1]
    for depth in range(windows.shape[1]):
        at_depth = firsts[~has_cached & (begins == depth)]
        if depth == 0:
            parents[at_depth] = at_depth
        elif len(at_depth):
            above = nodes[depths == depth - 1]
            parents[at_depth] = above[np.searchsorted(above, at_depth) - 1]
    places = np.full(len(nodes), -1)
    short = np.flatnonzero(depths < cached.rows.shape[1])
    places[short] = cached.rows[rows[short], depths[short]]
    return PrefixTree(windows[rows, depths].astype(np.int64), depths, parents, places, ends)

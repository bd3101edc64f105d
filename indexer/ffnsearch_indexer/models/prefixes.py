"""Which prefixes sorted windows share: the tree whose nodes are the distinct prefixes.

With causal attention the state at a position depends on the prefix alone, so each node is run once.
Nodes are numbered in the order of a walk through the tree (a window's new nodes follow one another),
so that a node's ancestors are close by in memory.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class PrefixTree(NamedTuple):
    """The distinct prefixes of n sorted windows of at most L tokens, m nodes.

    tokens: [m] int64, the last token of each prefix. depths: [m] int64, its position, 0 to L-1.
    parents: [m] int64, the prefix without its last token; a root is its own parent. ends: [n] int64,
    the node of each whole window, ascending.
    """

    tokens: NDArray[np.int64]
    depths: NDArray[np.int64]
    parents: NDArray[np.int64]
    ends: NDArray[np.int64]


def shared_prefix_tokens(windows: NDArray[np.uint16]) -> NDArray[np.int64]:
    """How many leading tokens each of the sorted windows [n, L] shares with the one before; 0 for the first."""
    shared = np.zeros(len(windows), dtype=np.int64)
    shared[1:] = np.cumprod(windows[1:] == windows[:-1], axis=1, dtype=np.int64).sum(axis=1)
    return shared


def count_prefixes(windows: NDArray[np.uint16]) -> int:
    """How many distinct prefixes the sorted, different windows [n, L] have, of every length from 1 to L."""
    return int(windows.size - shared_prefix_tokens(windows).sum())


def prefix_tree(windows: NDArray[np.uint16], lengths: NDArray[np.int64]) -> PrefixTree:
    """Build the tree of the first `lengths` [n] tokens, at least one, of windows [n, L]: sorted and different so far.

    A window comes before those that begin with it. What stands behind its end does not matter.
    """
    places = np.arange(windows.shape[1])
    shared = np.minimum(shared_prefix_tokens(windows), np.minimum(lengths, np.roll(lengths, 1)))
    shared[0] = 0
    rows, depths = np.nonzero((places >= shared[:, None]) & (places < lengths[:, None]))
    nodes = np.arange(len(rows))
    parents = nodes - 1
    for depth in range(windows.shape[1]):
        at_depth = nodes[depths == depth]
        if depth == 0:
            parents[at_depth] = at_depth
        else:
            above = nodes[depths == depth - 1]
            parents[at_depth] = above[np.searchsorted(above, at_depth) - 1]
    ends = np.cumsum(lengths - shared) - 1
    return PrefixTree(windows[rows, depths].astype(np.int64), depths, parents, ends)

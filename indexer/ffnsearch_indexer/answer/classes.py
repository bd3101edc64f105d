"""Which classes explain a list of neighbors: ten lines instead of thirty thousand.

A class is a set of substrings that share a suffix: a node of the suffix trie. A list of disjoint classes is a way to
describe which M of the substrings are neighbors, and takes this many bits (a two-part code; Rissanen 1978, Modeling by
shortest data description):

- a neighbor in no class is named by itself, for log2(e N / M) bits, because log2 C(N, M) <= M log2(e N / M);
- a class takes log2 V bits for each token of its suffix, log2(m + 1) to say how many of its m members are neighbors,
  and log2 C(m, n) to say which n.

Of the classes with n / m >= min_share, at most `classes_max` are chosen, those that together save most bits against
naming every neighbor by itself. So a class gives way to a purer one inside it that holds nearly all of its neighbors,
and to several such while there are lines for them; and a few neighbors that share an ending by chance make no class.

Shapes: N substrings, M neighbors, J nodes of the trie, V vocabulary.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.corpora.substrings import SuffixOrder
from ffnsearch_indexer.hardware.compiled import numba
from ffnsearch_indexer.index.base import Int64

PARTS_PER_BIT = 1000
"""Bits are rounded to whole parts: then a sum does not depend on its order, and a tie is a tie."""


class ChosenClass(NamedTuple):
    """The class of all substrings that share their last `suffix_tokens` tokens, 0 to L.

    members: how many they are. ranks: [n] int64, ascending, which of the given neighbors are among them.
    """

    suffix_tokens: int
    members: int
    ranks: Int64


class _Nodes(NamedTuple):
    """Nodes of the trie, each after its parent, siblings in the order of suffixes; all [J] int64.

    parents: which node, -1 for the root. depths: tokens of the suffix. members: how many substrings share it.
    first, last: which of the neighbors do, counted in the order of suffixes.
    """

    parents: Int64
    depths: Int64
    members: Int64
    first: Int64
    last: Int64


def choose_classes(
    ids: Int64, order: SuffixOrder, vocabulary_size: int, *, classes_max: int, min_share: float
) -> list[ChosenClass]:
    """Choose the classes that explain neighbors, by the rule above; the same input gives the same classes.

    ids: [M] int64, all different, in any order. classes_max: 1 to 32,767. min_share: in (0, 1]. No class contains
    another. Those with most neighbors come first; of equal ones those with fewer members, then those of shorter
    suffixes, then in the order of suffixes.
    """
    assert 1 <= classes_max <= np.iinfo(np.int16).max, "a list has at least one line, and few"
    assert 0 < min_share <= 1, "a share is in (0, 1]"
    if not len(ids):
        return []
    numbers = np.zeros(len(order.ids), dtype=np.int64)  # of each substring in the list, from 1; 0 for no neighbor
    numbers[ids] = np.arange(1, len(ids) + 1)
    numbers = numbers[order.ids]
    positions = np.flatnonzero(numbers)
    neighbor_bits, token_bits = math.log2(math.e * len(order.ids) / len(ids)), math.log2(vocabulary_size)
    nodes = _walk(positions, order.shared, neighbor_bits, token_bits)
    saved = _saved_parts(nodes, neighbor_bits, token_bits, min_share)
    chosen = [
        ChosenClass(
            int(nodes.depths[node]),
            int(nodes.members[node]),
            np.sort(numbers[positions[nodes.first[node] : nodes.last[node]]]) - 1,
        )
        for node in np.flatnonzero(_choose(nodes.parents, saved, classes_max)).tolist()
    ]
    return sorted(chosen, key=lambda of_suffix: (-len(of_suffix.ranks), of_suffix.members))


def _walk(positions: Int64, shared: NDArray[np.int16], neighbor_bits: float, token_bits: float) -> _Nodes:
    """The nodes that hold neighbors, level by level, down to where a suffix takes more bits than they can save.

    positions: [M] int64, ascending, where the neighbors are in the order of suffixes.
    """
    levels: list[_Nodes] = []
    above = 0  # nodes of all levels but the last
    rows = np.arange(len(positions))  # the neighbors that are worth a longer suffix
    for depth in range(int(shared.max()) + 2):  # with one token more than any two share, each substring is alone
        begins = np.append(np.flatnonzero(shared < depth), len(shared))
        runs = np.searchsorted(begins, positions[rows], side="right") - 1
        starts = np.flatnonzero(np.diff(runs, prepend=-1))
        first, sizes = rows[starts], np.diff(starts, append=len(rows))
        parents = np.full(1, -1)
        if levels:
            parents = above + np.searchsorted(levels[-1].first, first, side="right") - 1
            above += len(levels[-1].first)
        levels.append(_Nodes(parents, np.full(len(first), depth), np.diff(begins)[runs[starts]], first, first + sizes))
        rows = rows[np.repeat(sizes * neighbor_bits > (depth + 1) * token_bits, sizes)]
        if not len(rows):
            break
    return _Nodes(*(np.concatenate(arrays) for arrays in zip(*levels, strict=True)))


def _saved_parts(nodes: _Nodes, neighbor_bits: float, token_bits: float, min_share: float) -> Int64:
    """What each node saves as a class, [J] in parts of a bit; 0 where it saves nothing or its share is too small."""
    neighbors = nodes.last - nodes.first
    taken_bits = nodes.depths * token_bits + _which_bits(nodes.members, neighbors)
    saved = np.rint(PARTS_PER_BIT * (neighbors * neighbor_bits - taken_bits)).astype(np.int64)
    return np.where(neighbors / nodes.members >= min_share, np.maximum(saved, 0), 0)


@numba.njit(nogil=True, cache=True)
def _which_bits(members: Int64, neighbors: Int64) -> NDArray[np.float64]:
    """Bits to say how many of m members are neighbors, and which: log2(m + 1) + log2 C(m, n), [J]."""
    bits = np.empty(len(members))
    for node in range(len(members)):
        m, n = members[node], neighbors[node]
        choices = math.lgamma(m + 1.0) - math.lgamma(n + 1.0) - math.lgamma(m - n + 1.0)
        bits[node] = (math.log(m + 1.0) + choices) / math.log(2.0)
    return bits


@numba.njit(nogil=True, cache=True)
def _choose(parents: Int64, saved: Int64, classes_max: int) -> NDArray[np.bool_]:
    """Choose at most `classes_max` nodes, none above another, that save most: [J] bool.

    From the leaves up, the most that any number of classes saves at and below a node; a child's share of that number is
    kept, and read from the root down. Where both save the same, a node is preferred to what is below it, and the first
    of siblings to the others.
    """
    rows = _rows(parents, saved)
    height = rows.max() + 1
    best = np.zeros((height, classes_max + 1), np.int64)
    given = np.zeros((height, classes_max + 1), np.int16)  # of that many classes in a node's family, how many it gets
    alone = np.zeros(height, np.int16)  # up to how many classes the node itself saves most
    for node in range(len(parents) - 1, -1, -1):
        row = rows[node]
        if row < 0:
            continue
        for classes in range(1, classes_max + 1):
            if saved[node] >= best[row, classes]:
                best[row, classes], alone[row] = saved[node], classes
        if node > 0:
            _join(best[rows[parents[node]]], best[row], given[row])
    chosen, left = np.zeros(len(parents), np.bool_), np.zeros(height, np.int64)
    for node in range(len(parents)):
        row = rows[node]
        if row < 0:
            continue
        if node == 0:
            left[row] = classes_max
        else:
            above = rows[parents[node]]
            left[row] = given[row, left[above]]
            left[above] -= left[row]
        if 0 < left[row] <= alone[row]:
            chosen[node], left[row] = True, 0
    return chosen


@numba.njit(nogil=True, cache=True)
def _rows(parents: Int64, saved: Int64) -> Int64:
    """Number the nodes at or below which a class saves something, in their order; -1 for the others."""
    rows = np.where(saved > 0, 0, -1)
    for node in range(len(parents) - 1, 0, -1):
        rows[parents[node]] = max(rows[parents[node]], rows[node])
    number = 0
    for node in range(len(rows)):
        if rows[node] == 0:
            rows[node] = number
            number += 1
    return rows


@numba.njit(nogil=True, cache=True)
def _join(family: Int64, child: Int64, given: NDArray[np.int16]) -> None:
    """Add a child to what its later siblings save with 0 to `classes_max` classes, and note how many it gets."""
    for classes in range(len(family) - 1, 0, -1):
        for here in range(1, classes + 1):
            together = family[classes - here] + child[here]
            if together >= family[classes]:
                family[classes], given[classes] = together, here

"""The compiled forward pass over a tree of prefixes: each distinct prefix is run once, whatever else is in the tree.

A block computes attention keys and values for all nodes, then each node attends to itself and its ancestors, found
through parent links, which may lead into a cache of prefixes. The last block goes on for the wanted nodes alone.

numba caches compiled code by this file's timestamp only: after a change in a module that it calls (`products`,
`hardware`), run `make clean`.

Shapes: m nodes, n wanted nodes, K block, D d_model, H hidden layer, V vocabulary.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.hardware.compiled import numba
from ffnsearch_indexer.hardware.vectors import use_widest_vectors
from ffnsearch_indexer.models.packed import PackedModel
from ffnsearch_indexer.models.products import ROWS_TOGETHER, add_scaled, dot_float32, multiply_packed, padded

_Scalar = TypeVar("_Scalar", bound=np.generic)
_OfBoth = tuple[NDArray[_Scalar], NDArray[_Scalar]]
"""Something of the nodes, and of what is in the cache: the prefix p is there at -1 - p where it is negative."""

_TILE = 240
"""Nodes that go through a block together: their hidden layer stays in the second-level cache. Whole ROWS_TOGETHER."""


@numba.njit(nogil=True, cache=True)
def run(
    model: PackedModel,
    tokens: NDArray[np.int64],
    depths: NDArray[np.int64],
    parents: NDArray[np.int64],
    places: NDArray[np.int64],
    wanted: NDArray[np.int64],
    cached: NDArray[np.float32],
    cached_parents: NDArray[np.int64],
    ffn: NDArray[np.float32],
    logits: NDArray[np.float32],
) -> None:
    """Run a tree of prefixes (see `PrefixTree`), on this thread. wanted: [n], nodes in ascending order, each once.

    Writes the wanted nodes' FFN outputs, ffn [K, n, D], and logits [n, V]; an array of another length gets no logits.
    cached: [K, P, 2D], cached_parents: [P], those of a `PrefixCache`; attention keys and values of nodes that have a
    place there are written to it.
    """
    m, n, D, last = len(tokens), len(wanted), model.token_embedding.shape[1], len(model.query) - 1
    room = _rows(max(m, n))
    x, queries = np.zeros((room, D), np.float32), np.empty((room, padded(D)), np.float32)
    key_values = np.empty((room, padded(2 * D)), np.float32)
    for node in range(m):
        x[node] = model.token_embedding[tokens[node]] + model.position_embedding[depths[node]]
    nodes = np.arange(m)
    for block in range(last + 1):
        _project(x, m, model.attention_norm[block], model.norm_epsilon, model.key_value[block], key_values)
        for node in range(m):
            if places[node] >= 0:
                cached[block, places[node]] = key_values[node, : 2 * D]
        if block == last:
            for place in range(n):
                x[place] = x[wanted[place]]  # no later node is overwritten: place <= wanted[place]
            nodes = wanted
        _project(x, len(nodes), model.attention_norm[block], model.norm_epsilon, model.query[block], queries)
        _advance(
            model, block, x, queries, (key_values, cached[block]), (parents, cached_parents), nodes, wanted, ffn[block]
        )
    if len(logits) == n:
        results = np.empty((room, padded(len(model.head_bias))), np.float32)
        _project(x, n, model.final_norm, model.norm_epsilon, model.head, results)
        logits[:] = results[:n, : logits.shape[1]] + model.head_bias


@numba.njit(nogil=True, cache=True)
def _project(
    x: NDArray[np.float32],
    count: int,
    norm: NDArray[np.float32],
    epsilon: float,
    packed: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Normalise the first `count` rows of x and multiply them with a matrix, tile by tile."""
    normalised = np.zeros((_TILE, x.shape[1]), np.float32)
    for first in range(0, count, _TILE):
        here = min(_TILE, count - first)
        _normalise(x[first : first + here], norm, epsilon, normalised)
        target = out[first : first + _rows(here)]
        target[:] = 0
        multiply_packed(normalised[: len(target)], packed, target)


@numba.njit(nogil=True, cache=True)
def _advance(
    model: PackedModel,
    block: int,
    x: NDArray[np.float32],
    queries: NDArray[np.float32],
    key_values: _OfBoth[np.float32],
    parents: _OfBoth[np.int64],
    nodes: NDArray[np.int64],
    wanted: NDArray[np.int64],
    ffn: NDArray[np.float32],
) -> None:
    """Take x, in whose rows are these nodes, through attention and FFN; write the wanted nodes' FFN outputs [n, D]."""
    D = x.shape[1]
    rows = np.zeros((_TILE, D), np.float32)
    added = np.empty((_TILE, padded(D)), np.float32)
    hidden = np.empty((_TILE, padded(model.up_bias.shape[1])), np.float32)
    written = 0
    for first in range(0, len(nodes), _TILE):
        here = min(_TILE, len(nodes) - first)
        room = _rows(here)
        for row in range(here):
            _attend(queries[first + row], key_values, parents, nodes[first + row], model.heads, rows[row])
        _multiply_with(rows[:room], model.out[block], model.out_bias[block], added[:room])
        x[first : first + here] += added[:here, :D]
        _normalise(x[first : first + here], model.ffn_norm[block], model.norm_epsilon, rows)
        _multiply_with(rows[:room], model.up[block], model.up_bias[block], hidden[:room])
        for row in range(room):
            for column in range(hidden.shape[1]):
                hidden[row, column] = max(hidden[row, column], np.float32(0))
        _multiply_with(hidden[:room], model.down[block], model.down_bias[block], added[:room])
        x[first : first + here] += added[:here, :D]
        while written < len(wanted) and wanted[written] <= nodes[first + here - 1]:
            place = written if len(nodes) == len(wanted) else wanted[written]
            ffn[written] = added[place - first, :D]
            written += 1


@numba.njit(nogil=True, cache=True)
def _multiply_with(
    rows: NDArray[np.float32], packed: NDArray[np.float32], bias: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """Write rows times a packed matrix, plus a bias, to out."""
    for row in range(len(out)):
        out[row, : len(bias)] = bias
        out[row, len(bias) :] = 0
    multiply_packed(rows, packed, out)


@numba.njit(nogil=True, fastmath={"reassoc", "contract", "arcp"}, error_model="numpy", cache=True)
def _normalise(x: NDArray[np.float32], norm: NDArray[np.float32], epsilon: float, out: NDArray[np.float32]) -> None:
    """Layer normalisation (Ba, Kiros, Hinton, 2016) of each row of x, into the first rows of out."""
    use_widest_vectors()
    D = x.shape[1]
    for row in range(len(x)):
        total = np.float32(0)
        for d in range(D):
            total += x[row, d]
        mean = total / np.float32(D)
        squares = np.float32(0)
        for d in range(D):
            squares += (x[row, d] - mean) ** 2
        scale = np.float32(1) / np.sqrt(squares / np.float32(D) + np.float32(epsilon))
        for d in range(D):
            out[row, d] = (x[row, d] - mean) * scale * norm[0, d] + norm[1, d]


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _attend(
    query: NDArray[np.float32],
    key_values: _OfBoth[np.float32],
    parents: _OfBoth[np.int64],
    node: int,
    heads: int,
    mixed: NDArray[np.float32],
) -> None:
    """Let a node attend to itself and its ancestors: softmax(q k / sqrt(D/H)) v, head by head, into mixed [D].

    key_values: [m, at least 2D] and [P, 2D]. Equation 1 of Vaswani et al. (2017), with the largest score subtracted.
    """
    D = len(mixed)
    head_size = D // heads
    scale = np.float32(1 / np.sqrt(head_size))
    length, ancestor = 1, node
    while _parent(parents, ancestor) != ancestor:
        length, ancestor = length + 1, _parent(parents, ancestor)
    keys, weights = np.empty(length, np.int64), np.empty(length, np.float32)  # keys: where they are in memory
    ancestor = node
    for step in range(length):
        keys[step] = _address(key_values, ancestor)
        ancestor = _parent(parents, ancestor)
    mixed[:] = 0
    for first in range(0, 4 * D, 4 * head_size):
        highest = np.float32(-np.inf)
        for step in range(length):
            weights[step] = dot_float32(query.ctypes.data + first, keys[step] + first, head_size) * scale
            highest = max(highest, weights[step])
        total = np.float32(0)
        for step in range(length):
            weights[step] = np.exp(weights[step] - highest)
            total += weights[step]
        for step in range(length):
            add_scaled(mixed.ctypes.data + first, weights[step] / total, keys[step] + 4 * D + first, head_size)


@numba.njit(nogil=True, cache=True)
def _parent(parents: _OfBoth[np.int64], prefix: int) -> int:
    return parents[0][prefix] if prefix >= 0 else parents[1][-1 - prefix]


@numba.njit(nogil=True, cache=True)
def _address(key_values: _OfBoth[np.float32], prefix: int) -> int:
    """Where attention's key of a prefix is in memory, and behind it its value."""
    if prefix >= 0:
        return key_values[0].ctypes.data + prefix * key_values[0].strides[0]
    return key_values[1].ctypes.data + (-1 - prefix) * key_values[1].strides[0]


@numba.njit(nogil=True, cache=True)
def _rows(count: int) -> int:
    return -(-count // ROWS_TOGETHER) * ROWS_TOGETHER

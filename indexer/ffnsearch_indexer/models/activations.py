"""How all substrings become keys: the model run over the tree of their prefixes, block by block.

Every distinct prefix is run once. A block computes attention keys and values for all nodes; then each
node attends to its ancestors through parent links, in compiled code, without copying their rows. The
last block goes on for the windows themselves only.

The work is cut into tiles of one fixed size. Threads take tiles, and each matrix product runs on one
thread: no thread waits for another within a tile, and the number of threads changes no bit of a key.

Shapes: m nodes, n windows, K block, D d_model, H heads.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import cast

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ffnsearch_indexer.models.prefixes import PrefixTree, prefix_tree
from ffnsearch_indexer.models.queries import unit_float16
from ffnsearch_indexer.models.transformer import Block, Transformer

TILE_NODES = 1024
"""Nodes in one matrix product: enough for full speed, and the hidden layer stays in the second-level cache."""

WINDOW_TOKENS_MAX = 255
"""Longest window: its tokens, two bytes each, are the key under which LMDB (at most 511 bytes) finds it."""

Tile = tuple[int, int]
ForTiles = Callable[[Callable[[Tile], None], int], None]
"""Called as for_tiles(work, rows): calls work((first, last)) for the tiles of that many rows, on all threads."""


def extract_keys(model: Transformer, windows: NDArray[np.uint16]) -> NDArray[np.float16]:
    """The canonical keys [K, n, D] of sorted, different windows [n, L]. Uses all cores; call it from one thread."""
    assert 1 <= windows.shape[1] <= WINDOW_TOKENS_MAX
    tree = prefix_tree(windows)
    keys = np.empty((model.config.blocks, len(windows), model.config.d_model), dtype=np.float16)
    with torch.inference_mode(), _threads() as for_tiles:
        x = model.token_embedding(torch.from_numpy(tree.tokens)) + model.position_embedding(
            torch.from_numpy(tree.depths)
        )
        *blocks, last_block = cast(list[Block], list(model.blocks))
        for number, block in enumerate(blocks):
            _run_block(block, x, tree, keys[number], for_tiles)
        _run_last_block(last_block, x, tree, keys[-1], for_tiles)
    return keys


def memory_bytes(nodes: int, windows: int, model: Transformer) -> int:
    """Working memory of `extract_keys`: residual stream, attention's queries, keys and values, the result, tiles."""
    d_model, threads = model.config.d_model, _thread_count()
    tile = TILE_NODES * d_model * 4 * (2 * model.config.ffn_ratio + 8)
    return nodes * (d_model * 4 * 4 + 40) + windows * d_model * 2 * model.config.blocks + threads * tile


def flops_per_node(model: Transformer) -> float:
    """Floating-point operations of one node, the last block's savings left out."""
    return 2.0 * model.config.blocks * (4 + 2 * model.config.ffn_ratio) * model.config.d_model**2


def _run_block(block: Block, x: Tensor, tree: PrefixTree, keys: NDArray[np.float16], for_tiles: ForTiles) -> None:
    """Advance the residual stream x [m, D] in place; write the windows' keys [n, D]."""
    projected = x.new_empty(len(x), 3 * x.shape[1])

    def project(tile: Tile) -> None:
        rows = slice(*tile)
        torch.mm(block.attention_norm(x[rows]), block.attention.qkv.weight.T, out=projected[rows])

    def advance(tile: Tile) -> None:
        first, last = tile
        nodes = np.arange(first, last)
        mixed = _attention(block, projected[first:last], projected, tree.parents, nodes)
        x[first:last] += mixed
        ffn = block.ffn(block.ffn_norm(x[first:last]))
        x[first:last] += ffn
        lowest, highest = np.searchsorted(tree.leaves, (first, last))
        keys[lowest:highest] = unit_float16(ffn.numpy()[tree.leaves[lowest:highest] - first])

    for_tiles(project, len(x))
    for_tiles(advance, len(x))


def _run_last_block(block: Block, x: Tensor, tree: PrefixTree, keys: NDArray[np.float16], for_tiles: ForTiles) -> None:
    """Do for the windows [n] alone what `_run_block` does for all nodes; the others give keys and values only."""
    D = x.shape[1]
    projected = x.new_empty(len(x), 3 * D)
    query_weight, key_value_weight = block.attention.qkv.weight[:D], block.attention.qkv.weight[D:]

    def project(tile: Tile) -> None:
        rows = slice(*tile)
        projected[rows, D:] = F.linear(block.attention_norm(x[rows]), key_value_weight)

    def finish(tile: Tile) -> None:
        nodes = tree.leaves[slice(*tile)]
        stream = x[torch.from_numpy(nodes)]
        queries = F.linear(block.attention_norm(stream), query_weight)
        stream = stream + _attention(block, queries, projected, tree.parents, nodes)
        keys[slice(*tile)] = unit_float16(block.ffn(block.ffn_norm(stream)).numpy())

    for_tiles(project, len(x))
    for_tiles(finish, len(tree.leaves))


def _attention(
    block: Block, queries: Tensor, projected: Tensor, parents: NDArray[np.int64], nodes: NDArray[np.int64]
) -> Tensor:
    """Attention output [t, D] of a tile of nodes. queries: [t, at least D]. projected: [m, 3D], keys and values."""
    mixed = np.empty((len(nodes), projected.shape[1] // 3), dtype=np.float32)
    _attend(queries.numpy(), projected.numpy(), parents, nodes, block.attention.heads, mixed)
    return block.attention.out(torch.from_numpy(mixed))


@contextmanager
def _threads() -> Iterator[ForTiles]:
    """Threads that share tiles out among them, each with single-threaded matrix products."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)

    def start() -> None:
        torch.set_num_threads(1)

    @torch.inference_mode()
    def call(work: Callable[[Tile], None], tile: Tile) -> None:
        work(tile)

    try:
        with ThreadPoolExecutor(_thread_count(), initializer=start) as pool:

            def for_tiles(work: Callable[[Tile], None], rows: int) -> None:
                tiles = [(first, min(rows, first + TILE_NODES)) for first in range(0, rows, TILE_NODES)]
                for _ in pool.map(call, [work] * len(tiles), tiles):
                    pass

            yield for_tiles
    finally:
        torch.set_num_threads(before)


def _thread_count() -> int:
    return len(os.sched_getaffinity(0))


@numba.njit(nogil=True, fastmath=True, cache=True)
def _attend(
    queries: NDArray[np.float32],
    projected: NDArray[np.float32],
    parents: NDArray[np.int64],
    nodes: NDArray[np.int64],
    heads: int,
    mixed: NDArray[np.float32],
) -> None:
    """Let each node attend to itself and its ancestors: softmax(q k / sqrt(D/H)) v, head by head.

    queries: [t, at least D] of the nodes. projected: [m, 3D]. mixed: [t, D], the result.
    """
    D = mixed.shape[1]
    head_size = D // heads
    scale = np.float32(1.0 / np.sqrt(head_size))
    path = np.empty(WINDOW_TOKENS_MAX, dtype=np.int64)
    weights = np.empty(WINDOW_TOKENS_MAX, dtype=np.float32)
    for row in range(len(nodes)):
        length = 0
        node = nodes[row]
        while True:
            path[length] = node
            length += 1
            if parents[node] == node:
                break
            node = parents[node]
        for head in range(heads):
            first = head * head_size
            query = queries[row, first : first + head_size]
            highest = np.float32(-np.inf)
            for step in range(length):
                key = projected[path[step], D + first : D + first + head_size]
                score = np.float32(0.0)
                for d in range(head_size):
                    score += query[d] * key[d]
                weights[step] = score * scale
                highest = max(highest, weights[step])
            total = np.float32(0.0)
            for step in range(length):
                weights[step] = np.exp(weights[step] - highest)
                total += weights[step]
            result = mixed[row, first : first + head_size]
            result[:] = 0
            for step in range(length):
                value = projected[path[step], 2 * D + first : 2 * D + first + head_size]
                weight = weights[step] / total
                for d in range(head_size):
                    result[d] += weight * value[d]

"""How keys are written: shard by shard in the order of sorted windows, then block by block by id.

A shard is a contiguous range of the sorted windows, because sorted windows share prefixes; its file
holds all blocks. When all shards are there, each block's file is put together in the order of ids.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.files import create_array, load_array, save_array, write_whole
from ffnsearch_indexer.store.work import delete_step

SHARD_WINDOWS = 32_768
"""Windows in a shard: about ten seconds of work for the reference model, and all that a kill can lose."""


def shard_ranges(windows: int) -> list[range]:
    """The shards of sorted windows, as ranges of their sorted positions."""
    return [range(first, min(windows, first + SHARD_WINDOWS)) for first in range(0, windows, SHARD_WINDOWS)]


def shard_path(folder: Path, shard: int) -> Path:
    """Where a shard is kept until the blocks are put together."""
    return folder / f"shard-{shard:05}.npy"


def save_shard(folder: Path, shard: int, keys: NDArray[np.float16]) -> None:
    """Write the keys [K, n, D] of one shard, whole or not at all."""
    save_array(shard_path(folder, shard), keys)


def assemble_block(folder: Path, block: int, order: NDArray[np.int64], d_model: int, out: Path) -> None:
    """Write the keys [N, D] of one block by id. order: [N], the id of each sorted window."""

    def write(path: Path) -> None:
        keys = create_array(path, np.float16, (len(order), d_model))
        for ids, rows in _shards_of_block(folder, block, order):
            keys[ids] = rows
        keys.flush()

    write_whole(out, write)


def _shards_of_block(
    folder: Path, block: int, order: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16]]]:
    for shard, positions in enumerate(shard_ranges(len(order))):
        shape, next_step = (None, len(positions), None), delete_step(folder)
        rows = load_array(shard_path(folder, shard), np.float16, shape, next_step=next_step)[block]
        yield order[positions.start : positions.stop], rows

"""How the tiles of blocks are made, kept and mapped."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ffnsearch_indexer.corpora.substrings import NextTokenCounts
from ffnsearch_indexer.corpora.tokenizer import Tokens
from ffnsearch_indexer.errors import DamageError
from ffnsearch_indexer.files import load_array, save_array
from ffnsearch_indexer.hardware.threads import shared_out
from ffnsearch_indexer.index.base import Float16
from ffnsearch_indexer.index.tiles import GROUP_TILES, PREFIX, TILE_KEYS, Tiles, padded, tiles_of
from ffnsearch_indexer.progress import Progress
from ffnsearch_indexer.store.layout import tiles_files


def write_tiles(
    folder: Path,
    keys: Sequence[Float16],
    counts: NextTokenCounts,
    endings: Tokens,
    progress: Progress,
    *,
    device: str = "cpu",
) -> None:
    """Make the tiles of each block that are not there, whole, several blocks at once.

    folder: the snapshot's. keys: [N, D] of each block. endings: [N, E], the last tokens of substrings. device: cpu or
    cuda, as `tiles_of` takes it.
    """
    missing = missing_tiles(folder, len(keys), *keys[0].shape)
    progress("tiles", len(keys) - len(missing), len(keys))
    with shared_out() as pool:
        work = partial(_write_block, folder, keys, counts, endings, device)
        for done, _ in enumerate(pool.map(work, missing), len(keys) - len(missing) + 1):
            progress("tiles", done, len(keys))


def missing_tiles(folder: Path, blocks: int, substrings: int, d_model: int) -> list[int]:
    """The blocks whose tiles are not there, or are not those of such a snapshot."""

    def opens(block: int) -> bool:
        try:
            load_tiles(folder, block, substrings, d_model)
        except DamageError:
            return False
        return True

    return [block for block in range(blocks) if not opens(block)]


def load_tiles(folder: Path, block: int, substrings: int, d_model: int) -> Tiles:
    """Map the tiles of a block into memory; raises DamageError for files that are not theirs."""
    tiles, width = -(-substrings // TILE_KEYS), padded(d_model)
    shapes: dict[str, tuple[type, tuple[int | None, ...]]] = {
        "order": (np.int32, (substrings,)),
        "basis": (np.float32, (d_model, d_model)),
        "centres": (np.int8, (-(-tiles // GROUP_TILES) * GROUP_TILES, width)),
        "bounds": (np.float32, (12, tiles)),
        "residuals": (np.int8, (tiles, TILE_KEYS * PREFIX)),
        "remainders": (np.float32, (tiles, TILE_KEYS)),
        "details": (np.int8, (tiles, TILE_KEYS * (width - PREFIX))),
        "offsets": (np.int64, (tiles + 1,)),
        "tokens": (np.uint16, (None,)),
        "counts": (np.int64, (None,)),
        "key_offsets": (np.int64, (substrings + 1,)),
        "key_tokens": (np.uint16, (None,)),
        "key_counts": (np.uint32, (None,)),
    }
    files = tiles_files(block)
    arrays: dict[str, Any] = {name: load_array(folder / files[name], *shapes[name]) for name in Tiles._fields}
    made = Tiles(**arrays)
    rows, key_rows = made.offsets, made.key_offsets
    if not (
        rows[0] == key_rows[0] == 0
        and rows[-1] == len(made.tokens) == len(made.counts)
        and key_rows[-1] == len(made.key_tokens) == len(made.key_counts)
    ):
        raise DamageError(
            f"{folder} has tiles of block {block} whose counts do not fit each other: build the snapshot again",
            file=files["offsets"],
        )
    return made


def _write_block(
    folder: Path, keys: Sequence[Float16], counts: NextTokenCounts, endings: Tokens, device: str, block: int
) -> None:
    tiles = tiles_of(keys[block], counts, endings, device=device)
    for name, file in tiles_files(block).items():
        save_array(folder / file, getattr(tiles, name))

"""Sums that are read instead of searched: those of prompts that are substrings, at thresholds of the self-sums.

Where a snapshot has self-sums, a prompt that is one of its substrings is asked with the key of that substring. A model
that runs on the machine that ran it over the corpus gives the same vector to the bit; another may be a step of float16
off, and then a sum would depend on whether it was read or searched.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.answer.profile import profiles_of
from ffnsearch_indexer.index.base import Checkpoint, Float16, Index, Int64, RangeSums, nobody_waits
from ffnsearch_indexer.store.layout import SELF_SUMS_FOLDER
from ffnsearch_indexer.store.manifest import Manifest
from ffnsearch_indexer.store.self_sums import SelfSums, load_thresholds


def ask_with_keys(vectors: NDArray[np.float16], keys: Sequence[Float16], self_ids: Sequence[int | None]) -> None:
    """Put keys in the place of the queries [K, B, D] of prompts that are substrings, in place.

    self_ids: [B], the substring equal to each prompt, None where there is none.
    """
    rows, ids = known(self_ids)
    for of_block, block_keys in zip(vectors, keys, strict=True):
        of_block[rows] = block_keys[ids]


def range_sum(
    index: Index,
    stored: SelfSums | None,
    queries: Float16,
    self_ids: Sequence[int | None],
    thresholds: Sequence[float],
    *,
    checkpoint: Checkpoint = nobody_waits,
) -> RangeSums:
    """Sum as `index.range_sum` does, and search only for queries [B, D] whose sums are not stored.

    stored: None where the snapshot has none. self_ids: [B], the substring whose key each query is, or None.
    """
    rows, ids = known(self_ids)
    if stored is None or not stored.has(thresholds) or not len(rows):
        return index.range_sum(queries, thresholds, checkpoint=checkpoint)
    checkpoint()
    vocabulary_size = index.counts.vocabulary_size
    read = stored.read(ids, thresholds, vocabulary_size)
    if len(rows) == len(queries):
        return read
    others = np.delete(np.arange(len(queries)), rows)
    searched = index.range_sum(queries[others], thresholds, checkpoint=checkpoint)
    sums = RangeSums(
        np.empty((len(queries), len(thresholds), vocabulary_size), dtype=np.int64),
        np.empty((len(queries), len(thresholds)), dtype=np.int64),
    )
    for part, found in ((rows, read), (others, searched)):
        sums.freq[part], sums.neighbors[part] = found.freq, found.neighbors
    return sums


def answered_by_lookup(folder: Path, manifest: Manifest) -> list[str]:
    """The names of the profiles of a snapshot for which a prompt that is a substring needs no search in any block.

    Raises DamageError where the self-sums do not say at which thresholds they are.
    """
    if SELF_SUMS_FOLDER not in manifest.parts:
        return []
    stored = list(map(set, load_thresholds(folder, manifest.blocks)))
    by_block = {name: profile.thresholds_by_block for name, profile in profiles_of(manifest.profiles).items()}
    return sorted(
        name for name, of in by_block.items() if all(map(set.issuperset, stored, of)) and len(of) == len(stored)
    )


def known(self_ids: Sequence[int | None]) -> tuple[Int64, Int64]:
    """The rows of prompts that are substrings, and which these are."""
    pairs = [(row, substring_id) for row, substring_id in enumerate(self_ids) if substring_id is not None]
    rows, ids = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return rows, ids

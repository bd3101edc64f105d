"""The sums of many prompts at a grid of thresholds: one search, out of which any number of profiles can be tried.

Shapes: n prompts, K block, S thresholds of the grid, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.answer.prediction import softmax
from ffnsearch_indexer.answer.predictor import Predictor
from ffnsearch_indexer.fidelity.chunks import Arrays, chunk_prompts, concatenated, map_chunks
from ffnsearch_indexer.progress import Progress
from ffnsearch_indexer.store.manifest import Manifest

GRID = (
    *(0.6, 0.64, 0.68, 0.7, 0.72, 0.74, 0.76, 0.78, 0.8, 0.82, 0.84),
    *(0.86, 0.88, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99),
)
"""Thresholds that calibration chooses from. Below 0.6 sums cost much more to find and added nothing measurable."""


@dataclass(frozen=True)
class Bands:
    """What was found for n prompts. freq: [n, K, S, V] int32, sums above each threshold of the grid, ascending.

    neighbors: [n, K, S] int64. model: [n, V] float64, the model's own distributions. unigram: [V] float64, of the whole
    index, a prompt's own row too.
    """

    thresholds: tuple[float, ...]
    freq: NDArray[np.int32]
    neighbors: NDArray[np.int64]
    model: NDArray[np.float64]
    unigram: NDArray[np.float64]

    def take(self, rows: slice | NDArray[np.int64]) -> "Bands":
        """Some of the prompts; those of a slice without a copy."""
        return Bands(self.thresholds, self.freq[rows], self.neighbors[rows], self.model[rows], self.unigram)

    def at(self, thresholds: Sequence[Sequence[float]]) -> list[NDArray[np.int32]]:
        """For each block, a copy of the sums [n, S', V] at its thresholds, which are of the grid."""
        return [
            self.freq[:, block, [self.thresholds.index(threshold) for threshold in of_block]]
            for block, of_block in enumerate(thresholds)
        ]


def bytes_of_prompt(manifest: Manifest) -> int:
    """What `Bands` take for each prompt."""
    K, S, V = manifest.blocks, len(GRID), manifest.vocabulary_size
    return 4 * K * S * V + 8 * K * S + 8 * V


def prompts_of_chunk(manifest: Manifest) -> int:
    """How many prompts are searched at once."""
    return chunk_prompts(manifest.blocks * len(GRID) * manifest.vocabulary_size)


def collect(
    predictor: Predictor,
    prompts: NDArray[np.uint16],
    folder: Path,
    *,
    exclude_self: bool,
    progress: Progress,
) -> Bands:
    """Search prompts [n, L] at all thresholds of the grid. To be used within `work_in`, whose folder this is."""
    manifest = predictor.datastore.manifest
    thresholds = [GRID] * manifest.blocks
    chunk_items = prompts_of_chunk(manifest)

    def search(rows: range) -> Arrays:
        found = predictor.search(list(prompts[rows.start : rows.stop]), thresholds, exclude_self=exclude_self)
        return {
            "freq": np.stack([sums.freq for sums in found.sums], axis=1, dtype=np.int32),
            "neighbors": np.stack([sums.neighbors for sums in found.sums], axis=1),
            "model": softmax(found.logits),
        }

    chunks = map_chunks(folder, len(prompts), search, chunk_items=chunk_items, stage="search", progress=progress)
    return Bands(GRID, unigram=predictor.datastore.unigram, **concatenated(chunks))

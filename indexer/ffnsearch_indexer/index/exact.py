"""The reference backend: every score by matrix product, tile by tile, on a CPU; `exact_device` does it on a GPU."""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from ffnsearch_indexer.hardware.compiled import numba
from ffnsearch_indexer.hardware.precision import require_full_precision
from ffnsearch_indexer.index.base import Float16, Float32, Int64
from ffnsearch_indexer.index.scan import Pairs, ScanIndex
from ffnsearch_indexer.parts import parts_of

STRETCH = 32
"""Scores whose maximum is looked at first: a few vector registers."""


class ExactIndex(ScanIndex):
    """Scores by float32 matrix products of tiles of keys and of queries, on a CPU.

    Working memory is about 80 MB, whatever N, D, B and the thresholds: a tile of keys as float32, its scores, and some
    36 bytes for each score above the cut.
    """

    tile_values: ClassVar[int] = 1 << 20
    """Values in a tile of keys, and at most in its scores: near the cache."""

    def scan(self, queries: Float16, cut_score: np.float32, ids: range) -> Iterator[Pairs]:
        """Widen each tile of keys once and multiply it with all queries; the contract is the base's."""
        require_full_precision("exact")
        tile_keys = max(1, self.tile_values // self.keys.shape[1])
        tile_queries = max(1, self.tile_values // tile_keys)
        vectors = torch.from_numpy(queries.astype(np.float32))
        source = from_dlpack(self.keys)  # the same memory, which may be a read-only map
        tile = torch.empty((tile_keys, self.keys.shape[1]))
        for first in range(ids.start, ids.stop, tile_keys):
            part = source[first : min(first + tile_keys, ids.stop)]
            keys = tile[: len(part)].copy_(part)
            for some in parts_of(len(vectors), tile_queries):
                scores = torch.mm(vectors[some], keys.T)
                rows, columns, above = _above(scores.numpy(), cut_score)
                yield Pairs(rows + some.start, columns + first, above)


def _above(scores: Float32, cut_score: np.float32) -> tuple[Int64, Int64, Float32]:
    """Find the scores [b, n] above the cut: their rows, their columns and their values."""
    places = np.empty((2, scores.size + 1), dtype=np.int64)  # pages that stay unused are never touched
    values = np.empty(scores.size + 1, dtype=np.float32)
    found = _find_above(scores, cut_score, places, values)
    return places[0, :found], places[1, :found], values[:found]


@numba.njit(nogil=True, fastmath={"nnan"}, cache=True)
def _find_above(scores: Float32, cut_score: np.float32, places: Int64, values: Float32) -> int:
    """Write the places and values of the scores above the cut, and return how many; the arrays have one to spare."""
    found = 0
    for row in range(len(scores)):
        for first in range(0, scores.shape[1], STRETCH):
            last = min(scores.shape[1], first + STRETCH)
            highest = scores[row, first]
            for column in range(first, last):
                highest = max(highest, scores[row, column])
            if highest > cut_score:
                for column in range(first, last):  # without a branch: what is not above is overwritten
                    places[0, found], places[1, found], values[found] = row, column, scores[row, column]
                    found += scores[row, column] > cut_score
    return found

"""The backend that people know: faiss' flat inner-product index on a CPU, made exact by the shared rule."""

from collections.abc import Iterator
from functools import cached_property
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from ffnsearch_indexer.errors import BackendError
from ffnsearch_indexer.index.base import Float16
from ffnsearch_indexer.index.scan import Pairs, ScanIndex

BLAS_QUERIES = 3
"""From how many queries on faiss multiplies matrices; by default it waits for 128,000 / D, ten times slower at 64."""


class FaissFlatIndex(ScanIndex):
    """Scores by `IndexFlatIP` over tiles of ids, its radius lowered by the error of a float32 score.

    The tiles are built at the first search and hold the keys as float32: 4 N D bytes that stay. A search
    takes up to 70 bytes for each pair of a tile and `queries_max` queries: about 150 MB when all match.

    faiss brings its own OpenBLAS and OpenMP, torch has others: each keeps a pool of threads, so set
    OMP_NUM_THREADS where both must share few cores. The settings in `faiss.cvar` are the process'.
    """

    name: ClassVar[str] = "faiss"
    tile_keys: ClassVar[int] = 16_384
    queries_max: ClassVar[int] = 128

    def scan(self, queries: Float16, cut_score: np.float32, ids: range) -> Iterator[Pairs]:
        """Search the tiles that `ids` touches, some queries at a time; the contract is the base's."""
        vectors = queries.astype(np.float32)
        _faiss().cvar.distance_compute_blas_threshold = BLAS_QUERIES * queries.shape[1]
        for number in range(ids.start // self.tile_keys, -(-ids.stop // self.tile_keys)):
            for row in range(0, len(vectors), self.queries_max):
                pairs = self._search_tile(number, vectors[row : row + self.queries_max], cut_score)
                wanted = np.flatnonzero((pairs.ids >= ids.start) & (pairs.ids < ids.stop))
                yield Pairs(pairs.rows[wanted] + row, pairs.ids[wanted], pairs.scores[wanted])

    def _search_tile(self, number: int, vectors: np.ndarray, cut_score: np.float32) -> Pairs:
        lims, scores, columns = self._tiles[number].range_search(vectors, float(cut_score))
        rows = np.repeat(np.arange(len(vectors)), np.diff(lims.astype(np.int64)))
        return Pairs(rows, columns + number * self.tile_keys, scores)

    @cached_property
    def _tiles(self) -> list[Any]:
        faiss = _faiss()
        tiles = []
        for first in range(0, len(self.keys), self.tile_keys):
            tiles.append(faiss.IndexFlatIP(self.keys.shape[1]))
            tiles[-1].add(self.keys[first : first + self.tile_keys].astype(np.float32))
        return tiles


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError:
        raise BackendError(
            "the backend faiss is not installed: pip install faiss-cpu, or choose the backend exact",
            reason="BACKEND_NOT_INSTALLED",
            backend="faiss",
        ) from None
    module: ModuleType = faiss
    return module

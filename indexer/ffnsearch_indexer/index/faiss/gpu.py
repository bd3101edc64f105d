"""faiss on GPUs, made exact: it has no range search, but lists a limited number of a query's best keys.

A query is answered by its best, as long as the last of these is not above the cut: then nothing above it is missing.
One that has more is searched again, tile by tile, where fewer are; what has more still, in a tile, by the CPU.

Scores are float32 sums of products that float32 holds exactly, in some order, which is what the shared rule asks for.
faiss multiplies with cuBLAS' sgemm, which may not round its inputs, and would lose nothing if it did: TF32 holds every
float16 value. Sums that hardware truncates could be worse than the rule allows: float16 storage and cuVS, which may
have such, stay off.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Protocol

import numpy as np

from ffnsearch_indexer.corpora.substrings import NextTokenCounts
from ffnsearch_indexer.errors import DEVICE_FAILED, DEVICE_MEMORY, DeviceError
from ffnsearch_indexer.index.base import Float16, Float32, Int64
from ffnsearch_indexer.index.faiss.flat import FaissFlatIndex, flat_of
from ffnsearch_indexer.index.faiss.library import count_gpus, library
from ffnsearch_indexer.index.scan import Pairs
from ffnsearch_indexer.parts import parts_of

TEMPORARY_BYTES = 1 << 28
"""What each block's searches may use of each GPU beside the index; faiss would take 1.5 GiB."""

PINNED_BYTES = 1 << 25
"""Memory of the host that a block's queries and results are copied through; faiss would take 256 MiB."""


class IndexCopier(Protocol):
    """Where indexes are copied to, and how many of a query's best they then list at most."""

    best_max: int

    def copy(self, index: Any) -> Any:
        """A copy of a CPU index with `ntotal` and `search(vectors [B, D] float32, k)`, which gives scores and ids."""


class Gpus:
    """All GPUs of this machine; of several, each holds its share of an index. One thread at a time may use a copy."""

    best_max = 2048

    def __init__(self) -> None:
        self._resources = [library().StandardGpuResources() for _ in range(count_gpus())]
        for resources in self._resources:
            resources.setTempMemory(TEMPORARY_BYTES)
            resources.setPinnedMemory(PINNED_BYTES)

    def copy(self, index: Any) -> Any:
        """Copy an index to the GPUs as it is; float16 and cuVS stay off."""
        faiss = library()
        options = faiss.GpuMultipleClonerOptions()
        options.shard = True
        options.use_cuvs = False
        try:
            return faiss.index_cpu_to_gpu_multiple_py(self._resources, index, options)
        except RuntimeError as error:
            raise _failed(error) from None


def best_above(copy: Any, vectors: Float32, cut_score: np.float32, best_max: int) -> tuple[Pairs, Int64]:
    """The pairs above the cut of all queries that have no more than `best_max`; and the rows of the others.

    Raises DeviceError where the device fails.
    """
    k = min(best_max, copy.ntotal)
    try:
        scores, ids = copy.search(vectors, k)
    except RuntimeError as error:
        raise _failed(error) from None
    is_above = (scores > cut_score) & (ids >= 0)  # -1 where an index of lists has no more
    has_more = is_above[:, -1] & (k < copy.ntotal)
    rows, places = np.nonzero(is_above & ~has_more[:, None])
    return Pairs(rows, ids[rows, places], scores[rows, places]), np.flatnonzero(has_more)


class FaissGpuFlatIndex(FaissFlatIndex):
    """`GpuIndexFlat` with the integers of every other backend.

    The index of all keys is copied to the device at the first search, 4 N D bytes, and once more in tiles when a query
    first has more neighbors than the device lists.
    """

    queries_max: ClassVar[int] = 1024

    def __init__(self, keys: Float16, counts: NextTokenCounts, flat: Any = None, *, device: IndexCopier) -> None:
        super().__init__(keys, counts, flat)
        self._device = device
        self._copies: dict[range, Any] = {}

    def scan(self, queries: Float16, cut_score: np.float32, ids: range) -> Iterator[Pairs]:
        """Ask for the best of all keys, then of tiles for the queries that have more; the contract is the base's."""
        vectors, best_max = queries.astype(np.float32), self._device.best_max
        for part in parts_of(len(vectors), self.queries_max):
            some = vectors[part]
            pairs, fuller = best_above(self._copy(range(len(self.keys))), some, cut_score, best_max)
            yield within(ids, Pairs(pairs.rows + part.start, pairs.ids, pairs.scores))
            if len(fuller):
                for pairs in self._scan_tiles(some[fuller], cut_score, ids):
                    yield within(ids, Pairs(fuller[pairs.rows] + part.start, pairs.ids, pairs.scores))

    def _scan_tiles(self, vectors: Float32, cut_score: np.float32, ids: range) -> Iterator[Pairs]:
        """Search the tiles that `ids` touches, other keys of theirs included."""
        for tile in self._tiles(ids):
            pairs, fuller = best_above(self._copy(tile), vectors, cut_score, self._device.best_max)
            yield Pairs(pairs.rows, pairs.ids + tile.start, pairs.scores)
            for part in parts_of(len(fuller), FaissFlatIndex.queries_max):
                rows = fuller[part]
                pairs = self._search_tile(tile, vectors[rows], cut_score)
                yield Pairs(rows[pairs.rows], pairs.ids, pairs.scores)

    def _copy(self, ids: range) -> Any:
        """Some keys on the device."""
        if ids not in self._copies:
            is_whole = len(ids) == len(self.keys)
            index = self.flat if is_whole else flat_of(self.keys[ids.start : ids.stop])
            self._copies[ids] = self._device.copy(index)
        return self._copies[ids]


def within(ids: range, pairs: Pairs) -> Pairs:
    """The pairs with an id in `ids`."""
    inside = np.flatnonzero((pairs.ids >= ids.start) & (pairs.ids < ids.stop))
    return Pairs(pairs.rows[inside], pairs.ids[inside], pairs.scores[inside])


def _failed(error: RuntimeError) -> DeviceError:
    words = " ".join(str(error).split())
    return DeviceError(
        f"faiss failed on the GPU ({words}): free memory there, or choose --device cpu",
        reason=DEVICE_MEMORY if "alloc" in words or "out of memory" in words else DEVICE_FAILED,
    )

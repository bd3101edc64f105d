"""The reference backend on a device: float16 products with float32 sums, and everything after them, run there.

Shapes: B queries, b of them at a time, N keys, n of them in a tile, D d_model, S thresholds, M pairs, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffnsearch_indexer.errors import BackendError
from ffnsearch_indexer.hardware.precision import require_full_precision
from ffnsearch_indexer.index.base import (
    Checkpoint,
    Float64,
    Int64,
    Neighbors,
    RangeSums,
    join_neighbors,
)
from ffnsearch_indexer.index.device import (
    DeviceIndex,
    free_bytes,
    limits_around,
    to_device,
)
from ffnsearch_indexer.index.sums import SumAccumulator
from ffnsearch_indexer.parts import parts_of

BYTES_PER_SCORE = 64
"""What a tile takes for each of its scores at most: where all of them are pairs, their rows, ids and levels."""

Result = TypeVar("Result")


class _Pairs(NamedTuple):
    """Pairs of a query and a key that may be above a threshold. rows, ids: [M] int64. scores: [M] float32."""

    rows: Tensor
    ids: Tensor
    scores: Tensor


class ExactDeviceIndex(DeviceIndex):
    """Scores by matrix products of tiles, decided, and their counts summed, on a device.

    The keys stay there from the first search on, 2 N D bytes, where they take at most half of what is free; else each
    search copies them tile by tile. A tile takes a quarter of what is free at most. Raises BackendError where the
    device is missing, and DeviceError where it fails, or has too little memory even for small tiles.
    """

    queries_max: ClassVar[int] = 4096
    scores_max: ClassVar[int] = 1 << 28
    scores_min: ClassVar[int] = 1 << 16
    values_max: ClassVar[int] = 1 << 24
    """Most values of vectors that are gathered at once, and entries of counts, for pairs that are decided or added.

    As many pairs as an eighth of it go through all steps together: each has some eight numbers on the way.
    """
    sums_bytes_max: ClassVar[int] = 1 << 30

    def _range_sum(self, queries: Tensor, thresholds: Sequence[float], checkpoint: Checkpoint) -> RangeSums:
        """Sum tile by tile."""
        _require_precision()
        result = SumAccumulator(len(queries), thresholds, self.counts)
        rows_max = min(self.queries_max, result.rows_within(self.sums_bytes_max))
        for rows in parts_of(len(queries) if len(thresholds) else 0, rows_max):
            attempt = partial(self._summed, queries[rows], result.thresholds, checkpoint)
            result.add_sums(rows, self._in_smaller_tiles(attempt))
        return result.sums()

    def _range_search(self, queries: Tensor, limit: Float64, ids: range, checkpoint: Checkpoint) -> Neighbors:
        """Compute the exact score of every pair that may be above the limit, tile by tile."""
        _require_precision()
        found = []
        for part in parts_of(len(queries), self.queries_max):
            of_part = self._in_smaller_tiles(partial(self._neighbors, queries[part], limit, ids, checkpoint))
            found += [(rows + part.start, key_ids, scores) for rows, key_ids, scores in of_part]
        return join_neighbors(found, len(queries))

    def _in_smaller_tiles(self, attempt: Callable[[int], Result]) -> Result:
        """Attempt the work with tiles of as many scores as memory should hold; where it does not, again with half."""
        scores = max(self.scores_min, min(self.scores_max, free_bytes(self.device) // 4 // BYTES_PER_SCORE))
        while True:
            try:
                return attempt(scores)
            except torch.OutOfMemoryError:
                if scores <= self.scores_min:
                    raise
                scores = max(self.scores_min, scores // 2)

    def _summed(self, vectors: Tensor, thresholds: Float64, checkpoint: Checkpoint, scores: int) -> Int64:
        """The sums [b, S, V + 1] of queries, each pair at the highest of the ascending thresholds that it exceeds."""
        limits = to_device(thresholds, self.device)
        shape = len(vectors), len(thresholds), self.counts.vocabulary_size + 1
        sums = torch.zeros(shape, dtype=torch.int64, device=self.device)
        for pairs, first, keys in self._pairs(vectors, thresholds, range(len(self.keys)), scores, checkpoint):
            for part in parts_of(len(pairs.ids), max(1, self.values_max // 8)):
                some = _Pairs(*(tensor[part] for tensor in pairs))
                self._add(sums, some.rows, some.ids + first, self._levels(vectors, keys, some, limits))
                checkpoint()
        return sums.cpu().numpy()

    def _neighbors(
        self, vectors: Tensor, limit: Float64, ids: range, checkpoint: Checkpoint, scores: int
    ) -> list[tuple[Int64, Int64, Float64]]:
        """Rows, ids and exact scores of neighbors, tile by tile."""
        found = []
        for pairs, first, keys in self._pairs(vectors, limit, ids, scores, checkpoint):
            for part in parts_of(len(pairs.ids), max(1, self.values_max // keys.shape[1])):
                rows, places = pairs.rows[part], pairs.ids[part]
                exact = _exact_scores(vectors, keys, rows, places)
                above = exact > float(limit[0])
                found.append((_numpy(rows[above]), _numpy(places[above] + first), _numpy(exact[above])))
                checkpoint()
        return found

    def _pairs(
        self, vectors: Tensor, thresholds: Float64, ids: range, scores: int, checkpoint: Checkpoint
    ) -> Iterator[tuple[_Pairs, int, Tensor]]:
        """Yield the pairs of each tile of keys that may be above the lowest threshold, its first id, and the tile."""
        least = float(limits_around(thresholds[:1], self._error)[0, 0])
        step = max(1, scores // max(1, len(vectors)))
        for first, keys in self._tiles(ids, step):
            products = self._products(vectors, keys)
            rows, places = torch.nonzero(products > least, as_tuple=True)
            found = _Pairs(rows, places, products[rows, places])
            del products
            yield found, first, keys
            checkpoint()

    def _products(self, vectors: Tensor, keys: Tensor) -> Tensor:
        """The float32 scores [b, n] of float16 vectors: on a CPU, which lacks such a product, of widened ones."""
        if vectors.device.type == "cpu":
            return torch.mm(vectors.float(), keys.float().T)
        return torch.mm(vectors, keys.T, out_dtype=torch.float32)

    def _levels(self, vectors: Tensor, keys: Tensor, pairs: _Pairs, limits: Tensor) -> Tensor:
        """How many thresholds [S] each pair exceeds; pairs that are too close to one are decided exactly."""
        scores = pairs.scores.double()
        levels = torch.searchsorted(limits, scores - self._error)
        unsure = torch.nonzero(levels != torch.searchsorted(limits, scores + self._error)).ravel()
        for part in parts_of(len(unsure), max(1, self.values_max // keys.shape[1])):
            close = unsure[part]
            exact = _exact_scores(vectors, keys, pairs.rows[close], pairs.ids[close])
            levels[close] = torch.searchsorted(limits, exact)
        return levels

    def _add(self, sums: Tensor, rows: Tensor, ids: Tensor, levels: Tensor) -> None:
        """Add the counts of pairs at their levels to sums [b, S, V + 1], `values_max` entries at a time."""
        offsets, tokens, counts = self._counts
        is_above = levels > 0
        rows, ids, levels = rows[is_above], ids[is_above], levels[is_above]
        lengths = offsets[ids + 1] - offsets[ids]
        entries = int(lengths.sum())
        if entries > self.values_max and len(ids) > 1:
            for half in parts_of(len(ids), -(-len(ids) // 2)):
                self._add(sums, rows[half], ids[half], levels[half])
            return
        _, steps, columns = sums.shape
        target, flat = (rows * steps + levels - 1) * columns, sums.view(-1)
        flat.index_add_(0, target + columns - 1, torch.ones_like(target))
        ends = torch.cumsum(lengths, 0)
        places = torch.arange(entries, device=self.device)
        places += torch.repeat_interleave(offsets[ids] - ends + lengths, lengths, output_size=entries)
        of_entries = torch.repeat_interleave(target, lengths, output_size=entries)
        flat.index_add_(0, of_entries + tokens[places], counts[places])

    def _tiles(self, ids: range, step: int) -> Iterator[tuple[int, Tensor]]:
        """Yield tiles of keys on the device, [n, D] float16, and the first id of each."""
        resident = self._resident
        for first in range(ids.start, ids.stop, step):
            part = slice(first, min(ids.stop, first + step))
            if resident is not None:
                yield first, resident[part]
                continue
            source = torch.from_numpy(np.array(self.keys[part]))
            if self.device.type == "cuda":
                source = source.pin_memory()  # torch frees it when the copy is done, and fills the next one meanwhile
            yield first, source.to(self.device, non_blocking=True)

    @cached_property
    def _resident(self) -> Tensor | None:
        """All keys on the device; None where they do not fit."""
        if 2 * self.keys.nbytes > free_bytes(self.device):
            return None
        resident = torch.empty(self.keys.shape, dtype=torch.float16, device=self.device)
        for part in parts_of(len(self.keys), max(1, self.values_max // self.keys.shape[1])):
            resident[part] = to_device(self.keys[part], self.device)
        return resident

    @cached_property
    def _counts(self) -> tuple[Tensor, ...]:
        """Offsets, tokens and counts of the next-token counts, all as int64."""
        tokens, counts = (array.astype(np.int64) for array in (self.counts.tokens, self.counts.counts))
        return tuple(to_device(array, self.device) for array in (self.counts.offsets, tokens, counts))


def _require_precision() -> None:
    """Refuse what would let float16 into the sums of products."""
    require_full_precision("exact")
    if torch.backends.cuda.matmul.allow_fp16_accumulation:
        raise BackendError(
            "the backend exact needs float32 sums: set torch.backends.cuda.matmul.allow_fp16_accumulation = False",
            reason="REDUCED_PRECISION",
        )


def _exact_scores(vectors: Tensor, keys: Tensor, rows: Tensor, places: Tensor) -> Tensor:
    """The exact scores [M] float64 of pairs, in any order of summation."""
    return (vectors[rows].double() * keys[places].double()).sum(dim=1)


def _numpy(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.cpu().numpy()
    return array

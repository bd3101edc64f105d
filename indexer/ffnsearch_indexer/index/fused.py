"""The fast exact backend for GPUs: tensor cores multiply tiles of queries with tiles of keys; scores stay on the chip.

Shapes: B queries, N keys, D d_model, S thresholds, V vocabulary, P programs on the device.

1. Where the snapshot has tiles, queries are multiplied with the centres of the tiles, and each tile of keys is empty,
   whole or open for each tile of queries (`bound_tiles`). A whole one adds its summed counts.
2. Tiles of queries are multiplied with open tiles of keys; what is above a threshold, or may be, is compared in
   registers and listed as two numbers a pair, each program in a list of its own (`scan_tiles`).
3. Pairs of the lists add their rows of counts; those too close to a threshold are decided in float64 (`add_pairs`).

A program whose list is too short still counts all of its pairs: then that whole piece of work is done again, with
longer lists or in halves. All sums are of integers, so any split of the work adds up to the same.
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ffnsearch_indexer.corpora.substrings import NextTokenCounts
from ffnsearch_indexer.errors import BackendError
from ffnsearch_indexer.index.base import (
    Checkpoint,
    Float16,
    Float64,
    Int64,
    Neighbors,
    RangeSums,
    nobody_waits,
)
from ffnsearch_indexer.index.device import (
    DeviceIndex,
    QueuedSums,
    free_bytes,
    limits_around,
    to_device,
)
from ffnsearch_indexer.index.fused_layout import GROUP, Layout, lay_out
from ffnsearch_indexer.index.fused_tilings import SearchSettings, Tiling, tiling_of
from ffnsearch_indexer.index.sums import SumAccumulator
from ffnsearch_indexer.index.tiles import Tiles
from ffnsearch_indexer.parts import parts_of

SLACK = 64 * 2.0**-24
"""What float32 adds to bounds: few operations on numbers below 2, as in `tiles`."""

LEVELS_MAX = 255
"""Most thresholds of one search on the device: a level is one byte of a listed pair."""

COLUMNS_MAX = 256
"""Larger vocabularies have no summed counts of tiles: whole tiles are left open."""

BOUND_WARPS = 8
"""Warps of `bound_tiles`, which keeps several numbers of each query and centre in registers."""

BOUND_STAGES = 1
"""Steps of `bound_tiles` that are under way at a time. With more, Triton gives the queries, which are used twice there,
two buffers for three steps, and fills one anew while a product may still read it: bounds would be wrong, now and then.
"""

SHARED_BYTES_BESIDES = 3 << 10
"""What a kernel takes of a multiprocessor's shared memory beside its tiles."""

ENTRIES, LONG_ROW = 4, 256
"""Entries of a row of counts that are added at once, and from which length of a row on it is more."""

Result = TypeVar("Result")


class _ListTooShortError(Exception):
    """A program found more pairs than its list holds; the argument is how many."""


class Limits(NamedTuple):
    """Thresholds on the device. exact: [S] float64. rounded: [3, S] float32, `limits_around` and the plain ones."""

    exact: Tensor
    rounded: Tensor


class Lists(NamedTuple):
    """What `scan_tiles` listed.

    places, marks: [P, room] int32. found: [P] int32. sums: [b, S, V + 1] int64, of whole tiles; of none where neighbors
    are listed. zeros: int64, sums and found in one. splits: programs of a query tile.
    """

    places: Tensor
    marks: Tensor
    found: Tensor
    sums: Tensor
    zeros: Tensor
    splits: int

    @property
    def room(self) -> int:
        """How many pairs a list holds."""
        return self.places.shape[1]


class Form(NamedTuple):
    """What a sum leaves on the device: int64, the sums and then, as int32, how many pairs each of `programs` found.

    shape: of the sums. room: pairs that a list held. limits: those it was queued with, kept for when it is done again.
    """

    shape: tuple[int, ...]
    programs: int
    room: int
    limits: Limits

    def read(self, here: Int64) -> Int64:
        """The sums, once they are in this machine's memory; raises _ListTooShortError where pairs lack."""
        size = math.prod(self.shape)
        _require_room(int(here[size:].view(np.int32)[: self.programs].max()), self.room)
        return here[:size].reshape(self.shape)


class FusedIndex(DeviceIndex):
    """Range sums in Triton kernels, with the keys resident.

    They take 2 N D bytes of the device, their counts 12 each, ids and offsets 12 of each key, and of groups of keys the
    centres D / 16 and the sums V / 4 of each key.

    tiles: of the snapshot; without them no tile is skipped. skips: whether tiles may be. A search takes the lists
    beside the result, a quarter of what is free at most. Raises BackendError where Triton or the device is missing, and
    DeviceError where it has too little memory, or fails.
    """

    queries_max: ClassVar[int] = 4096
    sums_bytes_max: ClassVar[int] = 1 << 30
    queued_bytes_max: ClassVar[int] = 1 << 26
    columns_max: ClassVar[int] = COLUMNS_MAX
    settings: ClassVar[SearchSettings] = SearchSettings(
        centres=64,
        programs=1056,
        room=1 << 12,
        pairs=32,
        tilings=(
            Tiling(16, 32, 128, 4, 3),
            Tiling(64, 64, 128, 4, 3, sharers=4),
            Tiling(128, 32, 128, 8, 4, queries_first=True, sharers=4),
        ),
    )

    def __init__(
        self,
        keys: Float16,
        counts: NextTokenCounts,
        tiles: Tiles | None = None,
        *,
        device: str = "cuda",
        skips: bool = True,
    ) -> None:
        super().__init__(keys, counts, device=device)
        assert tiles is None or len(tiles.order) == len(keys), "the tiles are those of the keys"
        self.skips = skips and tiles is not None
        self._order = None if tiles is None else tiles.order
        self._room = self.settings.room
        self._last_limits: tuple[bytes, Limits] | None = None

    def _range_sum(self, queries: Tensor, thresholds: Sequence[float], checkpoint: Checkpoint) -> RangeSums:
        """Sum as many queries with as many keys at a time as there is room for."""
        if len(thresholds) > LEVELS_MAX:
            parts = (thresholds[part] for part in parts_of(len(thresholds), LEVELS_MAX))
            found = [self._range_sum(queries, part, checkpoint) for part in parts]
            freq, neighbors = (np.concatenate(of_parts, axis=1) for of_parts in zip(*found, strict=True))
            return RangeSums(freq, neighbors)
        result = SumAccumulator(len(queries), thresholds, self.counts)
        rows_max = min(self.queries_max, result.rows_within(self.sums_bytes_max))

        def attempt(rows: range, part: range) -> Int64:
            return self._summed(queries[rows.start : rows.stop], result.thresholds, part)

        queries_to_sum, everything = len(queries) if len(thresholds) else 0, range(len(self.keys))
        for rows, sums in self._pieces(queries_to_sum, rows_max, everything, attempt, checkpoint):
            result.add_sums(slice(rows.start, rows.stop), sums)
        return result.sums()

    def queue_sums(self, queries: Tensor, thresholds: Sequence[float]) -> QueuedSums | None:
        """Queue a search whose queries, thresholds and sums are not too many for one piece, and not so large."""
        self.begin(queries, thresholds, nobody_waits)
        B = queries.shape[0]
        empty = SumAccumulator(B, thresholds, self.counts)
        rows_max = min(self.queries_max, empty.rows_within(self.queued_bytes_max))
        if not (0 < B <= rows_max and 0 < len(thresholds) <= LEVELS_MAX):
            return None
        try:
            counted, form = self._counted(queries, empty.thresholds, range(len(self.keys)))
        except torch.OutOfMemoryError:
            return None

        def read(here: Int64) -> RangeSums | None:
            result = SumAccumulator(B, thresholds, self.counts)
            try:
                result.add_sums(slice(None), form.read(here))
            except _ListTooShortError as error:
                self._lengthen(int(error.args[0]))
                return None
            return result.sums()

        return QueuedSums(counted, read)

    def _range_search(self, queries: Tensor, limit: Float64, ids: range, checkpoint: Checkpoint) -> Neighbors:
        """List pairs, count by count until the lists hold them."""
        counts = np.zeros(len(queries), np.int64)
        found_ids, found_scores = [np.empty(0, np.int64)], [np.empty(0)]

        def attempt(rows: range, part: range) -> tuple[Int64, Int64, Float64]:
            return self._neighbors(queries[rows.start : rows.stop], limit, part)

        for rows, (row, id_, score) in self._pieces(len(queries), self.queries_max, ids, attempt, checkpoint):
            counts[rows.start : rows.stop] += np.bincount(row, minlength=len(rows))
            found_ids.append(id_)
            found_scores.append(score)
        return Neighbors(np.append(0, np.cumsum(counts)), np.concatenate(found_ids), np.concatenate(found_scores))

    def _pieces(
        self,
        queries: int,
        rows_max: int,
        ids: range,
        attempt: Callable[[range, range], Result],
        checkpoint: Checkpoint,
    ) -> Iterator[tuple[range, Result]]:
        """Attempt all queries with all ids, `rows_max` queries at a time, in order; what does not fit is halved."""
        starts = range(0, queries, rows_max)
        waiting = [(range(first, min(queries, first + rows_max)), ids) for first in reversed(starts)]
        while waiting:
            rows, part = waiting.pop()
            try:
                result = attempt(rows, part)
            except _ListTooShortError as error:
                is_longer = self._lengthen(int(error.args[0]))
                waiting += [(rows, part)] if is_longer else _halves(rows, part)
            except torch.OutOfMemoryError:
                self._room = self.settings.room
                halves = _halves(rows, part)
                if len(halves) < 2:
                    raise
                waiting += halves
            else:
                yield rows, result
                checkpoint()

    def _lengthen(self, pairs: int) -> bool:
        """Make lists that hold `pairs` pairs each from now on, or more; False where memory does not allow it."""
        room = max(self._room, 1 << (pairs - 1).bit_length())
        programs = self.settings.programs + self.queries_max // self._tiling(self.queries_max).queries
        if room * programs * 8 > self._lists_bytes_max:
            return False
        self._room = room
        return True

    @property
    def _lists_bytes_max(self) -> int:
        return free_bytes(self.device) // 4

    def _summed(self, queries: Tensor, thresholds: Float64, ids: range) -> Int64:
        """The sums [b, S, V + 1] of queries at the highest threshold that each pair with an id exceeds."""
        counted, form = self._counted(queries, thresholds, ids)
        return form.read(counted.cpu().numpy())

    def _counted(self, queries: Tensor, thresholds: Float64, ids: range) -> tuple[Tensor, Form]:
        """Queue a sum on the device, without waiting for it."""
        tiling = self._tiling(queries.shape[0])
        vectors, order = self._prepared(queries, tiling)
        limits = self._limits(thresholds)
        lists = self._list(vectors, tiling, (queries.shape[0], len(thresholds), self._columns), limits, ids)
        layout, programs = self._layout, lists.found.shape[0]
        self._kernels.add_pairs[programs, tiling.sharers](
            *(vectors, layout.keys, lists.places, lists.marks, lists.found, limits.exact),
            *(layout.offsets, layout.tokens, layout.counts, lists.sums),
            *(lists.room, lists.splits, len(thresholds)),
            **{"D": vectors.shape[1], "Y": self._columns, "TILE_QUERIES": tiling.queries},
            **{
                "PAIRS": self.settings.pairs * ENTRIES // self._entries,
                "ENTRIES": self._entries,
                "DEPTH": tiling.depth,
                "num_warps": 4,
            },
        )
        if order is not None:
            lists.sums[order] = lists.sums.clone()
        return lists.zeros, Form(lists.sums.shape, programs, lists.room, limits)

    def _neighbors(self, queries: Tensor, thresholds: Float64, ids: range) -> tuple[Int64, Int64, Float64]:
        """Rows, ids and exact scores of the neighbors of queries among some ids, by row and id."""
        tiling = self._tiling(queries.shape[0])
        vectors, order = self._prepared(queries, tiling)
        lists = self._list(vectors, tiling, (queries.shape[0], 0, 0), self._limits(thresholds), ids)
        most = int(lists.found.max())
        _require_room(most, lists.room)
        scores = torch.empty(lists.places.shape, dtype=torch.float64, device=self.device)
        self._kernels.score_pairs[lists.found.shape[0], tiling.sharers](
            *(vectors, self._layout.keys, lists.places, lists.marks, lists.found, scores),
            *(lists.room, lists.splits),
            **{"D": vectors.shape[1], "TILE_QUERIES": tiling.queries},
            **{"PAIRS": self.settings.pairs, "DEPTH": tiling.depth, "num_warps": 4},
        )
        is_listed = torch.arange(most, device=self.device) < lists.found[:, None]
        program, lane = torch.nonzero(is_listed, as_tuple=True)
        score = scores[program, lane]
        is_above = score > thresholds[0]
        program, lane, score = program[is_above], lane[is_above], score[is_above]
        row = program // lists.splits * tiling.queries + lists.marks[program, lane] // 256
        row = row if order is None else order[row]
        id_ = self._layout.ids[lists.places[program, lane].long()].long()
        place = torch.argsort(row * len(self.keys) + id_)
        return row[place].cpu().numpy(), id_[place].cpu().numpy(), score[place].cpu().numpy()

    def _prepared(self, queries: Tensor, tiling: Tiling) -> tuple[Tensor, Tensor | None]:
        """Queries [b, D] on the device in whole tiles, near ones together, and which each is, None where in order."""
        (B, D), width = queries.shape, self._layout.keys.shape[1]
        vectors = torch.nn.functional.pad(queries, (0, width - D, 0, -B % tiling.queries))
        if not self.skips or tiling.queries >= B:
            return vectors, None
        nearest = torch.mm(vectors[:B], self._layout.centres[::4].T).argmax(dim=1)
        order = torch.argsort(nearest, stable=True)
        vectors[:B] = vectors[order]
        return vectors, order

    def _limits(self, thresholds: Float64) -> Limits:
        """Thresholds on the device: those of the last search are there."""
        bits = thresholds.tobytes()
        if self._last_limits is None or self._last_limits[0] != bits:
            clipped = thresholds.clip(-2, 2).astype(np.float32)  # no score is beyond; the slack covers what is rounded
            rounded = np.vstack([limits_around(thresholds, self._error), clipped])
            limits = Limits(*(to_device(array, self.device) for array in (thresholds, rounded)))
            self._last_limits = bits, limits
        return self._last_limits[1]

    def _list(self, vectors: Tensor, tiling: Tiling, shape: tuple[int, int, int], limits: Limits, ids: range) -> Lists:
        """List the pairs of queries and ids that may be above the lowest threshold.

        shape: of the sums, to which whole tiles are added; of none where these are to be listed too.
        """
        layout, settings, B = self._layout, self.settings, shape[0]
        query_tiles, tiles = vectors.shape[0] // tiling.queries, -(-len(self.keys) // tiling.keys)
        splits = max(1, min(tiles, -(-settings.programs // query_tiles)))
        programs, size = query_tiles * splits, math.prod(shape)
        zeros = torch.zeros(size + -(-(query_tiles + programs) // 2), dtype=torch.int64, device=self.device)
        sums, counters = zeros[:size].view(shape), zeros[size:].view(torch.int32)
        found, open_lengths = counters[:programs], counters[programs : programs + query_tiles]
        open_tiles = self._integers(query_tiles, tiles if self.skips else 1)
        places, marks = self._integers(2, programs, self._room)
        if self.skips:
            whole = sums if size and len(ids) == len(self.keys) else None
            self._bound(vectors, tiling, B, limits.rounded[2], open_tiles, open_lengths, whole)
        self._kernels.scan_tiles[query_tiles, splits](
            *(vectors, layout.keys, layout.ids, open_tiles, open_lengths, limits.rounded, places, marks, found),
            *(self._room, ids.start, ids.stop, B, tiles, limits.exact.shape[0]),
            **{"D": vectors.shape[1], "SKIPS": self.skips, "TILE_KEYS": tiling.keys, "TILE_QUERIES": tiling.queries},
            **{"DEPTH": tiling.depth, "RESIDENT": tiling.resident, "QUERIES_FIRST": tiling.queries_first},
            num_warps=tiling.warps,
            num_stages=tiling.stages,
        )
        return Lists(places, marks, found, sums, zeros, splits)

    def _bound(
        self,
        vectors: Tensor,
        tiling: Tiling,
        B: int,
        limits: Tensor,
        open_tiles: Tensor,
        open_lengths: Tensor,
        sums: Tensor | None,
    ) -> None:
        """List the tiles that are left open for each tile of queries; where sums are given, add whole ones to them."""
        layout, settings = self._layout, self.settings
        adds = sums is not None and layout.group_sums.shape[0] > 0
        longer = 1 + (self.keys.shape[1] + 32) * 2.0**-23  # D roundings of a sum, and what the bound rounds itself
        self._kernels.bound_tiles[open_tiles.shape[0], layout.centres.shape[0] // settings.centres](
            *(vectors, layout.centres, layout.bounds, limits, layout.group_sums, open_tiles, open_lengths),
            *(sums if adds else open_lengths, self._error, SLACK, longer),
            *(B, -(-len(self.keys) // GROUP), open_tiles.shape[1], limits.shape[0]),
            **{"D": vectors.shape[1], "Y": self._columns, "COLUMNS": 1 << (self._columns - 1).bit_length()},
            **{"ADDS": adds, "GROUP": GROUP, "TILE_KEYS": tiling.keys, "TILE_QUERIES": tiling.queries},
            **{"CENTRES": settings.centres, "DEPTH": tiling.depth},
            num_warps=BOUND_WARPS,
            num_stages=BOUND_STAGES,
        )

    def _integers(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int32, device=self.device)

    def _tiling(self, queries: int) -> Tiling:
        return tiling_of(self.settings, queries, self.keys.shape[1], self._shared_bytes)

    @cached_property
    def _shared_bytes(self) -> int:
        """What a tiling may take of a multiprocessor's memory; the interpreter has no limit."""
        if self.device.type == "cpu":
            return sys.maxsize
        properties: Any = torch.cuda.get_device_properties(self.device)  # torch's types lack some of them
        return int(properties.shared_memory_per_block_optin) - SHARED_BYTES_BESIDES

    @property
    def _columns(self) -> int:
        """Columns of a result: the vocabulary, and the neighbors themselves."""
        return self.counts.vocabulary_size + 1

    @cached_property
    def _entries(self) -> int:
        """Entries of a row of counts that are added at once: as few as most rows have, more where one is long."""
        longest = int(np.diff(self.counts.offsets).max())
        return ENTRIES if longest <= LONG_ROW else self.settings.pairs // ENTRIES

    @cached_property
    def _layout(self) -> Layout:
        """The block on the device, put there by the first search."""
        settings = self.settings
        return lay_out(
            self.keys,
            self.counts,
            self._order,
            self.device,
            whole_keys=settings.centres * GROUP,
            depth=max(tiling.depth for tiling in settings.tilings),
            columns_max=self.columns_max,
        )

    @cached_property
    def _kernels(self) -> ModuleType:
        try:
            from ffnsearch_indexer.index import fused_kernels
        except ImportError:
            raise BackendError(
                "the backend fused needs Triton: pip install triton, or choose the backend exact",
                reason="BACKEND_NOT_INSTALLED",
                backend="fused",
            ) from None
        return fused_kernels


def _require_room(most: int, room: int) -> None:
    """Raise _ListTooShortError where a program found more pairs than its list holds."""
    if most > room:
        raise _ListTooShortError(most)


def _halves(rows: range, ids: range) -> list[tuple[range, range]]:
    """Two halves of the queries, or of the ids of one, the first of them last; one piece where nothing can be cut."""
    if len(rows) > 1:
        middle = rows.start + len(rows) // 2
        return [(range(middle, rows.stop), ids), (range(rows.start, middle), ids)]
    if len(ids) > 1:
        middle = ids.start + len(ids) // 2
        return [(rows, range(middle, ids.stop)), (rows, range(ids.start, middle))]
    return [(rows, ids)]

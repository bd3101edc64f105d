"""The fast exact backend of CPUs: most keys are decided by bounds, whole tiles at a time, and few are looked at.

Shapes: B queries, n tiles of 32 keys, D d_model, P dimensions of a prefix, S thresholds, V vocabulary.

1. Each query's products with all centres are one matrix product (bfloat16 where the processor multiplies it in
   hardware); a tile that is above or below every threshold as a whole is decided by them, with its summed counts.
2. In the other tiles, P dimensions of every key bound its score from both sides.
3. Only pairs that a threshold still lies between read the key itself: a float32 score, and where that is too close, the
   exact one.

What the bounds are and why they hold is told in `tiles`.
"""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from ffnsearch_indexer.corpora.substrings import NextTokenCounts
from ffnsearch_indexer.index.base import (
    Checkpoint,
    Float16,
    Float32,
    Float64,
    Index,
    Int64,
    Neighbors,
    RangeSums,
    exact_scores,
    join_neighbors,
    level_of,
    levels_above,
    nobody_waits,
    score_error,
)
from ffnsearch_indexer.index.machine import prefetch, widened
from ffnsearch_indexer.index.precision import require_full_precision
from ffnsearch_indexer.index.sums import SumAccumulator
from ffnsearch_indexer.index.tiles import CENTRE_NORM_MAX, NORM_MAX, TILE_KEYS, Tiles, slack, tiles_of

QUERIES_MAX = 512
"""Queries that are searched together: what is read of a tile serves all, and their prefixes stay in the cache."""

PRODUCTS_MAX = 1 << 19
"""Products of queries and centres between two checkpoints."""

CANDIDATES_MAX = 1 << 20
"""Most pairs that are listed between two checkpoints."""

_ANY_ORDER = {"contract", "reassoc", "nsz"}
"""Sums may be taken in any order and with fused products: the bounds hold for all of them."""

Int32 = NDArray[np.int32]
Integer = int | np.integer[Any]


class _Queries(NamedTuple):
    """What compiled code takes of B queries.

    vectors: [B, D], as they came. prefixes: [B, P], the first P dimensions of the rotated ones, details: [B, E], the
    next; prefix_norms, detail_norms, remainder_norms, tail_norms: [B], of these, of all behind the prefix and of all
    behind the detail. squares: [B], |q|^2. errors: [B] and relative: a product v with a centre is off by at most
    `errors + relative |v|`. slack: of every bound.
    """

    vectors: Float32
    prefixes: Float32
    details: Float32
    prefix_norms: Float32
    detail_norms: Float32
    remainder_norms: Float32
    tail_norms: Float32
    squares: Float32
    errors: Float32
    relative: np.float32
    slack: np.float32


class _Block(NamedTuple):
    """What compiled code takes of the keys: their bits [N, D] uint16, the counts of each, the error of a score."""

    bits: NDArray[np.uint16]
    offsets: Int64
    tokens: NDArray[np.uint16]
    counts: NDArray[np.uint32]
    score_error: float


class TiledIndex(Index):
    """Tiles of near keys, decided by bounds. The tiles are given, or made here (`tiles_of`).

    A search runs on as many threads as torch may use where it is called. It takes some 10 MB a thread beside the
    result, and where there are fewer queries than threads, a result for each thread.
    """

    name: ClassVar[str] = "tiles"
    queries_max: ClassVar[int] = QUERIES_MAX
    products_max: ClassVar[int] = PRODUCTS_MAX
    candidates_max: ClassVar[int] = CANDIDATES_MAX

    def __init__(self, keys: Float16, counts: NextTokenCounts, tiles: Tiles | None = None) -> None:
        super().__init__(keys, counts)
        self.tiles = tiles_of(keys, counts) if tiles is None else tiles
        assert len(self.tiles.order) == len(keys), "the tiles are those of the keys"
        self._pools: dict[int, ThreadPoolExecutor] = {}
        bits = self.keys.view(np.uint16)
        self._block = _Block(bits, counts.offsets, counts.tokens, counts.counts, score_error(keys.shape[1]))

    def range_sum(
        self, queries: Float16, thresholds: Sequence[float], *, checkpoint: Checkpoint = nobody_waits
    ) -> RangeSums:
        """Decide tile by tile, then pair by pair; the contract is the base's."""
        self.require_queries(queries)
        checkpoint()
        threads = torch.get_num_threads()
        by_row = len(queries) >= threads  # each thread has its own queries, or else its own tiles
        results = [SumAccumulator(len(queries), thresholds, self.counts) for _ in range(1 if by_row else threads)]
        shares_of_rows = _shares(len(queries), threads if by_row else 1)
        shares_of_tiles = list(zip(_shares(len(self.tiles.offsets) - 1, len(results)), results, strict=True))
        work = [(queries, rows, tiles, result) for rows in shares_of_rows for tiles, result in shares_of_tiles]
        add = partial(self._add, checkpoint=checkpoint)
        if threads == 1:
            add(*work[0])
        else:
            futures = [self._pool(threads).submit(add, *each) for each in work]
            wait(futures)  # all of them, so that nothing of a cancelled search goes on
            for future in futures:
                future.result()
        for other in results[1:]:
            results[0].merge(other)
        return results[0].sums()

    def range_search(
        self, queries: Float16, threshold: float, *, ids: range | None = None, checkpoint: Checkpoint = nobody_waits
    ) -> Neighbors:
        """Compute the exact score of every pair that bounds do not rule out; the contract is the base's."""
        self.require_queries(queries)
        searched = self.require_ids(ids)
        assert not np.isnan(threshold), "a threshold is a number"
        checkpoint()
        limits = np.array([threshold], np.float64)
        found = []
        all_tiles = range(len(self.tiles.offsets) - 1)
        for rows, tiles, queries_, products in self._steps(
            queries, range(len(queries)), all_tiles, self.candidates_max
        ):
            row, key = _candidates(products, tiles.start, queries_, self.tiles, limits)
            inside = np.flatnonzero((key >= searched.start) & (key < searched.stop))
            row, key = row[inside] + rows.start, key[inside]
            scores = exact_scores(queries, self.keys, row, key)
            above = np.flatnonzero(levels_above(scores, limits))
            found.append((row[above], key[above], scores[above]))
            checkpoint()
        return join_neighbors(found, len(queries))

    def _add(
        self, queries: Float16, rows: range, tiles: range, result: SumAccumulator, *, checkpoint: Checkpoint
    ) -> None:
        """Add to a result what some of the queries find in some of the tiles."""
        if not len(result.thresholds):
            return
        for part, of_part, queries_, products in self._steps(queries, rows, tiles, self.products_max * TILE_KEYS):
            sums = result.rows(part)
            _sum(products, of_part.start, queries_, self.tiles, self._block, result.thresholds, result.order, *sums)
            checkpoint()

    def _steps(
        self, queries: Float16, rows: range, tiles: range, pairs_max: int
    ) -> Iterator[tuple[range, range, _Queries, Float32]]:
        """Yield some queries, some tiles, and the products [B, n] of these queries with the centres of these tiles."""
        for part in _parts(rows, self.queries_max):
            rounded, prepared = self._prepared(queries[part.start : part.stop])
            for of_part in _parts(tiles, max(1, pairs_max // (len(part) * TILE_KEYS))):
                products = torch.mm(rounded, self._centres[of_part.start : of_part.stop].T)
                yield part, of_part, prepared, products.float().numpy()

    def _prepared(self, queries: Float16) -> tuple[Tensor, _Queries]:
        """Rotate queries [B, D]; the first result is what is multiplied with centres."""
        require_full_precision("tiles")
        vectors = queries.astype(np.float32)
        rotated = torch.from_numpy(vectors) @ self._basis
        rounded = rotated.to(self._centres.dtype)
        wide = rotated.numpy().astype(np.float64)
        prefix, detail = self.tiles.residuals.shape[1], self.tiles.details.shape[2]
        parts = wide[:, :prefix], wide[:, prefix : prefix + detail], wide[:, prefix:], wide[:, prefix + detail :]
        prefix_norms, detail_norms, remainder_norms, tail_norms = (_longer(np.linalg.norm(x, axis=1)) for x in parts)
        padded = np.zeros((len(vectors), prefix), np.float32)
        padded[:, : parts[0].shape[1]] = parts[0]
        lost = np.linalg.norm(wide - rounded.double().numpy(), axis=1)
        return rounded, _Queries(
            vectors=vectors,
            prefixes=padded,
            details=parts[1].astype(np.float32),
            prefix_norms=prefix_norms,
            detail_norms=detail_norms,
            remainder_norms=remainder_norms,
            tail_norms=tail_norms,
            squares=_longer(np.square(wide).sum(axis=1)),
            errors=_longer((lost + wide.shape[1] * 2.0**-24 * NORM_MAX) * CENTRE_NORM_MAX),
            relative=np.float32(2.0**-8 if rounded.dtype == torch.bfloat16 else 0),
            slack=self._slack,
        )

    def _pool(self, threads: int) -> ThreadPoolExecutor:
        """Threads of this index, which stay: to start them would take longer than one query."""
        if threads not in self._pools:
            before = torch.get_num_threads()
            pool = ThreadPoolExecutor(threads, "tiles", initializer=torch.set_num_threads, initargs=(1,))
            started = threading.Barrier(threads)  # each thread takes one: then all have said how many they may use
            list(pool.map(lambda _: started.wait(), range(threads)))
            torch.set_num_threads(before)  # where the linear algebra under torch has one number for all threads
            self._pools[threads] = pool
        return self._pools[threads]

    @cached_property
    def _basis(self) -> Tensor:
        return torch.from_numpy(np.array(self.tiles.basis))

    @cached_property
    def _slack(self) -> np.float32:
        return np.float32(slack(self.tiles.basis))

    @cached_property
    def _centres(self) -> Tensor:
        """The centres [n, D]: as they are kept where the processor multiplies bfloat16 in tiles, else as float32."""
        centres = from_dlpack(self.tiles.centres.view(np.int16)).view(torch.bfloat16)
        return centres if torch.cpu._is_amx_tile_supported() else centres.float()


def _longer(norms: NDArray[np.float64]) -> Float32:
    """Norms or squares as float32, larger by more than the few roundings of what is computed from them."""
    return (norms * (1 + 2.0**-20)).astype(np.float32)


def _parts(whole: range, step: int) -> Iterator[range]:
    return (whole[first : first + step] for first in range(0, len(whole), step))


def _shares(items: int, shares: int) -> list[range]:
    """Cut a number of items into that many ranges of about the same length; some may be empty."""
    edges = [items * share // shares for share in range(shares + 1)]
    return [range(first, last) for first, last in pairwise(edges)]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _sum(
    products: Float32,
    first_tile: Integer,
    queries: _Queries,
    tiles: Tiles,
    block: _Block,
    thresholds: Float64,
    order: Int64,
    freq: Int64,
    neighbors: Int64,
) -> None:
    """Add what queries [B] find in tiles [n] to freq [B, S, V] and neighbors [B, S], each pair at its highest level."""
    residuals, remainders, details, tails = tiles.residuals, tiles.remainders, tiles.details, tiles.tails
    bounds, members = tiles.bounds, tiles.order
    query_vectors, query_prefixes, query_details = queries.vectors, queries.prefixes, queries.details
    query_errors, query_prefix_norms, query_detail_norms = queries.errors, queries.prefix_norms, queries.detail_norms
    query_remainder_norms, query_tail_norms = queries.remainder_norms, queries.tail_norms
    bits, key_offsets, key_tokens, key_counts = block.bits, block.offsets, block.tokens, block.counts
    relative, slack_, score_error_ = queries.relative, queries.slack, block.score_error
    lowest = np.float32(thresholds[0])
    waiting, lengths = _open_tiles(products, first_tile, queries, tiles, thresholds, order, freq, neighbors, True)
    estimates = np.empty((waiting.shape[1], TILE_KEYS), np.float32)
    row_of_pair, lane_of_pair = np.empty(estimates.size, np.int32), np.empty(estimates.size, np.int32)
    estimate_of_pair, reach_of_pair = np.empty(estimates.size, np.float32), np.empty(estimates.size, np.float32)
    near = np.empty(TILE_KEYS + 1, np.int32)
    open_places = np.flatnonzero(lengths)
    for number, place in enumerate(open_places):
        tile = first_tile + place
        first_key, rounding = tile * TILE_KEYS, bounds[5, tile]
        keys = min(TILE_KEYS, len(members) - int(first_key))
        if number + 1 < len(open_places):
            prefetch(residuals, first_tile + open_places[number + 1])
            prefetch(remainders, first_tile + open_places[number + 1])
        _estimate(products, place, tile, waiting, lengths[place], query_prefixes, residuals, bounds, estimates)
        open_pairs = 0
        for waiter in range(lengths[place]):
            row = waiting[place, waiter]
            weight, product = query_remainder_norms[row], products[row, place]
            reach = query_errors[row] + relative * abs(product) + query_prefix_norms[row] * rounding
            reach += slack_
            found = 0
            for lane in range(keys):  # without a branch: what is not near is overwritten
                near[found] = lane
                found += estimates[waiter, lane] + (reach + weight * remainders[tile, lane]) > lowest
            for lane in near[:found]:
                width = reach + weight * remainders[tile, lane]
                level = level_of(np.float64(estimates[waiter, lane] - width), thresholds)
                if level != level_of(np.float64(estimates[waiter, lane] + width), thresholds):
                    if not open_pairs:
                        prefetch(details, tile)
                    row_of_pair[open_pairs], lane_of_pair[open_pairs] = row, lane
                    estimate_of_pair[open_pairs], reach_of_pair[open_pairs] = estimates[waiter, lane], reach
                    open_pairs += 1
                elif level:
                    key = members[first_key + lane]
                    _add_key(key, key_offsets, key_tokens, key_counts, freq, row, order[level - 1])
                    neighbors[row, order[level - 1]] += 1
        still_open = 0
        for pair in range(open_pairs):
            row, lane = row_of_pair[pair], lane_of_pair[pair]
            key = members[first_key + lane]
            score = estimate_of_pair[pair] + bounds[6, tile] * _detail(query_details, row, details, tile, lane)
            width = reach_of_pair[pair] + query_detail_norms[row] * bounds[7, tile]
            width += query_tail_norms[row] * tails[tile, lane]
            level = level_of(np.float64(score - width), thresholds)
            if level != level_of(np.float64(score + width), thresholds):
                prefetch(bits, key)
                row_of_pair[still_open], lane_of_pair[still_open] = row, lane
                still_open += 1
            elif level:
                _add_key(key, key_offsets, key_tokens, key_counts, freq, row, order[level - 1])
                neighbors[row, order[level - 1]] += 1
        for pair in range(still_open):
            row, key = row_of_pair[pair], members[first_key + lane_of_pair[pair]]
            level = _exact_level(query_vectors, row, bits, key, thresholds, score_error_)
            if level:
                _add_key(key, key_offsets, key_tokens, key_counts, freq, row, order[level - 1])
                neighbors[row, order[level - 1]] += 1


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _candidates(
    products: Float32, first_tile: Integer, queries: _Queries, tiles: Tiles, thresholds: Float64
) -> tuple[Int64, Int64]:
    """List the pairs of queries [B] and keys of tiles [n] that may be above a single threshold: rows and ids."""
    lowest = np.float32(thresholds[0])
    no_freq, nothing = np.empty((0, 0, 0), np.int64), np.empty((0, 0), np.int64)
    order = np.zeros(1, np.int64)
    waiting, lengths = _open_tiles(products, first_tile, queries, tiles, thresholds, order, no_freq, nothing, False)
    estimates = np.empty((waiting.shape[1], TILE_KEYS), np.float32)
    room = lengths.sum() * TILE_KEYS
    rows_found, keys_found = np.empty(room, np.int64), np.empty(room, np.int64)
    found = 0
    for place in range(len(lengths)):
        tile = first_tile + place
        first_key, rounding = tile * TILE_KEYS, tiles.bounds[5, tile]
        keys = min(TILE_KEYS, len(tiles.order) - first_key)
        _estimate(
            products, place, tile, waiting, lengths[place], queries.prefixes, tiles.residuals, tiles.bounds, estimates
        )
        for waiter in range(lengths[place]):
            row = waiting[place, waiter]
            weight, product = queries.remainder_norms[row], products[row, place]
            reach = queries.errors[row] + queries.relative * abs(product) + queries.prefix_norms[row] * rounding
            reach += queries.slack
            for lane in range(keys):
                if estimates[waiter, lane] + reach + weight * tiles.remainders[tile, lane] > lowest:
                    rows_found[found], keys_found[found] = row, tiles.order[first_key + lane]
                    found += 1
    return rows_found[:found], keys_found[:found]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _open_tiles(
    products: Float32,
    first_tile: Integer,
    queries: _Queries,
    tiles: Tiles,
    thresholds: Float64,
    order: Int64,
    freq: Int64,
    neighbors: Int64,
    accepts: bool,
) -> tuple[Int32, Int32]:
    """The rows of the queries that each of n tiles leaves open: [n, B], of which the first `lengths[n]` are set.

    A query that is decided is added to freq and neighbors; without `accepts` only what exceeds no threshold is decided.
    """
    lowest = np.float32(thresholds[0])
    queries_here, tiles_here = products.shape
    waiting, lengths = np.empty((tiles_here, queries_here), np.int32), np.zeros(tiles_here, np.int32)
    upper, lower = np.empty(tiles_here, np.float32), np.empty(tiles_here, np.float32)
    near = np.empty(tiles_here + 1, np.int32)
    for row in range(queries_here):
        _bound(products, first_tile, row, queries, tiles.bounds, upper, lower)
        found = 0
        for place in range(tiles_here):  # without a branch: what is not near is overwritten
            near[found] = place
            found += not upper[place] <= lowest
        for place in near[:found]:
            level = level_of(np.float64(lower[place]), thresholds)
            highest = level_of(np.float64(upper[place]), thresholds)
            if level != highest or (highest and not accepts):
                waiting[place, lengths[place]] = row
                lengths[place] += 1
            elif level:
                tile = first_tile + place
                for entry in range(tiles.offsets[tile], tiles.offsets[tile + 1]):
                    freq[row, order[level - 1], tiles.tokens[entry]] += tiles.counts[entry]
                neighbors[row, order[level - 1]] += min(TILE_KEYS, len(tiles.order) - tile * TILE_KEYS)
    return waiting, lengths


@numba.njit(nogil=True, cache=True, fastmath=_ANY_ORDER, error_model="numpy")
def _bound(
    products: Float32,
    first_tile: Integer,
    row: Integer,
    queries: _Queries,
    bounds: Float32,
    upper: Float32,
    lower: Float32,
) -> None:
    """Bound the scores of one query in each of n tiles from both sides."""
    square, error, relative, slack = queries.squares[row], queries.errors[row], queries.relative, queries.slack
    for place in range(products.shape[1]):
        tile, product = first_tile + place, products[row, place]
        off = error + relative * abs(product)
        least = max(abs(product) - off, np.float32(0))  # of the query along the centre, so the most across
        across = np.sqrt(max(square - least * least * bounds[2, tile], np.float32(0)))
        one, other = product * bounds[0, tile], product * bounds[1, tile]
        reach = across * bounds[3, tile] + off * max(abs(bounds[0, tile]), abs(bounds[1, tile])) + slack
        upper[place] = max(one, other) + reach
        lower[place] = min(one, other) - reach


@numba.njit(nogil=True, cache=True, fastmath=_ANY_ORDER)
def _estimate(
    products: Float32,
    place: Integer,
    tile: Integer,
    waiting: Int32,
    waiters: Integer,
    prefixes: Float32,
    residuals: NDArray[np.int8],
    bounds: Float32,
    estimates: Float32,
) -> None:
    """Write q.c + q1.d1 of the rows that wait for a tile and of its keys: estimates [B, 32], as many as there are."""
    scale, dimensions = bounds[4, tile], residuals.shape[1]
    fours = waiters // 4 * 4
    sums = np.empty((4, TILE_KEYS), np.float32)  # made here, so that the compiler knows it to be nobody else's
    if fours:  # widened once, and read once for four rows: then the arithmetic is what takes the time
        plane = np.empty((dimensions, TILE_KEYS), np.float32)
        for d in range(dimensions):
            for lane in range(TILE_KEYS):
                plane[d, lane] = scale * residuals[tile, d, lane]
        for first in range(0, fours, 4):
            q, r = waiting[place, first], waiting[place, first + 1]
            s, t = waiting[place, first + 2], waiting[place, first + 3]
            of_q, of_r, of_s, of_t = products[q, place], products[r, place], products[s, place], products[t, place]
            for lane in range(TILE_KEYS):
                sums[0, lane], sums[1, lane], sums[2, lane], sums[3, lane] = of_q, of_r, of_s, of_t
            for d in range(0, dimensions, 4):
                q0, q1, q2, q3 = prefixes[q, d], prefixes[q, d + 1], prefixes[q, d + 2], prefixes[q, d + 3]
                r0, r1, r2, r3 = prefixes[r, d], prefixes[r, d + 1], prefixes[r, d + 2], prefixes[r, d + 3]
                s0, s1, s2, s3 = prefixes[s, d], prefixes[s, d + 1], prefixes[s, d + 2], prefixes[s, d + 3]
                t0, t1, t2, t3 = prefixes[t, d], prefixes[t, d + 1], prefixes[t, d + 2], prefixes[t, d + 3]
                for lane in range(TILE_KEYS):
                    x0, x1, x2, x3 = plane[d, lane], plane[d + 1, lane], plane[d + 2, lane], plane[d + 3, lane]
                    sums[0, lane] += q0 * x0 + q1 * x1 + q2 * x2 + q3 * x3
                    sums[1, lane] += r0 * x0 + r1 * x1 + r2 * x2 + r3 * x3
                    sums[2, lane] += s0 * x0 + s1 * x1 + s2 * x2 + s3 * x3
                    sums[3, lane] += t0 * x0 + t1 * x1 + t2 * x2 + t3 * x3
            for waiter in range(4):
                for lane in range(TILE_KEYS):
                    estimates[first + waiter, lane] = sums[waiter, lane]
    for waiter in range(fours, waiters):
        q = waiting[place, waiter]
        for lane in range(TILE_KEYS):
            sums[0, lane] = 0
        for d in range(0, dimensions, 8):
            q0, q1, q2, q3 = prefixes[q, d], prefixes[q, d + 1], prefixes[q, d + 2], prefixes[q, d + 3]
            q4, q5, q6, q7 = prefixes[q, d + 4], prefixes[q, d + 5], prefixes[q, d + 6], prefixes[q, d + 7]
            for lane in range(TILE_KEYS):
                sums[0, lane] += (
                    q0 * residuals[tile, d, lane]
                    + q1 * residuals[tile, d + 1, lane]
                    + q2 * residuals[tile, d + 2, lane]
                    + q3 * residuals[tile, d + 3, lane]
                    + q4 * residuals[tile, d + 4, lane]
                    + q5 * residuals[tile, d + 5, lane]
                    + q6 * residuals[tile, d + 6, lane]
                    + q7 * residuals[tile, d + 7, lane]
                )
        for lane in range(TILE_KEYS):
            estimates[waiter, lane] = products[q, place] + scale * sums[0, lane]


@numba.njit(nogil=True, cache=True, fastmath=_ANY_ORDER)
def _detail(queries: Float32, row: Integer, details: NDArray[np.int8], tile: Integer, lane: Integer) -> np.float32:
    product = np.float32(0)
    for d in range(queries.shape[1]):
        product += queries[row, d] * details[tile, lane, d]
    return product


@numba.njit(nogil=True, cache=True)
def _exact_level(
    vectors: Float32, row: Integer, bits: NDArray[np.uint16], key: Integer, thresholds: Float64, error: float
) -> int:
    """The level of a pair, from its float32 score where that is enough."""
    score = np.float64(_score(vectors, row, bits, key))
    level = level_of(score - error, thresholds)
    if level == level_of(score + error, thresholds):
        return level
    return level_of(_exact_score(vectors, row, bits, key), thresholds)


@numba.njit(nogil=True, cache=True, fastmath=_ANY_ORDER)
def _score(vectors: Float32, row: Integer, bits: NDArray[np.uint16], key: Integer) -> np.float32:
    score = np.float32(0)
    for d in range(vectors.shape[1]):
        score += vectors[row, d] * widened(bits[key, d])
    return score


@numba.njit(nogil=True, cache=True, fastmath=_ANY_ORDER)
def _exact_score(vectors: Float32, row: Integer, bits: NDArray[np.uint16], key: Integer) -> np.float64:
    """Exact in any order, as `base` says."""
    score = np.float64(0)
    for d in range(vectors.shape[1]):
        score += np.float64(vectors[row, d]) * np.float64(widened(bits[key, d]))
    return score


@numba.njit(nogil=True, cache=True)
def _add_key(
    key: Integer,
    offsets: Int64,
    tokens: NDArray[np.uint16],
    counts: NDArray[np.uint32],
    freq: Int64,
    row: Integer,
    step: Integer,
) -> None:
    """Add the next-token counts of one key to freq[row, step]."""
    for entry in range(offsets[key], offsets[key + 1]):
        freq[row, step, tokens[entry]] += counts[entry]

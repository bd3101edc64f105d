"""The compiled half of the `tiles` backend: it decides pairs of queries and keys, tile by tile, in steps.

Shapes: B queries, n tiles of 32 keys, T of them at a time, D d_model, E = D rounded up to a multiple of 32, S
thresholds, V vocabulary. The bounds, and why they hold, are in `tiles`.

numba caches compiled code by this file's timestamp only: after a change in a module that it calls or takes constants
from (`hardware`, `base`, `tiles`), run `make clean`. Do not rename `Queries`, `Room` or `Tiles`: caches name the types
of arguments, and one with an unknown name ends in an AttributeError instead of being made again.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.hardware import matrix
from ffnsearch_indexer.hardware.compiled import numba
from ffnsearch_indexer.hardware.matrix import MATRICES, ROWS, dot, multiply, multiply_row
from ffnsearch_indexer.hardware.vectors import (
    COLUMNS,
    LINE_BYTES,
    above,
    as_bits,
    as_float32,
    bits_set,
    copy_row,
    lowest_bit,
    prefetch,
    sum_above,
    take,
    use_widest_vectors,
    widened,
)
from ffnsearch_indexer.index.base import Float32, Float64, Int64, level_of
from ffnsearch_indexer.index.tiles import GROUP_TILES, PREFIX, ROTATED_TOGETHER, TILE_KEYS, Tiles

STEP_TILES_MAX = 512
"""Most tiles whose centres are multiplied with all queries before their keys are looked at."""

STEP_PAIRS = 1 << 15
"""Most pairs of queries and tiles that are then kept: what is known of them stays in a core's cache."""

AHEAD = 4
"""How many tiles before they are looked at their keys' prefixes are fetched."""

FEW = (16, 8, 2)
"""Up to how many queries widening a tile's centre, or its keys, takes longer than it saves, for each of WAYS."""

WHOLE_MAX = 2**15 - 1
"""The largest of the whole numbers that queries are rounded to."""

WHOLES_MAX = 2**24
"""Their magnitudes add up to less, so that their products with int8 numbers add up to less than 2^31."""

WHOLE_ROUNDINGS = 4
"""How often a product of them is rounded in float32: as a sum that was exact, and when it is scaled."""

IN_BFLOAT16, IN_WHOLES = 0, 1
"""The rows of a query's errors."""

PAIRS = 1 << 10
"""Pairs whose keys are fetched ahead."""

_ANY_ORDER = {"contract", "reassoc", "nsz"}
"""Sums may be taken in any order and with fused products: the bounds hold for all of them."""

_NONE, _ALL = np.uint32(0), np.uint32(0xFFFFFFFF)

Uint16 = NDArray[np.uint16]
Int16 = NDArray[np.int16]
Int32 = NDArray[np.int32]
Integer = int | np.integer[Any]


class Queries(NamedTuple):
    """What compiled code takes of B queries; B' is B rounded up to a multiple of 32.

    Rotated, they are rounded twice. To bfloat16, for `multiply`: panels: [B'/32, E/2, 32]; prefixes: [B, 32] and
    details: [B, E - 32], the same by rows. And to whole numbers of `steps`, [B], for few queries: wholes: [B, E],
    whole_prefixes and whole_details, the same in two parts. Of errors, prefix_errors and detail_errors, [2, B'], the
    first row is of bfloat16.

    vectors: [B, E], as they came, with zeros behind. squares: [B'], |q|^2. errors: how far a product with a centre of
    length 1 is off at most. prefix_norms, detail_norms: [B'], of the rotated ones; prefix_errors, detail_errors: of
    what rounding took from them. slack: of every bound. score_error: of a float32 score. few: of how many queries
    whole numbers are multiplied, at most ROWS.
    """

    vectors: Float32
    panels: NDArray[np.uint32]
    prefixes: Uint16
    details: Uint16
    wholes: Int16
    whole_prefixes: Int16
    whole_details: Int16
    steps: Float32
    squares: Float32
    errors: Float32
    prefix_norms: Float32
    detail_norms: Float32
    prefix_errors: Float32
    detail_errors: Float32
    slack: np.float32
    score_error: float
    few: int


class Room(NamedTuple):
    """Where compiled code puts what it finds in T tiles for B queries, and what it multiplies: `multiply` says how.

    centres: [T, E], or none for few queries. plane: [1, 16, 32], detail_plane: [1, (E - 32)/2, 32], of one tile. left:
    [16, 32], detail_left: [16, E - 32], of some queries. products: [16, 32]. lengths: [T], how many queries each tile
    is left open for; rows and centre_products: [T, B], which these are, and their products with the centre. near_tiles,
    near_rows, reaches: [T B], estimates: [T B, 32], of queries and tiles in which a key is near.
    """

    centres: Uint16
    plane: NDArray[np.uint32]
    detail_plane: NDArray[np.uint32]
    left: Uint16
    detail_left: Uint16
    products: Float32
    lengths: Int32
    rows: Int32
    centre_products: Float32
    near_tiles: Int32
    near_rows: Int32
    reaches: Float32
    estimates: Float32


@numba.njit(nogil=True, cache=True)
def _room(tiles: Integer, queries: Integer, width: Integer, few: Integer) -> Room:
    detail, wide = width - PREFIX, tiles if queries > few else 0
    return Room(
        _aligned(wide * width * 2).view(np.uint16).reshape((wide, width)),
        _aligned(PREFIX * TILE_KEYS * 2).view(np.uint32).reshape((1, PREFIX // 2, TILE_KEYS)),
        _aligned(detail * TILE_KEYS * 2).view(np.uint32).reshape((1, detail // 2, TILE_KEYS)),
        _aligned(ROWS * PREFIX * 2).view(np.uint16).reshape((ROWS, PREFIX)),
        _aligned(ROWS * detail * 2).view(np.uint16).reshape((ROWS, detail)),
        _aligned(ROWS * COLUMNS * 4).view(np.float32).reshape((ROWS, COLUMNS)),
        np.empty(tiles, np.int32),
        np.empty((tiles, queries), np.int32),
        np.empty((tiles, queries), np.float32),
        np.empty(tiles * queries, np.int32),
        np.empty(tiles * queries, np.int32),
        np.empty(tiles * queries, np.float32),
        np.empty((tiles * queries, TILE_KEYS), np.float32),
    )


@numba.njit(nogil=True, cache=True)
def _aligned(size: Integer) -> NDArray[np.uint8]:
    room = np.zeros(size + LINE_BYTES, np.uint8)
    first = -room.ctypes.data % LINE_BYTES
    return room[first : first + size]


@numba.njit(nogil=True, cache=True, fastmath=_ANY_ORDER)
def rounded(
    vectors: Float32, basis: Float32, panels: Uint16, error: float
) -> tuple[Uint16, Uint16, Int16, Int16, Int16, Float32, Float32, Float32, Float32, Float32, Float32, Float32]:
    """Rotate vectors [B, E], round them to bfloat16, into panels too, and to whole numbers, and measure what is lost.

    Returns from prefixes to detail_errors what `Queries` has. error: what a product is off by besides. Lengths are
    larger than they are, by more than float32 rounds off later.
    """
    use_widest_vectors()
    B, width = vectors.shape
    prefix = PREFIX
    prefixes, details = np.empty((B, prefix), np.uint16), np.empty((B, width - prefix), np.uint16)
    wholes, steps = np.empty((B, width), np.int16), np.empty(B, np.float32)
    lengths, longer = np.zeros((9, len(panels) * COLUMNS), np.float32), 1 + 2.0**-20
    rotated, part = np.empty((4, width)), np.empty((4, width), np.float32)
    bits, exact, lost = np.empty(width, np.uint32), np.empty(width), np.empty((2, width))
    for first in range(0, B, 4):
        q, r, s, t = first, min(first + 1, B - 1), min(first + 2, B - 1), min(first + 3, B - 1)
        rotated[:] = 0
        for start in range(0, width, ROTATED_TOGETHER):
            part[:] = 0
            for d in range(start, start + ROTATED_TOGETHER, 4):
                q0, q1, q2, q3 = vectors[q, d], vectors[q, d + 1], vectors[q, d + 2], vectors[q, d + 3]
                r0, r1, r2, r3 = vectors[r, d], vectors[r, d + 1], vectors[r, d + 2], vectors[r, d + 3]
                s0, s1, s2, s3 = vectors[s, d], vectors[s, d + 1], vectors[s, d + 2], vectors[s, d + 3]
                t0, t1, t2, t3 = vectors[t, d], vectors[t, d + 1], vectors[t, d + 2], vectors[t, d + 3]
                for place in range(width):
                    x0, x1, x2, x3 = basis[d, place], basis[d + 1, place], basis[d + 2, place], basis[d + 3, place]
                    part[0, place] += q0 * x0 + q1 * x1 + q2 * x2 + q3 * x3
                    part[1, place] += r0 * x0 + r1 * x1 + r2 * x2 + r3 * x3
                    part[2, place] += s0 * x0 + s1 * x1 + s2 * x2 + s3 * x3
                    part[3, place] += t0 * x0 + t1 * x1 + t2 * x2 + t3 * x3
            for of_part in range(4):
                for place in range(width):
                    rotated[of_part, place] += part[of_part, place]
        for row in range(first, min(first + 4, B)):
            for d in range(width):
                value = as_bits(np.float32(rotated[row - first, d]))
                to_even = np.uint32(0x7FFF) + (value >> np.uint32(16) & np.uint32(1))
                bits[d] = (value + to_even) >> np.uint32(16)
                exact[d] = rotated[row - first, d]
                lost[IN_BFLOAT16, d] = exact[d] - np.float64(as_float32(bits[d] << np.uint32(16)))
            for d in range(width):
                panels[row // COLUMNS, d // 2, row % COLUMNS, d % 2] = bits[d]
            prefixes[row], details[row] = bits[:prefix], bits[prefix:]
            most, sizes = np.float64(0), np.float64(0)
            for d in range(width):
                most, sizes = max(most, abs(exact[d])), sizes + abs(exact[d])
            step = np.float32(max(most / WHOLE_MAX, sizes / (WHOLES_MAX - width)))
            steps[row] = step if step > 0 else np.float32(1)
            for d in range(width):
                whole = np.rint(exact[d] / np.float64(steps[row]))
                wholes[row, d] = whole
                lost[IN_WHOLES, d] = exact[d] - whole * np.float64(steps[row])
            of_prefix, of_detail = (exact[:prefix] ** 2).sum(), (exact[prefix:] ** 2).sum()
            lengths[0, row] = (of_prefix + of_detail) * longer
            lengths[1, row], lengths[2, row] = np.sqrt(of_prefix) * longer, np.sqrt(of_detail) * longer
            for kind in range(2):
                lost_of_prefix, lost_of_detail = (lost[kind, :prefix] ** 2).sum(), (lost[kind, prefix:] ** 2).sum()
                lengths[3 + kind, row] = (np.sqrt(lost_of_prefix + lost_of_detail) + error) * longer
                lengths[5 + kind, row] = np.sqrt(lost_of_prefix) * longer
                lengths[7 + kind, row] = np.sqrt(lost_of_detail) * longer
    parts = prefixes, details, wholes, wholes[:, :prefix].copy(), wholes[:, prefix:].copy()
    return *parts, steps, lengths[0], lengths[3:5], lengths[1], lengths[2], lengths[5:7], lengths[7:9]


@numba.njit(nogil=True, cache=True, fastmath=_ANY_ORDER, error_model="numpy")
def sum_tiles(
    next_tile: Int64,
    last_tile: Integer,
    tiles_max: Integer,
    queries: Queries,
    tiles: Tiles,
    bits: Uint16,
    thresholds: Float64,
    limits: Float32,
    order: Int64,
    freq: Int64,
    neighbors: Int64,
    way: int,
) -> int:
    """Add what queries [B] find in tiles to freq [B, S, V] and neighbors [B, S], each pair at its highest level.

    next_tile: [1], the first tile that nobody has taken; a few at a time are, until there are no more, or `tiles_max`
    were taken here, or a few more. Threads that are given the same one share out the tiles. Returns how many were
    taken.
    """
    members, offsets, tokens, counts = tiles.order, tiles.offsets, tiles.tokens, tiles.counts
    key_offsets, key_tokens, key_counts = tiles.key_offsets, tiles.key_tokens, tiles.key_counts
    vectors, error = queries.vectors, queries.score_error
    step = min(_step_tiles(len(vectors)), tiles_max)
    room = _room(step, len(vectors), queries.panels.shape[1] * 2, queries.few)
    near_tiles, near_rows, reaches, estimates = room.near_tiles, room.near_rows, room.reaches, room.estimates
    sure = np.empty(len(limits) + 1, np.uint32)
    pair_rows, pair_places = np.empty(PAIRS, np.int32), np.empty(PAIRS, np.int64)
    matrix.begin(MATRICES, way)
    taken, first = 0, 0
    while taken < tiles_max:
        first = take(next_tile, step)
        if first >= last_tile:
            break
        last, taken = min(first + step, last_tile), taken + step
        _open_tiles(first, last, queries, tiles, limits, True, order, freq, neighbors, room, way)
        found = _find_near(first, last, queries, tiles, limits[0], room, way)
        _refine(found, queries, tiles, room, way)
        pairs = 0
        for number in range(found):
            tile, row, reach = near_tiles[number], near_rows[number], reaches[number]
            first_key = tile * TILE_KEYS
            lanes = _lanes(len(members) - first_key)
            undecided, levels = _levels(estimates, estimates, number, limits, reach, lanes, sure)
            for level in range(levels):
                decided = sure[level] & ~sure[level + 1] & ~undecided
                if decided:
                    neighbors[row, order[level]] += bits_set(decided)
                    if decided == _ALL:
                        for entry in range(offsets[tile], offsets[tile + 1]):
                            freq[row, order[level], tokens[entry]] += counts[entry]
                        decided = _NONE
                while decided:
                    place = first_key + lowest_bit(decided)
                    for entry in range(key_offsets[place], key_offsets[place + 1]):
                        freq[row, order[level], key_tokens[entry]] += key_counts[entry]
                    decided &= decided - np.uint32(1)
            while undecided:
                place = first_key + lowest_bit(undecided)
                prefetch(bits, members[place])
                pair_rows[pairs], pair_places[pairs] = row, place
                pairs += 1
                undecided &= undecided - np.uint32(1)
            if pairs > PAIRS - TILE_KEYS or number + 1 == found:
                for pair in range(pairs):
                    row, place = pair_rows[pair], pair_places[pair]
                    level = _exact_level(vectors, row, bits, members[place], thresholds, error)
                    if level:
                        neighbors[row, order[level - 1]] += 1
                        for entry in range(key_offsets[place], key_offsets[place + 1]):
                            freq[row, order[level - 1], key_tokens[entry]] += key_counts[entry]
                pairs = 0
    matrix.end(way)
    return taken


@numba.njit(nogil=True, cache=True, fastmath=_ANY_ORDER, error_model="numpy")
def candidates(
    first_tile: Integer, last_tile: Integer, queries: Queries, tiles: Tiles, limits: Float32, way: int
) -> tuple[Int64, Int64]:
    """List the pairs of queries [B] and keys of tiles that may be above a single threshold: rows and ids."""
    members = tiles.order
    no_freq, nothing, order = np.empty((0, 0, 0), np.int64), np.empty((0, 0), np.int64), np.zeros(1, np.int64)
    step = _step_tiles(len(queries.vectors))
    room = _room(step, len(queries.vectors), queries.panels.shape[1] * 2, queries.few)
    rows_found, keys_found = np.empty(0, np.int64), np.empty(0, np.int64)
    count = 0
    matrix.begin(MATRICES, way)
    for first in range(first_tile, last_tile, step):
        last = min(first + step, last_tile)
        _open_tiles(first, last, queries, tiles, limits, False, order, no_freq, nothing, room, way)
        found = _find_near(first, last, queries, tiles, limits[0], room, way)
        _refine(found, queries, tiles, room, way)
        if count + found * TILE_KEYS > len(rows_found):
            more = np.empty(len(rows_found) + found * TILE_KEYS, np.int64)
            rows_found, keys_found = np.concatenate((rows_found, more)), np.concatenate((keys_found, more))
        for number in range(found):
            first_key = room.near_tiles[number] * TILE_KEYS
            maybe = above(room.estimates, number, limits[0] - room.reaches[number]) & _lanes(len(members) - first_key)
            while maybe:
                rows_found[count], keys_found[count] = room.near_rows[number], members[first_key + lowest_bit(maybe)]
                count += 1
                maybe &= maybe - np.uint32(1)
    matrix.end(way)
    return rows_found[:count], keys_found[:count]


@numba.njit(nogil=True, cache=True)
def _step_tiles(queries: Integer) -> int:
    """How many tiles are looked at together: as many as have what is known of them in the cache."""
    return min(STEP_TILES_MAX, STEP_PAIRS // queries // GROUP_TILES * GROUP_TILES)


@numba.njit(nogil=True, cache=True, inline="always")
def _lanes(keys: Integer) -> np.uint32:
    """32 bits, of which the first are set, or all."""
    return _ALL if keys >= TILE_KEYS else np.uint32((1 << keys) - 1)


@numba.njit(nogil=True, cache=True, inline="always")
def _levels(
    lower: Float32,
    upper: Float32,
    line: Integer,
    limits: Float32,
    reach: np.float32,
    lanes: np.uint32,
    sure: NDArray[np.uint32],
) -> tuple[np.uint32, int]:
    """Compare a line of scores with ascending limits: which are undecided at any, and how many limits one may exceed.

    A score lies between its lower bound less `reach` and its upper bound and `reach`. sure: [S + 1], written: which
    surely exceed each of these limits; none the one after them.
    """
    undecided, levels = _NONE, 0
    while levels < len(limits):
        maybe = above(upper, line, limits[levels] - reach) & lanes
        if not maybe:
            break
        sure[levels] = above(lower, line, limits[levels] + reach) & lanes
        undecided |= maybe & ~sure[levels]
        levels += 1
    sure[levels] = _NONE
    return undecided, levels


@numba.njit(nogil=True, cache=True, inline="always")
def _add_tile(tile: Integer, tiles: Tiles, row: Integer, step: Integer, freq: Int64, neighbors: Int64) -> None:
    """Add a whole tile to what a query has found above a threshold."""
    neighbors[row, step] += min(TILE_KEYS, len(tiles.order) - tile * TILE_KEYS)
    for entry in range(tiles.offsets[tile], tiles.offsets[tile + 1]):
        freq[row, step, tiles.tokens[entry]] += tiles.counts[entry]


@numba.njit(nogil=True, cache=True, fastmath=_ANY_ORDER, error_model="numpy")
def _open_tiles(
    first: Integer,
    last: Integer,
    queries: Queries,
    tiles: Tiles,
    limits: Float32,
    accepts: bool,
    order: Int64,
    freq: Int64,
    neighbors: Int64,
    room: Room,
    way: int,
) -> None:
    """Set `rows`, `lengths` and `centre_products`: for which queries tiles are left open.

    A query that is decided is added to freq and neighbors; without `accepts` only what exceeds no threshold is decided.
    """
    room.lengths[: last - first] = 0
    if len(queries.vectors) <= queries.few:
        for row in range(len(queries.vectors)):
            _open_for_one(first, last, queries, row, tiles, limits, accepts, order, freq, neighbors, room)
    else:
        _open_for_many(first, last, queries, tiles, limits, accepts, order, freq, neighbors, room, way)


@numba.njit(nogil=True, cache=True, fastmath=_ANY_ORDER, error_model="numpy")
def _open_for_one(
    first: Integer,
    last: Integer,
    queries: Queries,
    row: Integer,
    tiles: Tiles,
    limits: Float32,
    accepts: bool,
    order: Int64,
    freq: Int64,
    neighbors: Int64,
    room: Room,
) -> None:
    """As `_open_tiles` for one query: centres stay as they are, and 32 tiles are compared at once."""
    centres, bounds, slack_ = tiles.centres, tiles.bounds, queries.slack
    rows, lengths, centre_products = room.rows, room.lengths, room.centre_products
    wholes, step = queries.wholes, queries.steps[row]
    square, error = queries.squares[row], queries.errors[IN_WHOLES, row]
    here, lines = last - first, -(-(last - first) // COLUMNS)
    products = np.empty(here, np.float32)
    upper, lower = np.empty((lines, COLUMNS), np.float32), np.empty((lines, COLUMNS), np.float32)
    uppers, lowers = upper.reshape(upper.size), lower.reshape(lower.size)
    sure = np.empty(len(limits) + 1, np.uint32)
    use_widest_vectors()
    for place in range(here):
        products[place] = step * dot(wholes, row, centres, first + place)
    for place in range(here):
        tile = first + place
        cone = bounds[0, tile], bounds[1, tile], bounds[2, tile], bounds[3, tile], bounds[4, tile]
        products[place] *= bounds[5, tile]
        lowers[place], uppers[place] = _between(products[place], square, error, slack_, cone)
    for line in range(lines):
        before = first + line * COLUMNS
        lanes = _lanes(last - before)
        undecided, levels = _levels(lower, upper, line, limits, np.float32(0), lanes, sure)
        if accepts:
            for level in range(levels):
                decided = sure[level] & ~sure[level + 1] & ~undecided
                while decided:
                    _add_tile(before + lowest_bit(decided), tiles, row, order[level], freq, neighbors)
                    decided &= decided - np.uint32(1)
        elif levels:
            undecided |= sure[0]
        while undecided:
            place = before - first + lowest_bit(undecided)
            rows[place, lengths[place]], centre_products[place, lengths[place]] = row, products[place]
            lengths[place] += 1
            undecided &= undecided - np.uint32(1)


@numba.njit(nogil=True, cache=True, fastmath=_ANY_ORDER, error_model="numpy")
def _open_for_many(
    first: Integer,
    last: Integer,
    queries: Queries,
    tiles: Tiles,
    limits: Float32,
    accepts: bool,
    order: Int64,
    freq: Int64,
    neighbors: Int64,
    room: Room,
    way: int,
) -> None:
    """As `_open_tiles`: 16 centres are multiplied with 32 queries at once, which are then compared at once."""
    centres, bounds, panels, slack_ = tiles.centres, tiles.bounds, queries.panels, queries.slack
    squares, errors, queries_here = queries.squares, queries.errors[IN_BFLOAT16], len(queries.vectors)
    wide, products = room.centres, room.products
    lengths, rows, centre_products = room.lengths, room.rows, room.centre_products
    upper, lower = np.empty((1, COLUMNS), np.float32), np.empty((1, COLUMNS), np.float32)
    sure = np.empty(len(limits) + 1, np.uint32)
    padded_last = min(len(centres), first + len(wide))
    use_widest_vectors()
    _widen(centres, first, padded_last, wide)
    for panel in range(len(panels)):
        first_row = panel * COLUMNS
        lanes = _lanes(queries_here - first_row)
        columns = COLUMNS if queries_here - first_row > COLUMNS // 2 else COLUMNS // 2
        for group in range(first, last, GROUP_TILES):
            multiply(wide, group - first, panels, panel, products, columns, way)
            for tile in range(group, min(last, group + GROUP_TILES)):
                place, line, scale = tile - first, tile - group, bounds[5, tile]
                cone = bounds[0, tile], bounds[1, tile], bounds[2, tile], bounds[3, tile], bounds[4, tile]
                for lane in range(columns):
                    row, product = first_row + lane, scale * products[line, lane]
                    lower[0, lane], upper[0, lane] = _between(product, squares[row], errors[row], slack_, cone)
                undecided, levels = _levels(lower, upper, 0, limits, np.float32(0), lanes, sure)
                if accepts:
                    for level in range(levels):
                        decided = sure[level] & ~sure[level + 1] & ~undecided
                        while decided:
                            row = first_row + lowest_bit(decided)
                            _add_tile(tile, tiles, row, order[level], freq, neighbors)
                            decided &= decided - np.uint32(1)
                elif levels:
                    undecided |= sure[0]
                while undecided:
                    lane = lowest_bit(undecided)
                    rows[place, lengths[place]] = first_row + lane
                    centre_products[place, lengths[place]] = scale * products[line, lane]
                    lengths[place] += 1
                    undecided &= undecided - np.uint32(1)


@numba.njit(nogil=True, cache=True, fastmath=_ANY_ORDER, error_model="numpy", inline="always")
def _between(
    product: np.float32,
    square: np.float32,
    error: np.float32,
    slack_: np.float32,
    cone: tuple[np.float32, np.float32, np.float32, np.float32, np.float32],
) -> tuple[np.float32, np.float32]:
    """Between which two numbers the scores of a query and all keys of a tile lie.

    product: of the query and the centre. square: |q|^2. cone: the first five rows of the tile's `bounds`.
    """
    lowest, highest, inverse_square, spread, length = cone
    off = error * length
    least = max(abs(product) - off, np.float32(0))  # of the query along the centre, so the most across
    across = np.sqrt(max(square - least * least * inverse_square, np.float32(0)))
    one, other = product * lowest, product * highest
    reach = across * spread + off * max(abs(lowest), abs(highest)) + slack_
    return min(one, other) - reach, max(one, other) + reach


@numba.njit(nogil=True, cache=True, fastmath=_ANY_ORDER, error_model="numpy")
def _find_near(
    first: Integer,
    last: Integer,
    queries: Queries,
    tiles: Tiles,
    limit: np.float32,
    room: Room,
    way: int,
) -> int:
    """Set `near_tiles`, `near_rows`, `reaches` and `estimates`, from prefixes: where a score may be above a limit."""
    residuals, remainders, bounds = tiles.residuals, tiles.remainders, tiles.bounds
    prefixes, whole_prefixes, steps = queries.prefixes, queries.whole_prefixes, queries.steps
    opened = IN_WHOLES if len(queries.vectors) <= queries.few else IN_BFLOAT16
    errors = queries.errors[opened]
    prefix_norms, prefix_errors, detail_norms = queries.prefix_norms, queries.prefix_errors, queries.detail_norms
    slack_ = queries.slack
    plane, left, products = room.plane, room.left, room.products
    lengths, rows, centre_products = room.lengths, room.rows, room.centre_products
    near_tiles, near_rows, reaches, estimates = room.near_tiles, room.near_rows, room.reaches, room.estimates
    plane_values = plane.reshape((1, plane.size)).view(np.uint16)
    use_widest_vectors()
    found = 0
    open_places = np.flatnonzero(lengths[: last - first])
    for number, place in enumerate(open_places):
        tile = first + place
        if number + AHEAD < len(open_places):
            prefetch(residuals, first + open_places[number + AHEAD])
        length, scale, rounding, prefix_length = bounds[4, tile], bounds[6, tile], bounds[7, tile], bounds[8, tile]
        few = lengths[place] <= queries.few
        kind = IN_WHOLES if few else IN_BFLOAT16
        if not few:
            _widen(residuals, tile, tile + 1, plane_values)
        for some in range(0, lengths[place], ROWS):
            here = min(ROWS, lengths[place] - some)
            for line in range(here):
                if few:
                    multiply_row(whole_prefixes, rows[place, some + line], residuals, tile, products, line)
                else:
                    copy_row(left, line, prefixes, rows[place, some + line])
            if not few:
                multiply(left, 0, plane, 0, products, TILE_KEYS, way)
            for line in range(here):
                row, product = rows[place, some + line], centre_products[place, some + line]
                reach = errors[row] * length + prefix_norms[row] * rounding
                reach += prefix_errors[kind, row] * prefix_length + slack_
                factor = scale * steps[row] if few else scale
                if sum_above(factor, products, line, detail_norms[row], remainders, tile, limit - product - reach):
                    near_tiles[found], near_rows[found], reaches[found] = tile, row, reach
                    for lane in range(products.shape[1]):
                        estimates[found, lane] = product + factor * products[line, lane]
                    found += 1
    return found


@numba.njit(nogil=True, cache=True, fastmath=_ANY_ORDER, error_model="numpy")
def _refine(found: Integer, queries: Queries, tiles: Tiles, room: Room, way: int) -> None:
    """Add to the estimates what is behind the prefix, and to how far they reach."""
    details, bounds = tiles.details, tiles.bounds
    query_details, whole_details, steps = queries.details, queries.whole_details, queries.steps
    detail_norms, detail_errors = queries.detail_norms, queries.detail_errors
    plane, left, products = room.detail_plane, room.detail_left, room.products
    near_tiles, near_rows, reaches, estimates = room.near_tiles, room.near_rows, room.reaches, room.estimates
    plane_values = plane.reshape((1, plane.size)).view(np.uint16)
    use_widest_vectors()
    widened_tile, some = -1, 0
    while some < found:
        tile, here = near_tiles[some], 1
        while here < ROWS and some + here < found and near_tiles[some + here] == tile:
            here += 1
        scale, rounding, length = bounds[9, tile], bounds[10, tile], bounds[11, tile]
        few = here <= queries.few and tile != widened_tile
        kind = IN_WHOLES if few else IN_BFLOAT16
        for line in range(here):
            if few:
                multiply_row(whole_details, near_rows[some + line], details, tile, products, line)
            else:
                copy_row(left, line, query_details, near_rows[some + line])
        if not few:
            if tile != widened_tile:
                _widen(details, tile, tile + 1, plane_values)
                widened_tile = tile
            multiply(left, 0, plane, 0, products, TILE_KEYS, way)
        if some + here < found:
            prefetch(details, near_tiles[some + here])
        for line in range(here):
            row = near_rows[some + line]
            reaches[some + line] += detail_norms[row] * rounding + detail_errors[kind, row] * length
            factor = scale * steps[row] if few else scale
            for lane in range(products.shape[1]):
                estimates[some + line, lane] += factor * products[line, lane]
        some += here


@numba.njit(nogil=True, cache=True)
def _widen(values: NDArray[np.int8], first: Integer, last: Integer, bfloat16: Uint16) -> None:
    """Write rows of whole numbers below 128 as the bits of bfloat16."""
    use_widest_vectors()
    for row in range(first, last):
        for place in range(values.shape[1]):
            bfloat16[row - first, place] = np.uint16(as_bits(np.float32(values[row, place])) >> np.uint32(16))


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
    use_widest_vectors()
    score = np.float32(0)
    for d in range(bits.shape[1]):
        score += vectors[row, d] * widened(bits[key, d])
    return score


@numba.njit(nogil=True, cache=True, fastmath=_ANY_ORDER)
def _exact_score(vectors: Float32, row: Integer, bits: NDArray[np.uint16], key: Integer) -> np.float64:
    """Exact in any order, as `base` says."""
    score = np.float64(0)
    for d in range(bits.shape[1]):
        score += np.float64(vectors[row, d]) * np.float64(widened(bits[key, d]))
    return score

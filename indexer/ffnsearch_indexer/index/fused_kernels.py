"""The Triton kernels of the `fused` backend: what a GPU does with a tile of queries and a tile of keys.

Shapes: B' queries and N' keys in whole tiles, padded with zeros, and D' dimensions, in whole steps, of B, N and D that
count; S thresholds, ascending; Y columns of a result, V of the vocabulary and one that counts the neighbors themselves.
Keys are in the order of their tiles, and called by their places there; their ids are looked up.

Results are integers alone, added with atomics: any order gives the same. `fused` says what the arguments are.
"""

import triton
import triton.language as tl

_COUNTS = ("B", "C", "tiles", "levels", "room", "first_id", "last_id", "splits")
"""Numbers of a call. Triton would compile a kernel again where one is 1, or a multiple of 16."""

_PARTS = ("limits", "found", "open_lengths", "sums")
"""Parts of larger tensors. It would compile again where one begins at a multiple of 16 bytes."""

_kernel = triton.jit(do_not_specialize=_COUNTS, do_not_specialize_on_alignment=_PARTS)


@_kernel
def bound_tiles(
    queries,  # [B', D'] float16
    centres,  # [C', D'] float16: one for every GROUP keys
    bounds,  # [5, C'] float32: lowest, highest, 1/|c|^2, spread, |c|
    limits,  # [S] float32
    group_sums,  # [N'/GROUP, Y] int64: all that is in a group
    open_tiles,  # [B'/TILE_QUERIES, N'/TILE_KEYS] int32: which tiles are left open; written
    open_lengths,  # [B'/TILE_QUERIES] int32: how many; added to
    sums,  # [B', S, Y] int64: those of whole tiles are added
    error,  # float32: what a product with a vector of length 1 is off by at most
    slack,  # float32: of every bound
    longer,  # float32: how many times |q|^2 must be taken so that nothing that was rounded off is missing
    B,
    C,
    tiles,
    levels,
    D: tl.constexpr,
    Y: tl.constexpr,
    COLUMNS: tl.constexpr,  # Y, rounded up to a power of 2
    ADDS: tl.constexpr,  # whether whole tiles may be added; else they are left open
    GROUP: tl.constexpr,
    TILE_KEYS: tl.constexpr,
    TILE_QUERIES: tl.constexpr,
    CENTRES: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Decide CENTRES / (TILE_KEYS / GROUP) tiles of keys for one tile of queries: empty, whole or open."""
    query_tile = tl.program_id(0)
    rows = query_tile * TILE_QUERIES + tl.arange(0, TILE_QUERIES)
    places = tl.program_id(1) * CENTRES + tl.arange(0, CENTRES)
    steps = tl.arange(0, DEPTH)
    products = tl.zeros([CENTRES, TILE_QUERIES], tl.float32)
    squares = tl.zeros([TILE_QUERIES], tl.float32)
    for depth in range(0, D, DEPTH):
        c = tl.load(centres + places[:, None].to(tl.int64) * D + depth + steps[None, :])
        q = tl.load(queries + rows[None, :].to(tl.int64) * D + depth + steps[:, None])
        products = tl.dot(c, q, products)
        squares += tl.sum(q.to(tl.float32) * q.to(tl.float32), axis=0)
    stride = tl.num_programs(1) * CENTRES
    lowest = tl.load(bounds + places)[:, None]
    highest = tl.load(bounds + stride + places)[:, None]
    inverse_square = tl.load(bounds + 2 * stride + places)[:, None]
    spread = tl.load(bounds + 3 * stride + places)[:, None]
    off = error * tl.load(bounds + 4 * stride + places)[:, None]
    least = tl.maximum(tl.abs(products) - off, 0.0)  # of the query along the centre, so the most across
    across = tl.sqrt(tl.maximum((squares * longer)[None, :] - least * least * inverse_square, 0.0))
    reach = across * spread + off * tl.maximum(tl.abs(lowest), tl.abs(highest)) + slack
    upper = tl.maximum(products * lowest, products * highest) + reach
    lower = tl.minimum(products * lowest, products * highest) - reach
    counts_here = (places[:, None] < C) & (rows[None, :] < B)
    maybe = tl.zeros([CENTRES, TILE_QUERIES], tl.int32)
    sure = tl.zeros([CENTRES, TILE_QUERIES], tl.int32)
    for level in range(levels):
        limit = tl.load(limits + level)
        maybe += (upper > limit).to(tl.int32)
        sure += (lower > limit).to(tl.int32)
    TILES: tl.constexpr = CENTRES * GROUP // TILE_KEYS
    of_centres = tl.max(tl.where(counts_here, maybe, 0), axis=1)
    most = tl.max(tl.reshape(of_centres, [TILES, TILE_KEYS // GROUP]), axis=1)
    of_centres = tl.min(tl.where(counts_here, sure, levels), axis=1)
    fewest = tl.min(tl.reshape(of_centres, [TILES, TILE_KEYS // GROUP]), axis=1)
    numbers = tl.program_id(1) * TILES + tl.arange(0, TILES)
    is_open = most > 0
    if ADDS:
        columns = tl.arange(0, COLUMNS)
        is_open = is_open & (fewest < most)
        for level in range(levels):
            is_whole = (fewest == most) & (most == level + 1)
            if tl.max(is_whole.to(tl.int32)) > 0:
                inside = is_whole[:, None] & (columns[None, :] < Y)
                added = tl.zeros([COLUMNS], tl.int64)
                for part in tl.static_range(TILE_KEYS // GROUP):
                    group = numbers[:, None].to(tl.int64) * (TILE_KEYS // GROUP) + part
                    added += tl.sum(tl.load(group_sums + group * Y + columns[None, :], inside, 0), axis=0)
                first_row = sums + (query_tile.to(tl.int64) * TILE_QUERIES * levels + level) * Y
                for lane in range(0, tl.minimum(TILE_QUERIES, B - query_tile * TILE_QUERIES)):
                    target = first_row + lane * levels * Y + columns
                    tl.atomic_add(target, added, (columns < Y) & (added > 0), sem="relaxed")
    opened = is_open.to(tl.int32)
    first = tl.atomic_add(open_lengths + query_tile, tl.sum(opened), sem="relaxed")
    target = query_tile.to(tl.int64) * tiles + first + tl.cumsum(opened, axis=0) - opened
    tl.store(open_tiles + target, numbers, is_open)


@_kernel
def scan_tiles(
    queries,  # [B', D'] float16
    keys,  # [N', D'] float16
    ids,  # [N'] int32, those of no key negative
    open_tiles,  # as above
    open_lengths,
    limits,  # [2, S] float32: a score may be above a threshold above the first, and is above it above the second
    places,  # [P, room] int32, levels of rows: [P, room] int32: the pairs that each of P programs finds; written
    marks,  # lane of the query * 256 + level, or 0 where the pair must be decided exactly
    found,  # [P] int32: how many these are, even beyond the room; added to
    room,
    first_id,
    last_id,
    B,
    tiles,
    levels,
    D: tl.constexpr,
    SKIPS: tl.constexpr,  # whether open tiles are listed; else all are
    TILE_KEYS: tl.constexpr,
    TILE_QUERIES: tl.constexpr,
    DEPTH: tl.constexpr,
    RESIDENT: tl.constexpr,  # whether the tile of queries stays in shared memory; else it is read for each tile of keys
    QUERIES_FIRST: tl.constexpr,  # whether rows of scores are queries, columns keys; else the other way round
):
    """Score a tile of queries with a share of the tiles of keys, and list the pairs that may be above a threshold."""
    query_tile = tl.program_id(0)
    program = query_tile * tl.num_programs(1) + tl.program_id(1)
    OF_QUERIES: tl.constexpr = 1 if QUERIES_FIRST else 0  # the axis along which a query's scores lie
    OF_KEYS: tl.constexpr = 1 - OF_QUERIES
    query_lanes = tl.expand_dims(tl.arange(0, TILE_QUERIES), OF_QUERIES)
    key_lanes = tl.expand_dims(tl.arange(0, TILE_KEYS), OF_KEYS)
    rows = query_tile * TILE_QUERIES + query_lanes
    steps = tl.arange(0, DEPTH)
    count = tl.load(open_lengths + query_tile) if SKIPS else tiles
    share = tl.cdiv(count, tl.num_programs(1))
    first_tile = tl.program_id(1) * share
    least = tl.load(limits)
    query_rows = queries + rows.to(tl.int64) * D + tl.expand_dims(steps, OF_KEYS)
    key_rows = keys + key_lanes * D + tl.expand_dims(steps, OF_QUERIES)
    resident = ()
    if RESIDENT:
        for depth in tl.static_range(0, D, DEPTH):
            resident = resident + (tl.load(query_rows + depth),)  # noqa: RUF005, as Triton reads it
    nothing = tl.zeros_like(rows) + tl.zeros_like(key_lanes)
    last_tile = tl.minimum(first_tile + share, count)
    numbers = open_tiles + query_tile.to(tl.int64) * tiles
    following = tl.load(numbers + first_tile, first_tile < last_tile, 0) if SKIPS else first_tile
    for number in range(first_tile, last_tile):
        tile = following  # it is read one ahead, so that its keys can be fetched ahead, too
        following = tl.load(numbers + number + 1, number + 1 < last_tile, 0) if SKIPS else number + 1
        first = tile.to(tl.int64) * TILE_KEYS
        scores = nothing.to(tl.float32)
        if RESIDENT:
            for part in tl.static_range(D // DEPTH):
                x = tl.load(key_rows + first * D + part * DEPTH)
                scores = _products(x, resident[part], scores, QUERIES_FIRST)
        else:
            for depth in range(0, D, DEPTH):
                x = tl.load(key_rows + first * D + depth)
                scores = _products(x, tl.load(query_rows + depth), scores, QUERIES_FIRST)
        if tl.max(scores) > least:
            id = tl.load(ids + first + key_lanes)
            listed = (scores > least) & (id >= first_id) & (id < last_id) & (rows < B)
            mark = nothing
            for level in range(levels):
                is_sure = scores > tl.load(limits + levels + level)
                is_close = (scores > tl.load(limits + level)) & (is_sure == 0)
                mark = tl.where(is_close, -256, mark + is_sure.to(tl.int32))  # it stays below 0, whatever is added
            mark = tl.maximum(mark, 0) + query_lanes * 256
            # A compiler that knows that all count in one place lets each wait for the one before it: this one does not
            # know that the id of what is listed is never negative.
            counters = found + program + (id >> 31) + nothing
            place = tl.atomic_add(counters, 1, listed, sem="relaxed")
            is_kept = listed & (place < room)
            target = program.to(tl.int64) * room
            tl.store(places + target + place, tile * TILE_KEYS + key_lanes + nothing, is_kept)
            tl.store(marks + target + place, mark, is_kept)


@triton.jit
def _products(keys, queries, scores, QUERIES_FIRST: tl.constexpr):
    """Add the products of a step of keys and of queries to their scores."""
    return tl.dot(queries, keys, scores) if QUERIES_FIRST else tl.dot(keys, queries, scores)


@triton.jit
def _exact_scores(queries, keys, row, place, is_meant, D: tl.constexpr, PAIRS: tl.constexpr, DEPTH: tl.constexpr):
    """The exact scores [PAIRS] float64 of pairs: no partial sum is ever rounded."""
    steps = tl.arange(0, DEPTH)
    score = tl.zeros([PAIRS], tl.float64)
    for depth in range(0, D, DEPTH):
        q = tl.load(queries + row[:, None].to(tl.int64) * D + depth + steps[None, :], is_meant[:, None], 0.0)
        x = tl.load(keys + place[:, None].to(tl.int64) * D + depth + steps[None, :], is_meant[:, None], 0.0)
        score += tl.sum(q.to(tl.float64) * x.to(tl.float64), axis=1)
    return score


@triton.jit
def _listed_pairs(places, marks, room, splits, first, last, TILE_QUERIES: tl.constexpr, PAIRS: tl.constexpr):
    """Of each pair from `first` on: where it is listed, whether it is before `last`, its key, its query, its level."""
    program = tl.program_id(0)
    numbers = first + tl.arange(0, PAIRS)
    is_pair = numbers < last
    start = program.to(tl.int64) * room  # added before the numbers: added to them, it costs `add_pairs` a spill
    place = tl.load(places + start + numbers, is_pair, 0)
    mark = tl.load(marks + start + numbers, is_pair, 0)
    return start + numbers, is_pair, place, program // splits * TILE_QUERIES + mark // 256, mark % 256


@_kernel
def add_pairs(
    queries,
    keys,
    places,
    marks,
    found,
    thresholds,  # [S] float64
    offsets,  # [N + 1] int64, tokens: [M] int32, counts: [M] int64: next-token counts in compressed rows, by place
    tokens,
    counts,
    sums,  # [B, S, Y] int64: added to
    room,
    splits,  # programs of `scan_tiles` for a tile of queries
    levels,
    D: tl.constexpr,
    Y: tl.constexpr,
    TILE_QUERIES: tl.constexpr,
    PAIRS: tl.constexpr,
    ENTRIES: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Add the counts of listed pairs, each at the highest threshold that it exceeds; what is not sure is decided."""
    last = tl.minimum(tl.load(found + tl.program_id(0)), room)
    for first in range(tl.program_id(1) * PAIRS, last, tl.num_programs(1) * PAIRS):
        _, is_pair, place, row, level = _listed_pairs(places, marks, room, splits, first, last, TILE_QUERIES, PAIRS)
        is_close = is_pair & (level == 0)
        if tl.max(is_close.to(tl.int32), axis=0) > 0:
            score = _exact_scores(queries, keys, row, place, is_close, D, PAIRS, DEPTH)
            for number in range(levels):
                level += (is_close & (score > tl.load(thresholds + number))).to(tl.int32)
        is_above = is_pair & (level > 0)
        target = sums + (row.to(tl.int64) * levels + level - 1) * Y
        tl.atomic_add(target + Y - 1, tl.full([PAIRS], 1, tl.int64), is_above, sem="relaxed")
        begin = tl.load(offsets + place, is_above, 0)
        end = tl.load(offsets + place + 1, is_above, 0)
        for entry in range(0, tl.max(end - begin, axis=0), ENTRIES):
            entries = begin[:, None] + entry + tl.arange(0, ENTRIES)[None, :]
            is_entry = entries < end[:, None]
            token = tl.load(tokens + entries, is_entry, 0)
            tl.atomic_add(target[:, None] + token, tl.load(counts + entries, is_entry, 0), is_entry, sem="relaxed")


@_kernel
def score_pairs(
    queries,
    keys,
    places,
    marks,
    found,
    scores,  # [P, room] float64: written
    room,
    splits,
    D: tl.constexpr,
    TILE_QUERIES: tl.constexpr,
    PAIRS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """The exact scores of listed pairs."""
    last = tl.minimum(tl.load(found + tl.program_id(0)), room)
    for first in range(tl.program_id(1) * PAIRS, last, tl.num_programs(1) * PAIRS):
        listed, is_pair, place, row, _ = _listed_pairs(places, marks, room, splits, first, last, TILE_QUERIES, PAIRS)
        score = _exact_scores(queries, keys, row, place, is_pair, D, PAIRS, DEPTH)
        tl.store(scores + listed, score, is_pair)

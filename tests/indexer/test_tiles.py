"""The bounds of tiles hold for all keys and queries, so the backend gives the integers of the oracle.

The bounds are computed here once more, from their formulas, and compared with exact scores; then those of compiled code
are. What a search finds is compared with integer arithmetic, as in the contract.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import ClassVar, NamedTuple

import numba
import numpy as np
import pytest
import torch
from test_index_contract import Case, clustered, make_counts, oracle_scores, random_counts, relative, unit

from ffnsearch_indexer.answer.predictor import Predictor
from ffnsearch_indexer.corpora.substrings import NextTokenCounts
from ffnsearch_indexer.errors import BackendError, CancelledError
from ffnsearch_indexer.hardware import matrix
from ffnsearch_indexer.hardware.matrix import MATRICES
from ffnsearch_indexer.index import tile_search, tiled, tiles
from ffnsearch_indexer.index.base import Checkpoint, Index, RangeSums
from ffnsearch_indexer.index.exact import ExactIndex
from ffnsearch_indexer.index.tile_search import (
    IN_BFLOAT16,
    IN_WHOLES,
    PAIRS,
    STEP_TILES_MAX,
    WHOLE_MAX,
    WHOLE_ROUNDINGS,
    Queries,
)
from ffnsearch_indexer.index.tiled import TiledIndex
from ffnsearch_indexer.index.tiles import (
    CENTRE_NORM_MIN,
    PREFIX,
    TILE_KEYS,
    Tiles,
    padded,
    slack,
    tiles_of,
)
from ffnsearch_indexer.store.datastore import Datastore

SIZES = [1, 3, 8, 31, 32, 33, 40, 64, 130, 384]
KINDS = [
    *("random", "clusters", "duplicates", "steps", "opposites", "axes", "one is far", "zeros"),
    *("some are zero", "subnormal", "almost orthogonal"),
]
FEW = 2
FAR = ["same", "opposite", "zero", "orthogonal", "one step off", "random"]
UNIT_ROUNDING = 2.0**-24
HEADERS_BYTES = 128 * len(Tiles._fields)
DROPPED, OPEN, ACCEPTED = range(3)

Bounds = tuple[np.ndarray, np.ndarray]
"""The least and the most [B, N] that scores may be, in the order of the tiles."""

in_every_way = pytest.mark.parametrize("way", matrix.WAYS, ids=lambda way: f"way {way}", indirect=True)
"""All ways to multiply that there are here; the tests of `matrix` say which are missing."""


class InSmallSteps(TiledIndex):
    queries_max: ClassVar = 3
    pairs_max: ClassVar = 6
    candidates_max: ClassVar = 64


@pytest.fixture
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let matrices be multiplied in one way, and of two queries whole numbers."""
    monkeypatch.setattr(tiled, "WAYS", (request.param,))
    monkeypatch.setattr(tiled, "FEW", (FEW,) * 3)


@pytest.fixture
def as_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles hold the keys in the order in which they come."""
    monkeypatch.setattr(tiles, "closest_order", lambda positions, *_: np.arange(len(positions)))


@pytest.fixture(autouse=True)
def as_torch_was() -> Iterator[None]:
    """A test may change how torch computes."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


def steps_away(rng: np.random.Generator, key: np.ndarray, keys: int) -> np.ndarray:
    """Keys that are at most one step of float16 from another in each dimension."""
    sides = rng.integers(-1, 2, (keys, len(key)))
    return np.where(sides, np.nextafter(key, (2 * sides).astype(np.float16)), key)


def draw(kind: str, rng: np.random.Generator, D: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys [N, D] of a kind and 13 queries near and far from them, all float16."""
    base, centres = unit(rng.standard_normal(D)), rng.standard_normal((3, D))
    if kind == "random":
        keys = unit(rng.standard_normal((100, D)))
    elif kind == "clusters":
        keys = unit(centres[rng.integers(3, size=129)] + 0.3 * rng.standard_normal((129, D)))
    elif kind == "duplicates":
        keys = np.repeat(np.stack([base, unit(centres[0])]), [70, 58], axis=0)
    elif kind == "steps":
        keys = steps_away(rng, base, 65)
    elif kind == "opposites":
        keys = np.stack([relative(rng, base, FAR[number % len(FAR)]) for number in range(97)])
    elif kind == "axes":
        keys = (np.eye(D) * rng.choice([-1, 1], D))[rng.integers(D, size=64)].astype(np.float16)
    elif kind == "one is far":
        keys = np.concatenate([steps_away(rng, base, 63), -base[None]])
    elif kind == "some are zero":
        keys = unit(rng.standard_normal((80, D))) * rng.integers(0, 2, (80, 1)).astype(np.float16)
    elif kind == "subnormal":
        small = rng.integers(-1500, 1501, (70, D)).astype(np.float16) * np.float16(2.0**-24)
        keys = np.where((np.arange(70)[:, None] % 3 > 0) & (np.arange(D) == D // 2), base[D // 2] + small, small)
        keys = keys.astype(np.float16)
    elif kind == "almost orthogonal":
        keys = unit(0.02 * base.astype(np.float64) + rng.standard_normal((90, D)) * (np.arange(D) != 0))
    else:
        keys = np.zeros((40, D), np.float16)
    means = unit(np.stack([keys[:TILE_KEYS].mean(axis=0, dtype=np.float64), keys.mean(axis=0, dtype=np.float64)]))
    some = np.stack([relative(rng, keys[rng.integers(len(keys))], far) for far in FAR])
    return keys, np.concatenate([some, means, steps_away(rng, means[0], 2), unit(centres)])


def ones(keys: np.ndarray) -> NextTokenCounts:
    return make_counts([[(0, 1)]] * len(keys), 1)


def hard_thresholds(rng: np.random.Generator, scores: np.ndarray) -> list[float]:
    """Twenty and more: scores and the numbers beside them, the ends of the range, and what is beyond, in any order."""
    near = [float(score) for score in rng.choice(scores.ravel(), 4)]
    steps = [float(np.nextafter(score, side)) for score in (*near[:3], -1.0, 1.0) for side in (-2, 2)]
    rounded = [float(np.float32(score)) for score in near]
    fixed = [-1.0, 0.0, 1.0, -1.5, 1.5, -np.inf, np.inf, -1e300, 1e300]
    return rng.permutation([*near, *steps, *rounded, *fixed, near[0], 0.0]).tolist()


def expected_sums(case: Case) -> RangeSums:
    """The sums by whole numbers, as the oracle's, with one product of matrices instead of loops."""
    above = oracle_scores(case)[:, None] > np.array(case.thresholds)[:, None]
    dense = np.zeros((len(case.keys), case.counts.vocabulary_size), np.int64)
    of_entry = np.repeat(np.arange(len(dense)), np.diff(case.counts.offsets))
    np.add.at(dense, (of_entry, case.counts.tokens), case.counts.counts)
    return RangeSums(above.astype(np.int64) @ dense, above.sum(axis=2))


def require_same(found: RangeSums, expected: RangeSums) -> None:
    np.testing.assert_array_equal(found.neighbors, expected.neighbors)
    np.testing.assert_array_equal(found.freq, expected.freq)


def require_exact(index: Index, case: Case) -> None:
    """Sums are those of the oracle, and some of the neighbors."""
    require_same(index.range_sum(case.queries, case.thresholds), expected_sums(case))
    scores = oracle_scores(case)
    for threshold in case.thresholds[:4]:
        found = index.range_search(case.queries, threshold)
        rows, ids = np.nonzero(scores > threshold)
        np.testing.assert_array_equal(found.ids, ids)
        np.testing.assert_array_equal(found.lims, np.searchsorted(rows, np.arange(len(case.queries) + 1)))
        np.testing.assert_array_equal(found.scores, scores[rows, ids])


def float64_of(bits: np.ndarray) -> np.ndarray:
    """Values of bfloat16, by their bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def by_key(residuals: np.ndarray) -> np.ndarray:
    """Residuals [n, 32 P] as they are kept, as [32 n, P]."""
    pairs = residuals.reshape(len(residuals), residuals.shape[1] // (2 * TILE_KEYS), TILE_KEYS, 2)
    return pairs.transpose(0, 2, 1, 3).reshape(len(residuals) * TILE_KEYS, -1).astype(np.float64)


class Products(NamedTuple):
    """The products of queries as they were rounded with what is kept of the keys, in float64.

    centres: [B, n], magnitudes: [B, n], of magnitudes. prefixes, details: [B, N].
    """

    centres: np.ndarray
    magnitudes: np.ndarray
    prefixes: np.ndarray
    details: np.ndarray


def rounded_queries(queries: Queries, kind: int) -> tuple[np.ndarray, np.ndarray]:
    """Prefixes and details of rotated queries as they were rounded, to bfloat16 or to whole numbers of their steps."""
    if kind == IN_BFLOAT16:
        return float64_of(queries.prefixes), float64_of(queries.details)
    steps = queries.steps[:, None].astype(np.float64)
    np.testing.assert_array_equal(queries.wholes, np.hstack([queries.whole_prefixes, queries.whole_details]))
    return queries.whole_prefixes * steps, queries.whole_details * steps


def products_of(made: Tiles, queries: Queries, kind: int) -> Products:
    """What compiled code multiplies, here in float64."""
    N, n = len(made.order), len(made.offsets) - 1
    first, others = rounded_queries(queries, kind)
    both, centres = np.hstack([first, others]), made.centres[:n] * made.bounds[5, :, None].astype(np.float64)
    tile = np.arange(N) // TILE_KEYS
    scale, detail_scale = made.bounds[[6, 9]].astype(np.float64)[:, tile]
    d1, d2 = by_key(made.residuals)[:N], by_key(made.details)[:N]
    products = scale * (first @ d1.T), detail_scale * (others @ d2.T)
    return Products(both @ centres.T, abs(both) @ abs(centres).T, *products)


def plain_tile_bounds(
    made: Tiles, products: np.ndarray, queries: Queries, kind: int, dtype: type = np.float64
) -> Bounds:
    """The bounds of whole tiles by their formulas, from products [B, n] with centres, in float64 or float32."""
    lowest, highest, inverse_square, spread, length = made.bounds[:5].astype(dtype)
    v = products.astype(dtype)
    squares, errors = (norms[: len(v), None].astype(dtype) for norms in (queries.squares, queries.errors[kind]))
    off = errors * length
    least = np.maximum(abs(v) - off, dtype(0))
    across = np.sqrt(np.maximum(squares - least**2 * inverse_square, dtype(0)))
    reach = across * spread + off * np.maximum(abs(lowest), abs(highest)) + dtype(queries.slack)
    tile = np.arange(len(made.order)) // TILE_KEYS
    low, high = np.minimum(v * lowest, v * highest) - reach, np.maximum(v * lowest, v * highest) + reach
    return low[:, tile], high[:, tile]


def plain_bounds(made: Tiles, queries: Queries, kind: int) -> dict[str, Bounds]:
    """The bounds of each stage, by their formulas, in float64."""
    N, B = len(made.order), len(queries.vectors)
    tile = np.arange(N) // TILE_KEYS
    products = products_of(made, queries, kind)
    length, _, rounding, prefix_length, _, detail_rounding, detail_length = made.bounds[[4, 6, 7, 8, 9, 10, 11]].astype(
        np.float64
    )[:, tile]
    errors, prefix_norms, detail_norms, prefix_errors, detail_errors = (
        np.asarray(norms[:B, None], np.float64)
        for norms in (
            *(queries.errors[kind], queries.prefix_norms, queries.detail_norms),
            *(queries.prefix_errors[kind], queries.detail_errors[kind]),
        )
    )
    estimate = products.centres[:, tile] + products.prefixes
    reach = errors * length + prefix_norms * rounding + prefix_errors * prefix_length + float(queries.slack)
    with_remainder = reach + detail_norms * made.remainders.reshape(-1)[:N]
    closer = estimate + products.details
    closer_reach = reach + detail_norms * detail_rounding + detail_errors * detail_length
    return {
        "tile": plain_tile_bounds(made, products.centres, queries, kind),
        "prefix": (estimate - with_remainder, estimate + with_remainder),
        "detail": (closer - closer_reach, closer + closer_reach),
    }


@numba.njit
def begin(way: int) -> None:
    matrix.begin(MATRICES, way)


@numba.njit
def end(way: int) -> None:
    matrix.end(way)


NOTHING = np.zeros(1, np.int64), np.empty((0, 0, 0), np.int64), np.empty((0, 0), np.int64)
"""An order, freq and neighbors, where nothing is added."""


def every_estimate(index: TiledIndex, queries: Queries) -> tuple[np.ndarray, ...]:
    """What compiled code finds of all pairs: tiles, rows, then estimates and reaches, without details and with them."""
    made, way, limits = index.tiles, index._way, np.float32([-2])
    tiles_here = 0, len(made.offsets) - 1
    room = tile_search._room(len(made.centres), len(queries.vectors), queries.panels.shape[1] * 2, queries.few)
    begin(way)
    tile_search._open_tiles(*tiles_here, queries, made, limits, False, *NOTHING, room, way)
    found = tile_search._find_near(*tiles_here, queries, made, limits[0], room, way)
    estimates, reaches = room.estimates[:found].copy(), room.reaches[:found].copy()
    tile_search._refine(found, queries, made, room, way)
    end(way)
    of_pairs = room.near_tiles, room.near_rows, estimates, reaches, room.estimates, room.reaches
    return tuple(values[:found] for values in of_pairs)


def every_decision(index: TiledIndex, queries: Queries, limits: np.ndarray) -> np.ndarray:
    """What compiled code does with each query and tile [B, n] for each limit alone: DROPPED, OPEN or ACCEPTED."""
    B, n = len(queries.vectors), len(index.tiles.offsets) - 1
    counted = {"offsets": np.arange(n + 1), "tokens": np.arange(n, dtype=np.uint16), "counts": np.ones(n, np.int64)}
    made = Tiles(*(tiled._fixed(array) for array in index.tiles._replace(**counted)))
    room = tile_search._room(len(made.centres), B, queries.panels.shape[1] * 2, queries.few)
    decisions = np.zeros((len(limits), B, n), np.int64)
    begin(index._way)
    for limit, decided in zip(limits, decisions, strict=True):
        freq, neighbors = np.zeros((B, 1, n), np.int64), np.zeros((B, 1), np.int64)
        sums = NOTHING[0], freq, neighbors
        tile_search._open_tiles(0, n, queries, made, limit[None], True, *sums, room, index._way)
        decided[:] = freq[:, 0] * ACCEPTED
        for tile, waiters in enumerate(room.lengths[:n]):
            decided[room.rows[tile, :waiters], tile] += OPEN
    end(index._way)
    return decisions


def by_pair(found: tuple[np.ndarray, ...], made: Tiles, B: int) -> tuple[np.ndarray, ...]:
    """Estimates and reaches [B, N] in the order of the tiles, of what is found of all pairs."""
    near_tiles, near_rows, *of_pairs = found
    n = len(made.offsets) - 1
    assert sorted(zip(near_tiles.tolist(), near_rows.tolist(), strict=True)) == [
        (tile, row) for tile in range(n) for row in range(B)
    ]
    spread_out = []
    for values in of_pairs:
        dense = np.full((B, n, TILE_KEYS), np.nan)
        dense[near_rows, near_tiles] = values if values.ndim == 2 else values[:, None]
        spread_out.append(dense.reshape(B, -1)[:, : len(made.order)])
    return tuple(spread_out)


def require_decided_rightly(index: TiledIndex, queries: Queries, scores: np.ndarray) -> None:
    """No tile is dropped or accepted wrongly, not even at the limits that are hardest: beside its own scores."""
    starts = np.arange(0, len(index.tiles.order), TILE_KEYS)
    most, least = np.maximum.reduceat(scores, starts, axis=1), np.minimum.reduceat(scores, starts, axis=1)
    below, above = most.astype(np.float32), least.astype(np.float32)
    below = np.where(below < most, below, np.nextafter(below, np.float32(-2)))
    above = np.where(above >= least, above, np.nextafter(above, np.float32(2)))
    limits = np.unique(np.concatenate([below.ravel(), above.ravel(), np.float32([-2, 0, 2])]))
    decisions, exactly = every_decision(index, queries, limits), limits.astype(np.float64)
    assert set(np.unique(decisions)) <= {DROPPED, OPEN, ACCEPTED}
    assert (most <= exactly[:, None, None])[decisions == DROPPED].all(), "a tile with a neighbor was dropped"
    assert (least > exactly[:, None, None])[decisions == ACCEPTED].all(), "a tile with others was accepted"


def require_within(scores: np.ndarray, bounds: Bounds) -> None:
    assert (bounds[0] <= scores).all(), f"a score is lower by {(bounds[0] - scores).max()}"
    assert (scores <= bounds[1]).all(), f"a score is higher by {(scores - bounds[1]).max()}"


def require_bounded(index: TiledIndex, queries: np.ndarray) -> None:
    """All scores are within the bounds of all stages: by the formulas, and as compiled code has them."""
    made, of_queries = index.tiles, index._prepared(queries)
    D = queries.shape[1]
    scores = oracle_scores(Case(index.keys, queries, [], index.counts))[:, made.order]
    for kind, roundings in ((IN_BFLOAT16, D), (IN_WHOLES, WHOLE_ROUNDINGS)):
        for bounds in plain_bounds(made, of_queries, kind).values():
            require_within(scores, bounds)
        products = products_of(made, of_queries, kind)
        for wrong in (-1, 1):  # as wrong as float32 may be
            v = products.centres + wrong * roundings * UNIT_ROUNDING * products.magnitudes
            for dtype in (np.float64, np.float32):
                require_within(scores, plain_tile_bounds(made, v, of_queries, kind, dtype))
    require_decided_rightly(index, of_queries, scores)
    for some in (slice(None), slice(1), slice(1, 2 + FEW)):  # few are multiplied in another way
        require_estimated(index, queries[some], scores[some])
    require_decided_rightly(index, index._prepared(queries[:FEW]), scores[:FEW])


def require_estimated(index: TiledIndex, queries: np.ndarray, scores: np.ndarray) -> None:
    """The estimates of compiled code are off by no more than they are said to reach."""
    made, prepared = index.tiles, index._prepared(queries)
    estimates, reaches, closer, closer_reaches = by_pair(every_estimate(index, prepared), made, len(queries))
    remainders = prepared.detail_norms[: len(queries), None] * made.remainders.reshape(-1)[: len(made.order)]
    compared = 4 * UNIT_ROUNDING  # what is rounded where a sum of these is compared with a limit
    assert (abs(estimates - scores) + compared <= reaches + remainders).all()
    assert (abs(closer - scores) + compared <= closer_reaches).all()


@cache
def drawn(kind: str, D: int, seed: int) -> tuple[np.ndarray, np.ndarray, Tiles]:
    """Keys and queries of a kind, and tiles of near keys, or for odd seeds of keys as they come."""
    keys, queries = draw(kind, np.random.default_rng([seed, D]), D)
    with pytest.MonkeyPatch.context() as patched:
        if seed % 2:
            patched.setattr(tiles, "closest_order", lambda positions, *_: np.arange(len(positions)))
        return keys, queries, tiles_of(keys, ones(keys))


@in_every_way
@pytest.mark.parametrize("D", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_score_is_within_its_bounds(kind: str, D: int, way: None) -> None:
    for seed in range(4 if D < 100 else 2):
        keys, queries, made = drawn(kind, D, seed)
        require_bounded(TiledIndex(keys, ones(keys), made), queries)


@in_every_way
@pytest.mark.parametrize("length", [0.0, 0.5, 0.99, 1.01, 2.0])
def test_a_short_centre_is_no_direction(length: float, way: None, as_given: None) -> None:
    rng = np.random.default_rng(3)
    across = rng.standard_normal((16, 40))
    across[:, 0] = 0
    keys = unit(np.concatenate([across, -across])).astype(np.float64)
    keys[:, 0] = length * CENTRE_NORM_MIN
    index = TiledIndex(keys.astype(np.float16), ones(keys))
    assert index.tiles.centres.any() == (length > 1)
    assert (index.tiles.bounds[2] > 0).all() == (length > 1)
    require_bounded(index, np.concatenate([index.keys[:3], unit(np.eye(40)[:2]), unit(rng.standard_normal((2, 40)))]))


def test_each_stage_is_closer_than_the_one_before() -> None:
    case = clustered(d_model=130)
    index = TiledIndex(case.keys, case.counts)
    for kind in (IN_BFLOAT16, IN_WHOLES):
        bounds = plain_bounds(index.tiles, index._prepared(case.queries), kind)
        tile, prefix, detail = (float((most - least).mean()) for least, most in bounds.values())
        assert detail < 0.5 * prefix < 0.25 * tile


def beside_a_centre(rng: np.random.Generator, D: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys [32, D] on either side of a centre, and a query [D] that is hardly off its direction.

    int8 holds the centre and bfloat16 the query, which is some steps of bfloat16 off in as many places: nothing but the
    arithmetic of float32 is left to be wrong.
    """
    centre = rng.integers(64, 128, D) * rng.choice([-1, 1], D).astype(np.float64)
    centre[0] = 127
    query = centre.copy()
    query[rng.permutation(np.arange(1, D))[:steps]] += 0.5
    query *= 2.0 ** -np.ceil(np.log2(np.linalg.norm(query)))
    side = query - (query @ centre) * centre / (centre @ centre) if steps else rng.standard_normal(D)
    side /= np.linalg.norm(side)
    centre *= 0.8 / np.linalg.norm(centre)
    keys = np.stack([centre + 0.5 * side, centre - 0.5 * side] * (TILE_KEYS // 2)).astype(np.float16)
    return keys, query.astype(np.float16)


@in_every_way
@pytest.mark.parametrize("D", [2, 3, 8, 32, 64, 130, 384])
def test_a_query_along_a_centre_finds_what_is_beside_it(
    D: int, way: None, as_given: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its product is too large by is most of what is left of it across."""
    monkeypatch.setattr(tiles, "_basis", lambda source: torch.eye(source.shape[1]))
    for seed in range(40 if D < 10 else 6):
        keys, query = beside_a_centre(np.random.default_rng([D, seed]), D, steps=[0, 1, 2, 5, 20][seed % 5])
        index = TiledIndex(keys, ones(keys))
        queries = np.stack([query, -query, query])
        prepared = index._prepared(queries)
        assert not prepared.prefix_errors[IN_BFLOAT16].any()
        assert not prepared.detail_errors[IN_BFLOAT16].any()
        require_bounded(index, queries)
        scores = oracle_scores(Case(keys, queries, [], index.counts))
        for below in (0, 1e-7, 1e-6, 1e-5, 1e-4):
            thresholds = [float(scores.max()) - below, float(scores.min()) - below]
            found = index.range_sum(queries, thresholds).neighbors
            np.testing.assert_array_equal(found, (scores[:, None] > np.array(thresholds)[:, None]).sum(axis=2))


def rounded_one_way(rng: np.random.Generator, D: int, part: str, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Keys [32, D] and a query [D]: what is lost of one, of the query or of keys, points where the other does."""
    signs = rng.choice([-1, 1], D)
    inside = {"centre": np.ones(D), "prefix": np.arange(D) < PREFIX, "detail": np.arange(D) >= PREFIX}[part]
    begins = np.arange(D) == np.flatnonzero(inside)[0]
    if side == "query":  # int8 holds such keys
        key, query = 0.05 * signs * inside, (1 + 3 * 2.0**-10) * 2.0**-4 * signs * inside
    else:  # bfloat16 holds the query, and int8 the first dimension
        key, query = 0.005 * np.where(begins, 127, 10.49) * signs * inside, 2.0**-4 * signs * inside * ~begins
    centred = part != "centre"
    return np.stack([key, -key if centred else key] * (TILE_KEYS // 2)).astype(np.float16), query.astype(np.float16)


def require_exact_where_bounds_are_reached(index: TiledIndex, queries: np.ndarray, share: float) -> None:
    """Some estimate is off by a share of what it may be, and sums are right beside every score all the same."""
    require_bounded(index, queries)
    scores = oracle_scores(Case(index.keys, queries, [], index.counts))
    (*_, closer, reaches) = by_pair(every_estimate(index, index._prepared(queries)), index.tiles, len(queries))
    assert abs(closer - scores).max() > share * reaches.max(), "the case is not as hard as it should be"
    for threshold in np.unique(scores):
        for near in (threshold, np.nextafter(threshold, -2)):
            require_exact(index, Case(index.keys, queries, [float(near)], index.counts))


@in_every_way
@pytest.mark.parametrize("D", [64, 130])
@pytest.mark.parametrize(
    ("part", "side"),
    [("centre", "query"), ("prefix", "query"), ("detail", "query"), ("prefix", "keys"), ("detail", "keys")],
)
def test_bounds_hold_where_all_that_is_rounded_adds_up(
    part: str, side: str, D: int, way: None, as_given: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "_basis", lambda source: torch.eye(source.shape[1]))
    keys, query = rounded_one_way(np.random.default_rng(D), D, part, side)
    index = TiledIndex(keys, ones(keys))
    queries = np.stack([query, -query, query])
    require_exact_where_bounds_are_reached(index, queries, 0.8)


@pytest.mark.parametrize("D", [64, 130])
@pytest.mark.parametrize("part", ["centre", "prefix", "detail"])
def test_bounds_hold_where_whole_numbers_lose_most(
    part: str, D: int, as_given: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query with one large dimension, and all others between two whole numbers; bfloat16 holds all of it."""
    monkeypatch.setattr(tiles, "_basis", lambda source: torch.eye(source.shape[1]))
    signs = np.random.default_rng(D).choice([-1, 1], D)
    inside = {"centre": np.arange(D) > 0, "prefix": np.arange(D) % PREFIX > 0, "detail": np.arange(D) >= PREFIX}[part]
    inside &= (np.arange(D) < PREFIX) | (part != "prefix")
    large, in_bfloat16 = 0.875, np.arange(128, 256) * 2.0**-16
    between = in_bfloat16[np.argmin(abs(in_bfloat16 * WHOLE_MAX / large % 1 - 0.5))]
    key, query = 0.1 * signs * inside, between * signs * inside + large * (np.arange(D) == 0)
    keys = np.stack([key, key if part == "centre" else -key] * (TILE_KEYS // 2)).astype(np.float16)
    index, queries = TiledIndex(keys, ones(keys)), np.stack([query, -query]).astype(np.float16)
    require_exact_where_bounds_are_reached(index, queries, 0.3)


def test_queries_are_rounded_as_torch_rounds(as_given: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "_basis", lambda source: torch.eye(source.shape[1]))
    rng = np.random.default_rng(0)
    bits = np.arange(1 << 16, dtype=np.uint16)
    every_value = bits.view(np.float16)[abs(bits.view(np.float16)) < 1]
    for D in (1, 31, 64, 130):
        queries = rng.permutation(every_value)[: 35 * D].reshape(35, D)
        keys = unit(rng.standard_normal((40, D)))
        prepared = TiledIndex(keys, ones(keys))._prepared(queries)
        wide = np.pad(queries.astype(np.float64), [(0, 29), (0, padded(D) - D)])
        rounded = torch.from_numpy(wide).bfloat16().double().numpy()
        found = float64_of(np.hstack([prepared.prefixes, prepared.details]))
        np.testing.assert_array_equal(found, rounded[:35])
        pairs = prepared.panels.view(np.uint16).reshape(2, padded(D) // 2, 32, 2)
        np.testing.assert_array_equal(float64_of(pairs.transpose(0, 2, 1, 3).reshape(64, padded(D))), rounded)
        require_measured(prepared, wide[:35], rounded[:35], IN_BFLOAT16, D)


@pytest.mark.parametrize("D", [1, 31, 64, 130, 384, 600])
def test_queries_are_rounded_to_whole_numbers(D: int, as_given: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "_basis", lambda source: torch.eye(source.shape[1]))
    rng = np.random.default_rng(D)
    queries = unit(rng.standard_normal((9, D))).astype(np.float64) * 10.0 ** -rng.integers(0, 5, D)
    queries[1], queries[2] = 0, rng.choice([-1, 1], D) * D**-0.5  # the latter of as large a sum as there is
    queries = queries.astype(np.float16)
    keys = unit(rng.standard_normal((40, D)))
    prepared = TiledIndex(keys, ones(keys))._prepared(queries)
    wholes, wide = prepared.wholes.astype(np.int64), np.pad(queries.astype(np.float64), [(0, 0), (0, padded(D) - D)])
    assert (abs(wholes).sum(axis=1) * 128 < 2**31).all(), "products with int8 numbers may overflow"
    is_zero = ~wide.any(axis=1)
    assert (abs(wholes).max(axis=1)[~is_zero] > (20_000 if D == 600 else 32_766)).all(), "bits are given away"
    first, others = rounded_queries(prepared, IN_WHOLES)
    rounded = np.hstack([first, others])
    assert (abs(wide - rounded) <= prepared.steps[:, None] * (0.5 + 2.0**-20)).all()
    require_measured(prepared, wide, rounded, IN_WHOLES, D)


def require_measured(prepared: Queries, wide: np.ndarray, rounded: np.ndarray, kind: int, D: int) -> None:
    """What is told of queries [B, E] that were rounded holds, and is not much larger than it need be."""
    lost, exact = wide - rounded, {"squares": np.square(wide).sum(axis=1)}
    exact["errors"] = np.linalg.norm(lost, axis=1) + max(D, WHOLE_ROUNDINGS) * UNIT_ROUNDING
    parts = {"prefix": slice(PREFIX), "detail": slice(PREFIX, None)}
    exact |= {f"{name}_norms": np.linalg.norm(wide[:, part], axis=1) for name, part in parts.items()}
    exact |= {f"{name}_errors": np.linalg.norm(lost[:, part], axis=1) for name, part in parts.items()}
    for name, values in exact.items():
        measured = getattr(prepared, name)
        measured = (measured[kind] if measured.ndim == 2 else measured)[: len(wide)]
        assert (values <= measured).all(), f"{name} are too small"
        assert (measured <= values * (1 + 2.0**-8) + 1e-30).all(), f"{name} are too large"


@pytest.mark.parametrize("D", SIZES)
def test_the_slack_is_more_than_rotating_in_float32_takes(D: int) -> None:
    rng = np.random.default_rng(D)
    keys, queries = unit(rng.standard_normal((300, D))), unit(rng.standard_normal((50, D)))
    basis = tiles_of(keys, ones(keys)).basis
    x, q = (
        (torch.from_numpy(v.astype(np.float32)) @ torch.from_numpy(basis)).double().numpy() for v in (keys, queries)
    )
    exact = oracle_scores(Case(keys, queries, [], ones(keys)))
    assert 0 < slack(basis) < 2e-3
    assert abs(q @ x.T - exact).max() < slack(basis) / 2


@pytest.mark.parametrize("D", [1, 8, 64])
def test_the_slack_covers_a_basis_that_is_not_orthogonal(D: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(D)
    skew = torch.from_numpy(np.eye(D) + 1e-3 * rng.standard_normal((D, D))).float()
    monkeypatch.setattr(tiles, "_basis", lambda source: skew)
    keys, queries = draw("clusters", rng, D)
    require_bounded(TiledIndex(keys, ones(keys)), queries)


@in_every_way
@pytest.mark.parametrize("D", [1, 3, 40, 130])
@pytest.mark.parametrize("kind", KINDS)
def test_hard_cases_give_the_integers_of_the_oracle(kind: str, D: int, way: None) -> None:
    torch.set_num_threads(1)  # no time for starting others
    rng = np.random.default_rng([7, D])
    keys, queries = draw(kind, rng, D)
    case = Case(keys, queries, [], random_counts(rng, len(keys), 5))
    case = case._replace(thresholds=hard_thresholds(rng, oracle_scores(case)))
    index, expected = TiledIndex(keys, case.counts), expected_sums(case)
    require_exact(index, case)
    for step, threshold in enumerate(case.thresholds):  # alone, more is decided by bounds
        found = index.range_sum(queries, [threshold])
        require_same(found, RangeSums(expected.freq[:, step : step + 1], expected.neighbors[:, step : step + 1]))


@in_every_way
@pytest.mark.parametrize("kind", ["clusters", "opposites", "steps"])
def test_results_do_not_depend_on_the_tiles(kind: str, way: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(11)
    keys, queries = draw(kind, rng, 48)
    case = Case(keys, queries, [], random_counts(rng, len(keys), 9))
    case = case._replace(thresholds=hard_thresholds(rng, oracle_scores(case)))
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(keys))
        monkeypatch.setattr(tiles, "closest_order", lambda *_, order=order: order.copy())
        index = (InSmallSteps if seed % 2 else TiledIndex)(keys, case.counts)
        np.testing.assert_array_equal(index.tiles.order, order)
        require_exact(index, case)


@in_every_way
@pytest.mark.parametrize("few", [0, FEW, 8, 16])
@pytest.mark.parametrize("index", [TiledIndex, InSmallSteps])
def test_batches_of_any_size(index: type[TiledIndex], few: int, way: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Around 8, of how many whole numbers are multiplied, 16 and 32, a product's columns, and 512, a step's queries."""
    monkeypatch.setattr(tiled, "FEW", (few,) * 3)
    case = clustered(keys=600, d_model=40, vocabulary_size=5)
    rng = np.random.default_rng(0)
    queries = np.concatenate([case.queries, unit(rng.standard_normal((530, 40)) + case.queries[0])])
    case = case._replace(queries=queries, thresholds=[0.5, 0.1, 0.9])
    expected, searched = expected_sums(case), index(case.keys, case.counts)
    for batch in (1, 4, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 65, 511, 512, 513, 550):
        found = searched.range_sum(case.queries[:batch], case.thresholds)
        require_same(found, RangeSums(expected.freq[:batch], expected.neighbors[:batch]))
        listed = searched.range_search(case.queries[:batch], 0.5)
        np.testing.assert_array_equal(np.diff(listed.lims), expected.neighbors[:batch, 0])


@in_every_way
@pytest.mark.parametrize("tiles_more", [-1, 0, 1, 17])
def test_numbers_of_tiles_around_those_that_are_looked_at_together(tiles_more: int, way: None) -> None:
    rng = np.random.default_rng(tiles_more + 1)
    keys = unit(rng.standard_normal(((STEP_TILES_MAX + tiles_more) * TILE_KEYS - 5, 3)))
    case = Case(keys, unit(rng.standard_normal((2, 3))), [], random_counts(rng, len(keys), 3))
    index = TiledIndex(keys, case.counts)
    case = case._replace(thresholds=rng.choice(oracle_scores(case).ravel(), 3).tolist())
    for threads in (1, 3):
        torch.set_num_threads(threads)
        require_exact(index, case)


@in_every_way
@pytest.mark.parametrize("keys_more", [-1, 0, 1, 31, 32, 33, 3000])
def test_any_number_of_pairs_may_be_undecided(keys_more: int, way: None) -> None:
    """All keys are the same, and a threshold is their score, or beside it."""
    rng = np.random.default_rng(0)
    keys = np.repeat(unit(rng.standard_normal((1, 40))), PAIRS + keys_more, axis=0)
    case = Case(keys, np.concatenate([keys[:5], steps_away(rng, keys[0], 5)]), [], random_counts(rng, len(keys), 5))
    scores = oracle_scores(case)[:, 0]
    thresholds = [*scores.tolist(), *np.nextafter(scores, -2).tolist(), *np.nextafter(scores, 2).tolist()]
    require_exact(TiledIndex(keys, case.counts), case._replace(thresholds=thresholds))


@in_every_way
def test_a_whole_tile_may_be_decided_by_its_keys(way: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys far to all sides of a centre: their tile says little, their scores with a query are almost the same."""
    rng = np.random.default_rng(0)
    sides = rng.standard_normal((100, 384)) * (np.arange(384) > 1)
    keys = unit(unit(np.eye(384)[:1]).astype(np.float64) + sides / np.linalg.norm(sides, axis=1, keepdims=True))
    queries = unit(np.array([[0.9, 0.43], [0.8, -0.6], [-0.9, 0.43]]) @ np.stack([np.eye(384)[0], sides[-1] / 20]))
    index = TiledIndex(keys, make_counts([[(1, 2**32 - 1), (number % 3 + 2, 1)] for number in range(100)], 5))
    whole_tiles = every_decision(index, index._prepared(queries), np.float32([0.4]))[0]
    assert (whole_tiles[:2] == OPEN).all(), "the tiles are decided before their keys are looked at"
    monkeypatch.setattr(tiled, "score_error", lambda D: np.nan)  # no pair that is looked at would be a neighbor
    case = Case(keys, queries, [0.4, 0.3, 0.9, -0.9, 0.4, 0.4000001], index.counts)
    require_exact(index, case)


@pytest.mark.parametrize("beyond", [np.inf, 1e300, 3.0, 2.0])
def test_thresholds_that_no_score_reaches(beyond: float) -> None:
    for kind in KINDS:
        rng = np.random.default_rng(0)
        keys, queries = draw(kind, rng, 33)
        index = TiledIndex(keys, random_counts(rng, len(keys), 5))
        for thresholds in ([beyond], [-beyond], [beyond, -beyond, beyond, -beyond], [-beyond, 0.0, 0.0, beyond]):
            require_exact(index, Case(keys, queries, thresholds, index.counts))


@pytest.mark.parametrize("substrings", [1, 31, 32, 33, 1000, 1023])
def test_the_last_tile_may_be_short(substrings: int) -> None:
    case = clustered(keys=1023)
    keys, queries = case.keys[:substrings], case.queries[:7]
    counts = random_counts(np.random.default_rng(substrings), substrings, 65)
    index = TiledIndex(keys, counts)
    require_exact(index, Case(keys, queries, [-2.0, 0.85, -1.0, 0.5, 0.7], counts))
    assert (index.range_sum(queries, [-2.0]).neighbors == substrings).all()
    assert len(index.tiles.offsets) == -(-substrings // TILE_KEYS) + 1


@pytest.mark.parametrize("vocabulary_size", [1, 50_000, 65_536])
def test_vocabularies_of_any_size(vocabulary_size: int) -> None:
    rng = np.random.default_rng(1)
    keys, queries = draw("clusters", rng, 16)
    rows = [[(vocabulary_size - 1, 5)] if number % 5 == 0 else [(0, 3)] for number in range(len(keys))]
    case = Case(keys, queries[:3], [-1.0, 0.9], make_counts(rows, vocabulary_size))
    require_exact(TiledIndex(keys, case.counts), case)


def test_substrings_that_nothing_follows_are_neighbors_all_the_same() -> None:
    keys, queries = draw("clusters", np.random.default_rng(1), 16)
    case = Case(keys, queries, [-2.0, 0.5], make_counts([[]] * len(keys), 3))
    require_exact(TiledIndex(keys, case.counts), case)


def test_counts_of_a_tile_do_not_overflow() -> None:
    keys = np.repeat(unit(np.ones((1, 8))), 1000, axis=0)
    index = TiledIndex(keys, make_counts([[(2, 2**32 - 1)]] * 1000, 3))
    assert index.tiles.counts.max() == 32 * (2**32 - 1)
    for threshold in (-1.0, 0.5, float(np.nextafter(oracle_scores(Case(keys, keys[:1], [], index.counts))[0, 0], -2))):
        assert index.range_sum(keys[:1], [threshold]).freq.tolist() == [[[0, 0, 1000 * (2**32 - 1)]]]


@pytest.fixture
def results(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each thread have a result of its own, or all threads have one."""
    if request.param == "shared":
        monkeypatch.setattr(tiled, "COPIES_BYTES_MAX", 0)


with_either_result = pytest.mark.parametrize("results", ["of each thread", "shared"], indirect=True)


@with_either_result
@in_every_way
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_threads_share_the_work_and_change_nothing(threads: int, way: None, results: None) -> None:
    case = clustered(keys=1000)
    case, index = case._replace(queries=case.queries[:13]), InSmallSteps(case.keys, case.counts)
    expected = expected_sums(case)
    torch.set_num_threads(threads)
    for batch in (0, 1, 2, 7, 13):
        found = index.range_sum(case.queries[:batch], case.thresholds)
        require_same(found, RangeSums(expected.freq[:batch], expected.neighbors[:batch]))
        assert threads_here_and_in_a_new_thread() == [threads, threads]


@with_either_result
@pytest.mark.parametrize("batch", [1, 3, 4, 13])
def test_no_two_threads_add_to_the_same_sums_at_once(
    batch: int, results: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one adds would be lost: compiled code reads, adds and writes, side by side with others."""
    case = clustered(keys=1000)
    index, at_work, clashes = InSmallSteps(case.keys, case.counts), [], []
    calls, two_at_work = [None, None], threading.Barrier(2, timeout=10)

    def add_slowly(*arguments: object) -> int:
        here = [array for array in arguments if isinstance(array, np.ndarray) and array.dtype == np.int64][-2:]
        clashes.extend(other for other in at_work if any(np.shares_memory(one, other) for one in here))
        at_work.extend(here)
        if calls:
            calls.pop()
            two_at_work.wait()
        time.sleep(0.005)
        taken = sum_tiles(*arguments)
        at_work[:] = [other for other in at_work if all(other is not array for array in here)]
        return taken

    sum_tiles = tiled.sum_tiles
    monkeypatch.setattr(tiled, "sum_tiles", add_slowly)
    torch.set_num_threads(3)
    found, expected = index.range_sum(case.queries[:batch], case.thresholds), expected_sums(case)
    assert not clashes
    require_same(found, RangeSums(expected.freq[:batch], expected.neighbors[:batch]))


def test_threads_that_are_slow_to_start_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with other work to do."""
    case = clustered(keys=1000)
    index, start = InSmallSteps(case.keys, case.counts), threading.Thread.start

    def start_slowly(thread: threading.Thread) -> None:
        start(thread)
        time.sleep(0.03)

    monkeypatch.setattr(threading.Thread, "start", start_slowly)
    torch.set_num_threads(3)
    for _ in range(3):
        require_same(index.range_sum(case.queries, case.thresholds), expected_sums(case))
        assert threads_here_and_in_a_new_thread() == [3, 3]


@pytest.mark.parametrize("batch", [1, 7])
def test_a_search_that_was_cancelled_leaves_the_number_of_threads_as_it_was(batch: int) -> None:
    case = clustered(keys=1000)
    index = InSmallSteps(case.keys, case.counts)
    torch.set_num_threads(3)
    with pytest.raises(CancelledError):
        index.range_sum(case.queries[:batch], case.thresholds, checkpoint=cancelling_after(2))
    assert threads_here_and_in_a_new_thread() == [3, 3]


def test_a_prediction_that_was_cancelled_leaves_the_number_of_threads_as_it_was(datastore: Datastore) -> None:
    predictor, prompts = Predictor(datastore), [datastore.substring(0)] * 3
    torch.set_num_threads(4)
    with pytest.raises(CancelledError):
        predictor.search(prompts, [[0.5]] * 2, checkpoint=cancelling_after(2))
    assert threads_here_and_in_a_new_thread() == [4, 4]


@pytest.mark.parametrize("batch", [1, 3])
def test_a_thread_that_begins_while_others_search_has_all_threads_too(datastore: Datastore, batch: int) -> None:
    """Torch would tell it the share of one block, for good."""
    torch.set_num_threads(4)
    found, prompts = [], [datastore.substring(0)] * batch

    def begin() -> None:
        Predictor(datastore).search(prompts, [[0.5]] * 2)
        found.extend(threads_here_and_in_a_new_thread())

    newcomer = threading.Thread(target=begin)
    once = [newcomer]

    def checkpoint() -> None:
        for thread in [once.pop()] if once else []:
            thread.start()
            thread.join()

    Predictor(datastore).search(prompts, [[0.5]] * 2, checkpoint=checkpoint)
    newcomer.join()
    assert [*found, *threads_here_and_in_a_new_thread()] == [4, 4, 4, 4]


def cancelling_after(calls: int) -> Checkpoint:
    """A checkpoint that lets so many calls pass, from any thread, and none after them."""
    left = [None] * calls

    def checkpoint() -> None:
        try:
            left.pop()
        except IndexError:
            raise CancelledError("the caller left") from None

    return checkpoint


def test_searches_side_by_side_have_threads_of_their_own() -> None:
    """As blocks are searched: each of three on as many threads as torch may use where it is called, two."""
    case = clustered(keys=1000)
    indexes = [InSmallSteps(case.keys, case.counts) for _ in range(3)]
    all_at_work, missed, callers, seen = threading.Barrier(6), [], set(), set()

    def meet_once() -> None:
        here = threading.get_ident()
        if here in seen | callers:
            return
        seen.add(here)
        try:
            all_at_work.wait(10)
        except threading.BrokenBarrierError:
            missed.append(here)

    def search(index: Index) -> RangeSums:
        callers.add(threading.get_ident())
        return index.range_sum(case.queries, case.thresholds, checkpoint=meet_once)

    indexes[0].range_sum(case.queries, case.thresholds)  # compiled code is there from now on
    with ThreadPoolExecutor(3, initializer=torch.set_num_threads, initargs=(2,)) as pool:
        for found in pool.map(search, indexes):
            require_same(found, expected_sums(case))
    assert not missed


def threads_here_and_in_a_new_thread() -> list[int]:
    """How many threads torch may use, where this is called and where nobody said."""
    found = [torch.get_num_threads()]
    other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    other.start()
    other.join()
    return found


@pytest.mark.parametrize("precision", ["medium", "high"])
def test_tiles_are_not_made_with_reduced_precision_and_searches_do_not_care(precision: str) -> None:
    """Products of bfloat16 or TF32 are off by more than the bounds allow; a search has its own."""
    case = clustered(keys=64, d_model=32)
    index = TiledIndex(case.keys, case.counts)
    torch.set_float32_matmul_precision(precision)
    with pytest.raises(BackendError, match="full float32"):
        tiles_of(case.keys, case.counts)
    require_exact(index, case)


def test_it_agrees_with_the_exact_backend_on_what_ffn_outputs_look_like() -> None:
    case = clustered(keys=3000, d_model=130)
    thresholds = [0.95, 0.9, 0.8, 0.85, 0.3, -0.1]
    found = TiledIndex(case.keys, case.counts).range_sum(case.queries, thresholds)
    require_same(found, ExactIndex(case.keys, case.counts).range_sum(case.queries, thresholds))

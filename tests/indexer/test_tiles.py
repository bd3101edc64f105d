"""The bounds of tiles hold for all keys and queries, so the backend gives the integers of the oracle.

The bounds are computed here once more, in float64 and from their formulas, and compared with exact scores; then those
of compiled code are. What a search finds is compared with integer arithmetic, as in the contract.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import ClassVar

import numba
import numpy as np
import pytest
import torch
from test_index_contract import Case, clustered, make_counts, oracle_scores, random_counts, relative, unit

from ffnsearch_indexer.answer.predictor import Predictor
from ffnsearch_indexer.corpora.substrings import NextTokenCounts
from ffnsearch_indexer.errors import BackendError, CancelledError
from ffnsearch_indexer.index import tiled, tiles
from ffnsearch_indexer.index.base import Checkpoint, Index, RangeSums
from ffnsearch_indexer.index.exact import ExactIndex
from ffnsearch_indexer.index.machine import prefetch, widened
from ffnsearch_indexer.index.ordering import closest_order, tile_order
from ffnsearch_indexer.index.tiled import TiledIndex
from ffnsearch_indexer.index.tiles import CENTRE_NORM_MIN, TILE_KEYS, Tiles, dimensions, slack, tiles_bytes, tiles_of
from ffnsearch_indexer.store.datastore import Datastore

SIZES = [1, 3, 8, 31, 32, 33, 40, 64, 130, 384]
KINDS = ["random", "clusters", "duplicates", "steps", "opposites", "axes", "one is far", "zeros"]
FAR = ["same", "opposite", "zero", "orthogonal", "one step off", "random"]
UNIT_ROUNDING = 2.0**-24
HEADERS_BYTES = 128 * len(Tiles._fields)

Bounds = tuple[np.ndarray, np.ndarray]
"""The least and the most [B, N] that scores may be, in the order of the tiles."""

with_either_centres = pytest.mark.parametrize("centres", ["bfloat16", "float32"], indirect=True)


class InSmallSteps(TiledIndex):
    queries_max: ClassVar = 3
    products_max: ClassVar = 6
    candidates_max: ClassVar = 64


@pytest.fixture
def centres(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processor multiply bfloat16, or not."""
    in_bfloat16 = request.param == "bfloat16"
    if in_bfloat16 and not torch.cpu._is_amx_tile_supported():
        pytest.skip("this processor does not multiply bfloat16 in tiles")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: in_bfloat16)


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


def prepared(index: TiledIndex, queries: np.ndarray) -> tuple[np.ndarray, tiled._Queries]:
    """The products [B, n] of queries and centres as a search computes them, and what it knows of the queries."""
    rounded, of_queries = index._prepared(queries)
    return torch.mm(rounded, index._centres.T).float().numpy(), of_queries


def plain_bounds(made: Tiles, products: np.ndarray, queries: tiled._Queries) -> dict[str, Bounds]:
    """The bounds of each stage, by their formulas, in float64."""
    N, n = len(made.order), len(made.offsets) - 1
    tile = np.arange(N) // TILE_KEYS
    wide = {name: np.asarray(value, np.float64) for name, value in queries._asdict().items()}
    norms = {name: value[:, None] for name, value in wide.items() if value.ndim == 1}
    lowest, highest, inverse_square, spread, scale, rounding, detail_scale, detail_rounding = made.bounds.astype(
        np.float64
    )[:, tile]
    v = products.astype(np.float64)[:, tile]
    off = norms["errors"] + wide["relative"] * abs(v)

    least = np.maximum(abs(v) - off, 0)
    across = np.sqrt(np.maximum(norms["squares"] - least**2 * inverse_square, 0))
    reach = across * spread + off * np.maximum(abs(lowest), abs(highest)) + wide["slack"]
    low, high = np.minimum(v * lowest, v * highest), np.maximum(v * lowest, v * highest)

    d1 = made.residuals.transpose(0, 2, 1).reshape(n * TILE_KEYS, made.residuals.shape[1])[:N].astype(np.float64)
    d2 = made.details.reshape(n * TILE_KEYS, made.details.shape[2])[:N].astype(np.float64)
    estimate = v + scale * (wide["prefixes"] @ d1.T)
    width = off + norms["prefix_norms"] * rounding + wide["slack"]
    remainder = width + norms["remainder_norms"] * made.remainders.reshape(-1)[:N]
    closer = estimate + detail_scale * (wide["details"] @ d2.T)
    tail = width + norms["detail_norms"] * detail_rounding + norms["tail_norms"] * made.tails.reshape(-1)[:N]
    return {
        "tile": (low - reach, high + reach),
        "prefix": (estimate - remainder, estimate + remainder),
        "detail": (closer - tail, closer + tail),
    }


def compiled_tile_bounds(made: Tiles, products: np.ndarray, queries: tiled._Queries) -> Bounds:
    """The bounds of whole tiles as a search computes them."""
    lower, upper = np.empty_like(products), np.empty_like(products)
    for row in range(len(products)):
        tiled._bound(products, 0, row, queries, made.bounds, upper[row], lower[row])
    tile = np.arange(len(made.order)) // TILE_KEYS
    return lower[:, tile], upper[:, tile]


def compiled_estimates(made: Tiles, products: np.ndarray, queries: tiled._Queries, waiters: int) -> np.ndarray:
    """The estimates of the first queries and all keys as a search computes them, in the order of the tiles."""
    waiting = np.tile(np.arange(waiters, dtype=np.int32), (products.shape[1], 1))
    found = np.full((products.shape[1], waiters, TILE_KEYS), np.nan, np.float32)
    for tile in range(len(found)):
        arguments = (products, tile, tile, waiting, waiters, queries.prefixes, made.residuals, made.bounds)
        tiled._estimate(*arguments, found[tile])
    return np.hstack(found)[:, : len(made.order)]


def require_within(scores: np.ndarray, bounds: Bounds) -> None:
    assert (bounds[0] <= scores).all(), f"a score is lower by {(bounds[0] - scores).max()}"
    assert (scores <= bounds[1]).all(), f"a score is higher by {(scores - bounds[1]).max()}"


def require_bounded(index: TiledIndex, queries: np.ndarray) -> None:
    """All scores are within the bounds of all stages: by the formulas, and as compiled code has them."""
    made = index.tiles
    products, of_queries = prepared(index, queries)
    scores = oracle_scores(Case(index.keys, queries, [], index.counts))[:, made.order]
    plain = plain_bounds(made, products, of_queries)
    for bounds in plain.values():
        require_within(scores, bounds)
    require_within(scores, compiled_tile_bounds(made, products, of_queries))
    (least, most), width_of_detail = plain["prefix"], (plain["detail"][1] - plain["detail"][0]) / 2
    for waiters in (len(queries), 2):
        estimates = compiled_estimates(made, products, of_queries, waiters).astype(np.float64)
        width = (most - least)[:waiters] / 2
        require_within(scores[:waiters], (estimates - width, estimates + width))
    some = np.random.default_rng(0).integers([len(queries), len(scores[0])], size=(20, 2))
    for row, place in some.tolist():
        tile, lane = place // TILE_KEYS, place % TILE_KEYS
        detail = made.bounds[6, tile] * tiled._detail(of_queries.details, row, made.details, tile, lane)
        closer = (least[row, place] + most[row, place]) / 2 + detail
        assert abs(closer - scores[row, place]) <= width_of_detail[row, place]


@cache
def drawn(kind: str, D: int, seed: int) -> tuple[np.ndarray, np.ndarray, Tiles]:
    """Keys and queries of a kind, and tiles of near keys, or for odd seeds of keys as they come."""
    keys, queries = draw(kind, np.random.default_rng([seed, D]), D)
    with pytest.MonkeyPatch.context() as patched:
        if seed % 2:
            patched.setattr(tiles, "closest_order", lambda positions, *_: np.arange(len(positions)))
        return keys, queries, tiles_of(keys, ones(keys))


@with_either_centres
@pytest.mark.parametrize("D", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_score_is_within_its_bounds(kind: str, D: int, centres: None) -> None:
    for seed in range(4 if D < 100 else 2):
        keys, queries, made = drawn(kind, D, seed)
        require_bounded(TiledIndex(keys, ones(keys), made), queries)


@with_either_centres
@pytest.mark.parametrize("length", [0.0, 0.5, 0.99, 1.01, 2.0])
def test_a_short_centre_is_no_direction(length: float, centres: None, as_given: None) -> None:
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
    bounds = plain_bounds(index.tiles, *prepared(index, case.queries))
    tile, prefix, detail = (float((most - least).mean()) for least, most in bounds.values())
    assert detail < 0.5 * prefix < 0.25 * tile


def beside_a_centre(rng: np.random.Generator, D: int, away: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys [32, D] on either side of a centre, a query [D] near it on the same side, and the centre, in float64.

    Its values are in an order in which float32 rounds the running sum of the product upwards most.
    """
    centre = abs(rng.standard_normal(D)) + 0.3
    centre = torch.from_numpy(0.8 * centre / np.linalg.norm(centre)).bfloat16().double().numpy()
    side = rng.standard_normal(D)
    side -= (side @ centre) * centre / (centre @ centre)
    side /= np.linalg.norm(side)
    query = (centre / np.linalg.norm(centre) + away * side).astype(np.float16)
    total, left, order = np.float32(0), list(range(D)), []
    while left:
        exact = query[left].astype(np.float64) * centre[left] + np.float64(total)
        best = int(np.argmax(exact.astype(np.float32) - exact))
        total = np.float32(exact[best])
        order.append(left.pop(best))
    keys = np.stack([centre + 0.5 * side, centre - 0.5 * side] * (TILE_KEYS // 2)).astype(np.float16)
    return keys[:, order], query[order], centre[order]


@pytest.mark.parametrize("centres", ["float32"], indirect=True)
@pytest.mark.parametrize("D", [32, 64, 128, 384])
def test_bounds_hold_where_a_product_is_as_wrong_as_float32_may_be(
    D: int, centres: None, as_given: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query along a centre: what its product is too large by is most of what is left of it across."""
    monkeypatch.setattr(tiles, "_basis", lambda source: torch.eye(source.shape[1]))
    for away in (2e-4, 8e-4, 2e-3):
        keys, query, centre = beside_a_centre(np.random.default_rng(0), D, away)
        index = TiledIndex(keys, ones(keys))
        _, of_query = prepared(index, query[None])
        exact = query.astype(np.float64) @ centre
        scores = oracle_scores(Case(keys, query[None], [], index.counts))
        for wrong in (-1, 1):
            product = np.array([[exact * (1 + wrong * D * UNIT_ROUNDING)]], np.float32)
            require_within(scores, plain_bounds(index.tiles, product, of_query)["tile"])
            require_within(scores, compiled_tile_bounds(index.tiles, product, of_query))


@with_either_centres
def test_a_query_along_a_centre_finds_what_is_beside_it(
    centres: None, as_given: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "_basis", lambda source: torch.eye(source.shape[1]))
    for seed in range(8):
        keys, query, _ = beside_a_centre(np.random.default_rng(seed), 160, 1e-3)
        keys, queries = np.tile(keys, (20, 1)), np.tile(query, (40, 1))
        index = TiledIndex(keys, ones(keys))
        scores = oracle_scores(Case(keys, queries, [], index.counts))
        for below in (1e-6, 1e-5, 1e-4):
            threshold = float(scores.max()) - below
            found = index.range_sum(queries, [threshold]).neighbors[:, 0]
            np.testing.assert_array_equal(found, (scores > threshold).sum(axis=1))


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


@with_either_centres
@pytest.mark.parametrize("D", [1, 3, 40, 130])
@pytest.mark.parametrize("kind", KINDS)
def test_hard_cases_give_the_integers_of_the_oracle(kind: str, D: int, centres: None) -> None:
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


@with_either_centres
@pytest.mark.parametrize("kind", ["clusters", "opposites", "steps"])
def test_results_do_not_depend_on_the_tiles(kind: str, centres: None, monkeypatch: pytest.MonkeyPatch) -> None:
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


@with_either_centres
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_threads_share_the_work_and_change_nothing(threads: int, centres: None) -> None:
    case = clustered(keys=333)
    case, index = case._replace(queries=case.queries[:7]), InSmallSteps(case.keys, case.counts)
    expected = expected_sums(case)
    torch.set_num_threads(threads)
    for batch in (0, 1, 2, 7):
        found = index.range_sum(case.queries[:batch], case.thresholds)
        require_same(found, RangeSums(expected.freq[:batch], expected.neighbors[:batch]))
        assert threads_here_and_in_a_new_thread() == [threads, threads]


def test_threads_that_are_slow_to_start_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with other work to do."""
    case = clustered(keys=333)
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
    case = clustered(keys=333)
    index = InSmallSteps(case.keys, case.counts)
    torch.set_num_threads(3)
    with pytest.raises(CancelledError):
        index.range_sum(case.queries[:batch], case.thresholds, checkpoint=cancelling_after(2))
    assert threads_here_and_in_a_new_thread() == [3, 3]


def test_a_prediction_that_was_cancelled_leaves_the_number_of_threads_as_it_was(datastore: Datastore) -> None:
    predictor, prompts = Predictor(datastore), [datastore.substring(0)] * 3
    torch.set_num_threads(4)
    with pytest.raises(CancelledError):
        predictor.search(prompts, [[0.5]] * 2, checkpoint=cancelling_after(4))
    assert threads_here_and_in_a_new_thread() == [4, 4]


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
    case = clustered(keys=333)
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
def test_reduced_precision_is_refused(precision: str) -> None:
    """Products of bfloat16 or TF32 are off by more than the bounds allow: 5e-4, and the slack of 32 values is 4e-5."""
    case = clustered(keys=64, d_model=32)
    index = TiledIndex(case.keys, case.counts)
    torch.set_float32_matmul_precision(precision)
    with pytest.raises(BackendError, match="full float32"):
        index.range_sum(case.queries, [0.5])
    with pytest.raises(BackendError, match="full float32"):
        index.range_search(case.queries, 0.5)
    with pytest.raises(BackendError, match="full float32"):
        tiles_of(case.keys, case.counts)


def test_it_agrees_with_the_exact_backend_on_what_ffn_outputs_look_like() -> None:
    case = clustered(keys=3000, d_model=130)
    thresholds = [0.95, 0.9, 0.8, 0.85, 0.3, -0.1]
    found = TiledIndex(case.keys, case.counts).range_sum(case.queries, thresholds)
    require_same(found, ExactIndex(case.keys, case.counts).range_sum(case.queries, thresholds))


@pytest.mark.parametrize("substrings", [1, 2, 31, 32, 33, 65, 1023])
@pytest.mark.parametrize("endings", ["none", "one token", "all the same", "all different", "random", "largest tokens"])
def test_an_order_is_a_permutation(substrings: int, endings: str) -> None:
    rng = np.random.default_rng(substrings)
    number = np.arange(substrings)
    columns = {
        "none": np.empty((substrings, 0)),
        "one token": rng.integers(0, 4, (substrings, 1)),
        "all the same": np.full((substrings, 3), 7),
        "all different": np.stack([number % 2, number // 2 % 40, number // 80], axis=1),
        "random": rng.integers(0, 4, (substrings, 3)),
        "largest tokens": rng.integers(65_530, 65_536, (substrings, 3)),
    }[endings].astype(np.uint16)
    for positions in (rng.standard_normal((substrings, 5)), np.zeros((substrings, 5)), np.ones((substrings, 1))):
        order = closest_order(positions.astype(np.float32), columns, TILE_KEYS)
        assert order.dtype == np.int64
        np.testing.assert_array_equal(np.sort(order), number)


def test_an_order_keeps_classes_together_and_cuts_them_at_whole_tiles() -> None:
    rng = np.random.default_rng(0)
    classes = rng.permutation(np.repeat([5, 1 << 47, 9], [640, 33, 7]))
    positions = (rng.integers(0, 20, 680) * 100)[:, None].astype(np.float32)
    order = tile_order(positions, classes, TILE_KEYS)
    np.testing.assert_array_equal(classes[order], np.sort(classes))
    halves = positions[order[:640], 0].reshape(2, 320)
    assert halves[0].max() <= halves[1].min() or halves[1].max() <= halves[0].min()


def test_near_keys_share_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    case = clustered()
    spread = tiles_of(case.keys, case.counts).bounds[3].mean()
    monkeypatch.setattr(tiles, "closest_order", lambda positions, *_: np.arange(len(positions)))
    assert spread < 0.8 * tiles_of(case.keys, case.counts).bounds[3].mean()


def test_keys_that_are_near_by_their_endings_are_put_together_by_them() -> None:
    """Classes of 32 around centres that 48 dimensions do not tell apart from what is random in them."""
    rng = np.random.default_rng(0)
    classes = rng.permutation(np.repeat(np.arange(40), TILE_KEYS))
    keys = unit(rng.standard_normal((40, 64))[classes] + 0.8 * rng.standard_normal((len(classes), 64)))
    endings = np.stack([classes % 3, classes // 8, classes % 8], axis=1).astype(np.uint16)
    order = tiles_of(keys, ones(keys), endings).order
    assert (np.diff(classes[order].reshape(-1, TILE_KEYS)) == 0).all()


@pytest.mark.parametrize("D", [3, 40, 130])
def test_the_same_keys_give_the_same_tiles(D: int) -> None:
    rng = np.random.default_rng(0)
    keys, _ = draw("clusters", rng, D)
    counts, endings = random_counts(rng, len(keys), 5), rng.integers(0, 3, (len(keys), 5)).astype(np.uint16)
    first, again = tiles_of(keys, counts, endings[:, -3:]), tiles_of(keys.copy(), counts, endings[:, -3:].copy())
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


@pytest.mark.parametrize("D", SIZES)
@pytest.mark.parametrize("kind", ["random", "zeros", "duplicates", "axes"])
def test_what_tiles_hold(kind: str, D: int) -> None:
    rng = np.random.default_rng(D)
    keys, _ = draw(kind, rng, D)
    counts = random_counts(rng, len(keys), 6)
    made = tiles_of(keys, counts)
    n, (prefix, detail) = -(-len(keys) // TILE_KEYS), dimensions(D)
    assert made.centres.shape == (n, D)
    assert made.residuals.shape == (n, prefix, TILE_KEYS)
    assert made.details.shape == (n, TILE_KEYS, detail)
    assert prefix % 8 == 0
    assert min(prefix, D) + detail == min(D, 128)
    for array in (made.basis, made.bounds, made.remainders, made.tails):
        assert np.isfinite(array).all()
    assert (made.bounds[2:] >= 0).all()
    for tile in range(n):
        totals = counts.total(made.order[TILE_KEYS * tile : TILE_KEYS * (tile + 1)].astype(np.int64))
        row = slice(made.offsets[tile], made.offsets[tile + 1])
        assert dict(zip(made.tokens[row].tolist(), made.counts[row].tolist(), strict=True)) == {
            token: total for token, total in enumerate(totals.tolist()) if total
        }


@pytest.mark.parametrize("D", [1, 33, 130])
@pytest.mark.parametrize("substrings", [1, 32, 33, 1000])
@pytest.mark.parametrize("vocabulary_size", [1, 65, 50_000])
def test_the_bytes_of_tiles_are_known_beforehand(substrings: int, D: int, vocabulary_size: int) -> None:
    rng = np.random.default_rng(0)
    keys, counts = unit(rng.standard_normal((substrings, D))), random_counts(rng, substrings, vocabulary_size)
    taken = sum(array.nbytes for array in tiles_of(keys, counts)) + HEADERS_BYTES
    assert taken <= tiles_bytes(substrings, D, counts) < 1.3 * taken + 4096


def test_a_processor_widens_float16_as_numpy_does() -> None:
    @numba.njit
    def widen_all(bits: np.ndarray) -> np.ndarray:
        values = np.empty(len(bits), np.float32)
        for place in range(len(bits)):
            values[place] = widened(bits[place])
        return values

    bits = np.arange(1 << 16).astype(np.uint16)
    expected = bits.view(np.float16).astype(np.float32)
    for values in (widen_all(bits), np.array([widen_all(bits[place : place + 1])[0] for place in range(1 << 16)])):
        is_number = ~np.isnan(expected)
        np.testing.assert_array_equal(np.isnan(values), ~is_number)
        np.testing.assert_array_equal(values[is_number].view(np.uint32), expected[is_number].view(np.uint32))


def test_fetching_ahead_changes_nothing() -> None:
    @numba.njit
    def fetch_all(array: np.ndarray, rows: np.ndarray) -> None:
        for row in rows:
            prefetch(array, row)

    rng = np.random.default_rng(0)
    for shape in [(1, 1), (3, 200, 33), (5, 32, 0)]:
        for dtype in (np.int8, np.float32):
            array = rng.integers(0, 100, shape).astype(dtype)
            before = array.copy()
            for kind in (np.int32, np.int64):
                fetch_all(array, np.array([0, len(array) - 1], kind))
            np.testing.assert_array_equal(array, before)

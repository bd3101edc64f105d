"""The arithmetic that backends share: exact scores, the error bound, the cut, the one predicate, the sums."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffnsearch_indexer.corpora.substrings import NextTokenCounts
from ffnsearch_indexer.index import base
from ffnsearch_indexer.index.base import cut, decide, exact_scores, levels_above, score_error
from ffnsearch_indexer.index.sums import SumAccumulator
from ffnsearch_indexer.models.inference import unit_float16

thresholds_in_range = st.floats(-1, 1)


def random_units(rows: int, d_model: int, seed: int = 0) -> np.ndarray:
    return unit_float16(np.random.default_rng(seed).standard_normal((rows, d_model)).astype(np.float32))


def exact_score(query: np.ndarray, key: np.ndarray) -> Fraction:
    return sum((Fraction(float(q)) * Fraction(float(x)) for q, x in zip(query, key, strict=True)), Fraction(0))


@pytest.mark.parametrize("d_model", [1, 7, 384])
def test_exact_scores_are_exact_in_any_order_of_the_dimensions(d_model: int) -> None:
    queries, keys = random_units(3, d_model), random_units(20, d_model, seed=1)
    rows, ids = np.divmod(np.arange(60), 20)
    scores = exact_scores(queries, keys, rows, ids)
    assert [Fraction(score) for score in scores] == [
        exact_score(queries[row], keys[i]) for row, i in zip(rows, ids, strict=True)
    ]
    order = np.random.default_rng(2).permutation(d_model)
    np.testing.assert_array_equal(exact_scores(queries[:, order], keys[:, order], rows, ids), scores)


def test_exact_scores_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = random_units(50, 8)
    rows, ids = np.arange(50) % 7, np.arange(50)[::-1].copy()
    whole = exact_scores(keys, keys, rows, ids)
    monkeypatch.setattr(base, "EXACT_VALUES", 20)
    np.testing.assert_array_equal(exact_scores(keys, keys, rows, ids), whole)


@pytest.mark.parametrize("d_model", [1, 16, 384, 4096])
def test_float32_scores_stay_within_the_error_bound(d_model: int) -> None:
    keys = np.abs(random_units(300, d_model))  # of one sign, so that rounding errors are as large as they get
    exact = keys.astype(np.float64) @ keys.T.astype(np.float64)
    one_by_one = np.cumsum(keys[:, None].astype(np.float32) * keys[:5].astype(np.float32), axis=-1)[..., -1]
    assert np.abs(one_by_one - exact[:, :5]).max() <= score_error(d_model)
    assert np.abs(keys.astype(np.float32) @ keys.T.astype(np.float32) - exact).max() <= score_error(d_model)


@given(threshold=thresholds_in_range, d_model=st.integers(1, 5000))
def test_the_cut_is_below_every_score_that_a_neighbor_can_have_in_float32(threshold: float, d_model: int) -> None:
    value = cut(threshold, d_model)
    assert isinstance(value, np.float32)
    lowest = Fraction(threshold) - Fraction(score_error(d_model))  # no neighbor's float32 score is below it
    assert Fraction(float(value)) < lowest
    assert lowest - Fraction(float(value)) < Fraction(1, 2**22)


@given(st.lists(thresholds_in_range, max_size=6), st.lists(thresholds_in_range, max_size=6))
def test_levels_count_the_thresholds_strictly_below_a_score(thresholds: list[float], scores: list[float]) -> None:
    scores = scores + thresholds
    found = levels_above(np.array(scores, dtype=np.float64), np.sort(np.array(thresholds, dtype=np.float64)))
    assert found.tolist() == [sum(score > threshold for threshold in thresholds) for score in scores]


@given(seed=st.integers(0, 1000), shift=st.floats(-1, 1))
def test_any_float32_score_within_the_error_leads_to_the_same_levels(seed: int, shift: float) -> None:
    keys, error = random_units(12, 24, seed), score_error(24)
    rows, ids = np.divmod(np.arange(144), 12)
    scores = exact_scores(keys, keys, rows, ids)
    chosen = scores[:: 1 + seed % 40]
    thresholds = np.sort(np.concatenate([chosen, np.nextafter(chosen, 2), np.nextafter(chosen, -2), chosen + error]))
    measured = (scores + shift * 0.95 * error).astype(np.float32)  # rounding to float32 takes the rest of the error
    levels = decide(keys, keys, rows, ids, measured, thresholds)
    assert levels.tolist() == [(score > thresholds).sum() for score in scores]


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("d_model", [1, 2, 24, 384])
def test_a_float32_score_at_the_very_edge_of_its_error_is_decided_exactly(d_model: int, side: int) -> None:
    keys = random_units(60, d_model)
    rows, ids = np.divmod(np.arange(3600), 60)
    scores = exact_scores(keys, keys, rows, ids)
    edges = scores + side * score_error(d_model)
    measured = edges.astype(np.float32)
    outside = (measured.astype(np.float64) - edges) * side > 0
    measured[outside] = np.nextafter(measured[outside], np.float32(-2 * side))
    for threshold in scores[::37]:
        same = np.flatnonzero(scores == threshold)
        levels = decide(keys, keys, rows[same], ids[same], measured[same], np.array([threshold]))
        assert not levels.any()
        below = np.array([np.nextafter(threshold, -2)])
        assert decide(keys, keys, rows[same], ids[same], measured[same], below).all()


def test_sums_are_nested_and_in_the_order_of_the_caller() -> None:
    counts = NextTokenCounts(
        np.array([0, 2, 2, 3]), np.array([0, 2, 1], dtype=np.uint16), np.array([5, 1, 2**32 - 1], dtype=np.uint32), 3
    )
    accumulator = SumAccumulator(2, [0.5, -0.5, 0.5], counts)
    assert accumulator.thresholds.tolist() == [-0.5, 0.5, 0.5]
    accumulator.add(np.array([0, 0, 1, 1]), np.array([0, 1, 2, 2]), np.array([3, 1, 1, 0]))
    accumulator.add(np.array([1]), np.array([2]), np.array([3]))
    freq, neighbors = accumulator.sums()
    assert neighbors.tolist() == [[1, 2, 1], [1, 2, 1]]
    assert freq[0].tolist() == [[5, 0, 1]] * 3
    assert freq[1].tolist() == [[0, 2**32 - 1, 0], [0, 2**33 - 2, 0], [0, 2**32 - 1, 0]]

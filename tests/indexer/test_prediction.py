"""The arithmetic of an answer, against forms worked out by hand."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ffnsearch_indexer.answer.prediction import combine, hellinger, softmax
from ffnsearch_indexer.answer.profile import Profile, Step, one_step

counts = arrays(np.int64, (4, 2, 3), elements=st.integers(0, 10**6) | st.just(0))
weights = st.sampled_from([0.0, 5e-324, 1e-300, 0.01, 1.0, 6.0, 1e300, 1.7e308])
distributions = arrays(np.float64, 5, elements=st.sampled_from([0.0, 1e-300, 1e-9, 0.1, 1.0, 7.0])).filter(np.any)


def freq(*rows: list[int]) -> np.ndarray:
    """Sums of one prompt, [1, S, V]."""
    return np.array([rows], dtype=np.int64)


def test_raw_counts_are_added_and_normalised_once() -> None:
    profile = one_step("p", [0.5, 0.5], [1.0, 3.0])
    answer, has_support = combine(profile, [freq([6, 2, 0]), freq([0, 1, 3])])
    assert has_support.tolist() == [True]
    np.testing.assert_allclose(answer, [[6 / 20, 5 / 20, 9 / 20]], rtol=1e-15)  # more matches weigh more


def test_with_mass_power_one_each_step_gives_a_distribution() -> None:
    profile = Profile("p", ((Step(0.5, 1.0),), (Step(0.5, 3.0),)), mass_power=1.0)
    answer, _ = combine(profile, [freq([6, 2, 0]), freq([0, 1, 3])])
    np.testing.assert_allclose(answer, [[0.75 / 4, (0.25 + 0.75) / 4, 2.25 / 4]], rtol=1e-15)


def test_with_mass_power_one_half_a_step_weighs_as_the_root_of_its_mass() -> None:
    profile = Profile("p", ((Step(0.9, 1.0), Step(0.5, 1.0)),), mass_power=0.5)
    answer, _ = combine(profile, [freq([4, 0], [4, 12])])
    np.testing.assert_allclose(answer, [[(4 / 2 + 4 / 4) / 6, (12 / 4) / 6]], rtol=1e-15)


def test_an_empty_step_contributes_nothing() -> None:
    profile = Profile("p", ((Step(0.9, 5.0), Step(0.5, 1.0)), ()), mass_power=1.0)
    answer, has_support = combine(profile, [freq([0, 0], [1, 3]), np.zeros((1, 0, 2), dtype=np.int64)])
    assert answer.tolist() == [[0.25, 0.75]]
    assert has_support.all()


@pytest.mark.parametrize("mass_power", [0.0, 0.5, 1.0])
def test_without_support_there_is_no_distribution_and_no_nan(mass_power: float) -> None:
    profile = Profile("p", ((Step(0.5, 1.0),), (Step(0.5, 0.0),)), mass_power)
    only_unweighted = np.array([[[0, 0]], [[1, 0]]]), np.array([[[3, 4]], [[0, 0]]])
    answer, has_support = combine(profile, only_unweighted)
    assert has_support.tolist() == [False, True]
    assert answer.tolist() == [[0.0, 0.0], [1.0, 0.0]]


def test_the_smallest_weight_still_answers_where_the_largest_found_nothing() -> None:
    profile = one_step("p", [0.5, 0.5], [1.7e308, 5e-324])
    answer, has_support = combine(profile, [freq([0, 0]), freq([1, 3])])
    assert has_support.all()
    assert answer.tolist() == [[0.25, 0.75]]


@settings(deadline=None)
@given(first=counts, second=counts, chosen=st.tuples(*[weights] * 4), mass_power=st.sampled_from([0.0, 0.3, 1.0]))
def test_every_answer_is_a_distribution_or_nothing(
    first: np.ndarray, second: np.ndarray, chosen: tuple[float, ...], mass_power: float
) -> None:
    a, b, c, d = chosen
    if not any(chosen):
        return
    profile = Profile("p", ((Step(0.9, a), Step(0.5, b)), (Step(0.9, c), Step(0.5, d))), mass_power)
    answer, has_support = combine(profile, [first, second])
    found = np.concatenate([first, second], axis=1).sum(axis=2) @ (np.array(chosen) > 0).astype(int)
    assert has_support.tolist() == (found > 0).tolist()
    assert (answer >= 0).all()
    np.testing.assert_allclose(answer.sum(axis=1), has_support, rtol=1e-12)


@given(rows=arrays(np.int64, (3, 1, 4), elements=st.integers(0, 2**40)), weight=weights.filter(bool))
def test_one_block_is_normalised_whatever_its_weight(rows: np.ndarray, weight: float) -> None:
    answer, _ = combine(one_step("p", [0.5], [weight]), [rows])
    for row, expected in zip(answer, rows[:, 0].tolist(), strict=True):
        exact = [float(Fraction(count, max(1, sum(expected)))) for count in expected]
        np.testing.assert_allclose(row, exact, rtol=1e-15)


def test_a_prompt_is_answered_alike_in_any_company() -> None:
    rng = np.random.default_rng(0)
    sums = [rng.integers(0, 50, (6, 2, 5)) * rng.integers(0, 2, (6, 2, 1)) for _ in range(2)]
    profile = Profile("p", ((Step(0.9, 0.3), Step(0.5, 2.0)), (Step(0.9, 7.0), Step(0.5, 1e-9))), 0.7)
    together, _ = combine(profile, sums)
    alone = [combine(profile, [block[row : row + 1] for block in sums])[0] for row in range(6)]
    assert np.concatenate(alone).tobytes() == together.tobytes()


def test_hellinger_of_known_pairs() -> None:
    assert hellinger(np.array([1.0, 0.0]), np.array([1.0, 0.0])) == 0
    assert hellinger(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1
    half = hellinger(np.array([1.0, 0.0]), np.array([0.5, 0.5]))
    assert half == pytest.approx(np.sqrt(1 - np.sqrt(0.5)), rel=1e-15)


@given(p=distributions, q=distributions)
def test_hellinger_is_a_distance(p: np.ndarray, q: np.ndarray) -> None:
    p, q = p / p.sum(), q / q.sum()
    assert hellinger(p, q) == hellinger(q, p)
    assert hellinger(p, p) == 0
    assert 0 <= hellinger(p, q) <= 1
    assert hellinger(p, q) ** 2 == pytest.approx(1 - np.sqrt(p * q).sum(), abs=1e-12)


def test_hellinger_of_disjoint_distributions_never_exceeds_one() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(33), 2000)
    distances = hellinger(np.concatenate([p, p * 0], axis=1), np.concatenate([p * 0, p], axis=1))
    assert distances.shape == (2000,)
    assert distances.max() <= 1
    np.testing.assert_allclose(distances, 1, rtol=1e-12)


def test_softmax_of_large_logits() -> None:
    logits = np.array([[0.0, np.log(3)], [1e30, -1e30], [-1e30, -1e30]], dtype=np.float32)
    np.testing.assert_allclose(softmax(logits), [[0.25, 0.75], [1, 0], [0.5, 0.5]], rtol=1e-7)
    assert softmax(logits).dtype == np.float64

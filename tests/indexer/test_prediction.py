"""The arithmetic of an answer, against forms worked out by hand."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ffnsearch_indexer.answer.prediction import combine, contributions, hellinger, softmax, support
from ffnsearch_indexer.answer.profile import (
    PRIOR_MASS_MAX,
    PRIOR_MASS_MIN,
    ProductProfile,
    ProductStep,
    Step,
    SumProfile,
    one_step,
)

counts = arrays(np.int64, (4, 2, 3), elements=st.integers(0, 10**6) | st.just(0))
weights = st.sampled_from([0.0, 5e-324, 1e-300, 0.01, 1.0, 6.0, 1e300, 1.7e308])
distributions = arrays(np.float64, 5, elements=st.sampled_from([0.0, 1e-300, 1e-9, 0.1, 1.0, 7.0])).filter(np.any)

UNUSED = np.ones(1)  # a sum does not look at the unigram distribution
UNIGRAM = np.array([0.5, 0.3, 0.2])
steps = st.builds(
    ProductStep,
    st.just(0.5),
    weight=st.floats(-2, 2),
    prior_mass=st.floats(0.01, 1e6),
    support_weight=st.floats(-0.5, 0.5),
    block_support_weights=st.just(()) | st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)),
)


def freq(*rows: list[int]) -> np.ndarray:
    """Sums of one prompt, [1, S, V]."""
    return np.array([rows], dtype=np.int64)


def test_raw_counts_are_added_and_normalised_once() -> None:
    profile = one_step("p", [0.5, 0.5], [1.0, 3.0])
    answer, has_support = combine(profile, [freq([6, 2, 0]), freq([0, 1, 3])], UNUSED)
    assert has_support.tolist() == [True]
    np.testing.assert_allclose(answer, [[6 / 20, 5 / 20, 9 / 20]], rtol=1e-14)  # more matches weigh more


def test_with_mass_power_one_each_step_gives_a_distribution() -> None:
    profile = SumProfile("p", ((Step(0.5, 1.0),), (Step(0.5, 3.0),)), mass_power=1.0)
    answer, _ = combine(profile, [freq([6, 2, 0]), freq([0, 1, 3])], UNUSED)
    np.testing.assert_allclose(answer, [[0.75 / 4, (0.25 + 0.75) / 4, 2.25 / 4]], rtol=1e-14)


def test_with_mass_power_one_half_a_step_weighs_as_the_root_of_its_mass() -> None:
    profile = SumProfile("p", ((Step(0.9, 1.0), Step(0.5, 1.0)),), mass_power=0.5)
    answer, _ = combine(profile, [freq([4, 0], [4, 12])], UNUSED)
    np.testing.assert_allclose(answer, [[(4 / 2 + 4 / 4) / 6, (12 / 4) / 6]], rtol=1e-14)


def test_an_empty_step_contributes_nothing() -> None:
    profile = SumProfile("p", ((Step(0.9, 5.0), Step(0.5, 1.0)), ()), mass_power=1.0)
    answer, has_support = combine(profile, [freq([0, 0], [1, 3]), np.zeros((1, 0, 2), dtype=np.int64)], UNUSED)
    assert answer.tolist() == [[0.25, 0.75]]
    assert has_support.all()


@pytest.mark.parametrize("mass_power", [0.0, 0.5, 1.0])
def test_without_support_there_is_no_distribution_and_no_nan(mass_power: float) -> None:
    profile = SumProfile("p", ((Step(0.5, 1.0),), (Step(0.5, 0.0),)), mass_power)
    only_unweighted = np.array([[[0, 0]], [[1, 0]]]), np.array([[[3, 4]], [[0, 0]]])
    answer, has_support = combine(profile, only_unweighted, UNUSED)
    assert has_support.tolist() == [False, True]
    assert answer.tolist() == [[0.0, 0.0], [1.0, 0.0]]


def test_the_smallest_weight_still_answers_where_the_largest_found_nothing() -> None:
    profile = one_step("p", [0.5, 0.5], [1.7e308, 5e-324])
    answer, has_support = combine(profile, [freq([0, 0]), freq([1, 3])], UNUSED)
    assert has_support.all()
    assert answer.tolist() == [[0.25, 0.75]]


@given(first=counts, second=counts, chosen=st.tuples(*[weights] * 4), mass_power=st.sampled_from([0.0, 0.3, 1.0]))
def test_every_answer_is_a_distribution_or_nothing(
    first: np.ndarray, second: np.ndarray, chosen: tuple[float, ...], mass_power: float
) -> None:
    a, b, c, d = chosen
    if not any(chosen):
        return
    profile = SumProfile("p", ((Step(0.9, a), Step(0.5, b)), (Step(0.9, c), Step(0.5, d))), mass_power)
    answer, has_support = combine(profile, [first, second], UNUSED)
    found = np.concatenate([first, second], axis=1).sum(axis=2) @ (np.array(chosen) > 0).astype(int)
    assert has_support.tolist() == (found > 0).tolist()
    assert (answer >= 0).all()
    np.testing.assert_allclose(answer.sum(axis=1), has_support, rtol=1e-12)


@given(rows=arrays(np.int64, (3, 1, 4), elements=st.integers(0, 2**40)), weight=weights.filter(bool))
def test_one_block_is_normalised_whatever_its_weight(rows: np.ndarray, weight: float) -> None:
    answer, _ = combine(one_step("p", [0.5], [weight]), [rows], UNUSED)
    for row, expected in zip(answer, rows[:, 0].tolist(), strict=True):
        exact = [float(Fraction(count, max(1, sum(expected)))) for count in expected]
        np.testing.assert_allclose(row, exact, rtol=1e-14)


def test_a_prompt_is_answered_alike_in_any_company() -> None:
    rng = np.random.default_rng(0)
    sums = [rng.integers(0, 50, (6, 2, 5)) * rng.integers(0, 2, (6, 2, 1)) for _ in range(2)]
    profile = SumProfile("p", ((Step(0.9, 0.3), Step(0.5, 2.0)), (Step(0.9, 7.0), Step(0.5, 1e-9))), 0.7)
    together, _ = combine(profile, sums, UNUSED)
    alone = [combine(profile, [block[row : row + 1] for block in sums], UNUSED)[0] for row in range(6)]
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


def test_a_product_multiplies_what_each_step_adds_to_the_wider_one() -> None:
    steps = (ProductStep(0.5, weight=2.0, prior_mass=10.0), ProductStep(0.9, weight=0.5, prior_mass=4.0))
    profile = ProductProfile("p", (steps, ()), prior_weight=1.5)
    freqs = [freq([6, 4, 0], [1, 0, 0]), np.zeros((1, 0, 3), dtype=np.int64)]
    answer, has_support = combine(profile, freqs, UNIGRAM)
    wide = np.array([6 + 5, 4 + 3, 0 + 2]) / 20
    narrow = (np.array([1, 0, 0]) + 4 * wide) / 5
    expected = UNIGRAM**1.5 * (wide / UNIGRAM) ** 2 * (narrow / wide) ** 0.5
    assert has_support.all()
    np.testing.assert_allclose(answer[0], expected / expected.sum(), rtol=1e-12)


def test_exponents_grow_with_support() -> None:
    step = ProductStep(0.5, 1.0, prior_mass=10.0, support_weight=0.25, block_support_weights=(0.0, 0.5))
    profile = ProductProfile("p", ((step,), (ProductStep(0.5, 0.0, prior_mass=1.0),)), token_bias=(0.0, 0.1, 0.0))
    answer, _ = combine(profile, [freq([6, 4, 0]), freq([3, 0, 0])], UNIGRAM)
    ratio = np.array([11, 7, 2]) / 20 / UNIGRAM
    expected = UNIGRAM * np.exp([0, 0.1, 0]) * ratio ** (1 + 0.25 * np.log(11) + 0.5 * np.log(4))
    np.testing.assert_allclose(answer[0], expected / expected.sum(), rtol=1e-12)


@pytest.mark.parametrize("prior_mass", [PRIOR_MASS_MIN, 0.01, PRIOR_MASS_MAX])
def test_a_step_that_found_nothing_says_nothing(prior_mass: float) -> None:
    one, two = ProductStep(0.5, 1.0, prior_mass=3.0), ProductStep(0.9, 5.0, prior_mass=prior_mass)
    found = [freq([6, 4, 0], [0, 0, 0])]
    with_it, _ = combine(ProductProfile("p", ((one, two),)), found, UNIGRAM)
    without, _ = combine(ProductProfile("p", ((one,),)), [found[0][:, :1]], UNIGRAM)
    np.testing.assert_allclose(with_it, without, rtol=1e-12)


def test_a_product_without_support_gives_nothing_rather_than_its_prior() -> None:
    profile = ProductProfile("p", ((ProductStep(0.5, 1.0, prior_mass=3.0),),))
    answer, has_support = combine(profile, [np.array([[[0, 0, 0]], [[1, 0, 0]]])], UNIGRAM)
    assert has_support.tolist() == [False, True]
    assert answer[0].tolist() == [0, 0, 0]
    assert contributions(profile, [np.array([[[0, 0, 0]]])], UNIGRAM).tolist() == [[[0, 0, 0]]]


def test_what_has_no_weight_in_a_product_is_no_support() -> None:
    unweighted = ProductStep(0.5, 0.0, prior_mass=3.0)
    blocks = ((unweighted,), (dataclasses.replace(unweighted, weight=1.0),))
    found, nothing = np.array([[[5, 0, 0]]]), np.zeros((1, 1, 3), np.int64)
    _, has_support = combine(ProductProfile("p", blocks), [found, nothing], UNIGRAM)
    assert has_support.tolist() == [False]
    by_support = (dataclasses.replace(unweighted, block_support_weights=(0.0, 0.5)),)
    for of_first, of_both in ((blocks[1], (found, nothing)), (by_support, (found, found))):
        _, has_support = combine(ProductProfile("p", (of_first, blocks[1])), list(of_both), UNIGRAM)
        assert has_support.tolist() == [True]


@given(first=counts, second=counts, chosen=st.tuples(steps, steps), bias=st.tuples(*[st.floats(-3, 3)] * 3))
def test_contributions_to_a_product_add_up(
    first: np.ndarray, second: np.ndarray, chosen: tuple[ProductStep, ProductStep], bias: tuple[float, ...]
) -> None:
    blocks = tuple((step, dataclasses.replace(step, threshold=0.9)) for step in chosen)
    profile = ProductProfile("p", blocks, token_bias=bias)
    answer, has_support = combine(profile, [first, second], UNIGRAM)
    assert np.isfinite(answer).all()
    np.testing.assert_allclose(answer.sum(axis=1), has_support, rtol=1e-12)
    nats = contributions(profile, [first, second], UNIGRAM)
    prior = np.log(UNIGRAM) + bias
    for row in np.flatnonzero(has_support & (answer > 0).all(axis=1)):
        logs = np.log(answer[row])
        parts = nats[row].sum(axis=0) + prior - (answer[row] * prior).sum()
        np.testing.assert_allclose(parts, logs - (answer[row] * logs).sum(), rtol=1e-7, atol=1e-7)


@given(first=counts, second=counts, mass_power=st.sampled_from([0.0, 0.3, 1.0]))
def test_shares_of_a_sum_add_up_to_the_probabilities(first: np.ndarray, second: np.ndarray, mass_power: float) -> None:
    profile = SumProfile("p", ((Step(0.9, 3.0), Step(0.5, 1.0)), (Step(0.9, 0.01), Step(0.5, 2.0))), mass_power)
    answer, _ = combine(profile, [first, second], UNUSED)
    shares = contributions(profile, [first, second], UNUSED)
    assert (shares >= 0).all()
    np.testing.assert_allclose(shares.sum(axis=1), answer, rtol=1e-12, atol=1e-300)


def test_support_is_the_mean_log_mass_of_the_steps() -> None:
    found = support([freq([3, 0], [0, 0]), freq([9, 1])])
    np.testing.assert_allclose(found, [(np.log(4) + 0 + np.log(11)) / 3])


def test_a_weight_of_a_sum_may_grow_with_support() -> None:
    first = Step(0.5, 2.0, support_weight=-0.5, block_support_weights=(0.0, 1.0))
    profile = SumProfile("p", ((first,), (Step(0.5, 1.0),)))
    answer, _ = combine(profile, [freq([8, 0, 0]), freq([1, 2, 0])], UNUSED)
    weight = 2 * 9**-0.5 * 4
    np.testing.assert_allclose(answer[0], np.array([weight * 8 + 1, 2, 0]) / (weight * 8 + 3), rtol=1e-14)

"""Measures are what can be worked by hand, and what plain loops give; a summary is always JSON."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffnsearch_indexer.fidelity.metrics import (
    HISTOGRAM_BINS,
    PASSAGE_TOKENS,
    PASSAGES_MIN,
    Measures,
    by_support,
    confidence_interval,
    measure,
    normalised,
    summarise,
    summarise_part,
)

some = settings(max_examples=50)
counts = st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any)
YES, NO = np.array([True]), np.array([False])


def compare(answer: list[float], model: list[float]) -> dict[str, float]:
    """The measures of one prompt with support."""
    measures = measure(np.array([answer]), YES, np.array([model]))
    return {name: float(values[0]) for name, values in measures._asdict().items()}


def measures_of(distances: list[float], **others: list[float]) -> Measures:
    """Measures with these distances, and zeros elsewhere."""
    values = {name: np.zeros(len(distances)) for name in Measures._fields} | {"has_support": np.ones(len(distances))}
    given_values = {name: np.array(of_name) for name, of_name in others.items()}
    return Measures(**values | {"hellinger": np.array(distances)} | given_values)


@pytest.mark.parametrize(
    ("answer", "model", "expected"),
    [
        ([0.5, 0.5], [0.5, 0.5], (0.0, 0.0, 0.0, 0.0, 1.0)),
        ([1.0, 0.0], [0.0, 1.0], (1.0, math.inf, None, 1.0, 0.0)),
        ([1.0, 0.0], [0.5, 0.5], (math.sqrt(1 - math.sqrt(0.5)), math.inf, math.log(2), 0.5, 1.0)),
        ([0.0, 1.0], [0.5, 0.5], (math.sqrt(1 - math.sqrt(0.5)), math.inf, math.log(2), 0.5, 0.0)),
        (
            [0.25, 0.75],
            [0.75, 0.25],
            (math.sqrt(1 - math.sqrt(0.75)), math.log(3) / 2, math.log(3) / 2, 0.5, 0.0),
        ),
        (
            [0.9, 0.1],
            [0.5, 0.5],
            (
                math.sqrt(1 - math.sqrt(0.45) - math.sqrt(0.05)),
                0.5 * math.log(25 / 9),
                0.9 * math.log(1.8) + 0.1 * math.log(0.2),
                0.4,
                1.0,
            ),
        ),
    ],
    ids=["equal", "disjoint", "half of it", "the other half", "mirrored", "sharper"],
)
def test_measures_worked_by_hand(answer: list[float], model: list[float], expected: tuple[float | None, ...]) -> None:
    found = compare(answer, model)
    assert found.pop("has_support") == 1
    for value, wanted in zip(found.values(), expected, strict=True):
        assert math.isfinite(value) if wanted is None else value == pytest.approx(wanted, abs=1e-12)


@some
@given(answer=counts, model=counts)
def test_measures_are_those_of_plain_loops(answer: list[int], model: list[int]) -> None:
    a, m = ([count / sum(row) for count in row] for row in (answer, model))
    found = compare(a, m)
    overlap = math.fsum(math.sqrt(p * q) for p, q in zip(a, m, strict=True))
    assert found["hellinger"] ** 2 == pytest.approx(1 - overlap, abs=1e-12)
    assert found["total_variation"] == pytest.approx(0.5 * math.fsum(map(abs, np.subtract(a, m))), abs=1e-12)
    if all(p or not q for p, q in zip(a, m, strict=True)):
        divergence = math.fsum(q * math.log(q / p) for p, q in zip(a, m, strict=True) if q)
        assert found["model_to_answer"] == pytest.approx(divergence, abs=1e-12)
    else:
        assert found["model_to_answer"] == math.inf
    if all(q or not p for p, q in zip(a, m, strict=True)):
        divergence = math.fsum(p * math.log(p / q) for p, q in zip(a, m, strict=True) if p)
        assert found["answer_to_model"] == pytest.approx(divergence, abs=1e-12)
    assert math.isfinite(found["answer_to_model"])
    assert found["same_top"] == (a.index(max(a)) == m.index(max(m)))


def test_an_answer_without_support_is_as_far_away_as_can_be() -> None:
    measures = measure(np.zeros((1, 2)), NO, np.array([[0.6, 0.4]]))
    assert [float(values[0]) for values in measures] == pytest.approx([1, math.inf, math.nan, 1, 0, 0], nan_ok=True)


def test_counts_become_distributions() -> None:
    distributions, has_support = normalised(np.array([[3, 1], [0, 0]]))
    assert distributions.tolist() == [[0.75, 0.25], [0, 0]]
    assert has_support.tolist() == [True, False]


def test_a_summary_worked_by_hand() -> None:
    summary = summarise(
        measures_of(
            [0.0, 0.1, 0.2, 1.0],
            model_to_answer=[1, 2, np.inf, np.inf],
            answer_to_model=[1, 2, 6, np.nan],
            total_variation=[0.1, 0.2, 0.3, 1],
            same_top=[1, 1, 0, 0],
            has_support=[1, 1, 1, 0],
        ),
        np.array([30, 10, 20, 40]),
    )
    distance = summary["hellinger"]
    assert distance["mean"] == pytest.approx(0.325)
    assert distance["std"] == pytest.approx(math.sqrt((0.325**2 + 0.225**2 + 0.125**2 + 0.675**2) / 4))
    assert distance["max"] == 1
    assert distance["below_0.2"] == 0.5, "0.2 itself is not below it"
    assert distance["quantiles"]["0.5"] == pytest.approx(0.15)
    assert distance["quantiles"]["0.99"] == pytest.approx(0.2 + 0.97 * 0.8)
    low, high = distance["ci95"]
    assert 0 <= low < 0.325 < high <= 1
    assert len(distance["histogram"]["edges"]) == HISTOGRAM_BINS + 1
    bins = {number: count for number, count in enumerate(distance["histogram"]["counts"]) if count}
    assert bins == {0: 1, 5: 1, 10: 1, 49: 1}, "the last bin includes 1"
    assert summary["kl"] == {
        "model_to_answer": {"mean_finite": 1.5, "infinite_share": 0.5},
        "answer_to_model": {"mean": 3.0},
    }
    assert summary["total_variation"]["mean"] == pytest.approx(0.4)
    assert (summary["top1_agreement"], summary["no_support"]) == (0.5, 0.25)


def test_a_summary_is_json_even_where_nothing_has_support() -> None:
    measures = measure(np.zeros((3, 2)), np.zeros(3, dtype=bool), np.full((3, 2), 0.5))
    summary = summarise(measures, np.arange(3))
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["kl"] == {
        "model_to_answer": {"mean_finite": None, "infinite_share": 1.0},
        "answer_to_model": {"mean": None},
    }
    assert summarise_part(np.empty(0)) == {"count": 0, "mean": None, "max": None}


def test_prompts_are_grouped_by_powers_of_two_of_their_support() -> None:
    mass = np.array([0, 1, 2, 3, 4, 7, 8, 1000])
    groups = by_support(np.arange(8) / 10, mass)
    assert [(group["support_from"], group["count"]) for group in groups] == [
        (0, 1), (1, 1), (2, 2), (4, 2), (8, 1), (512, 1),
    ]  # fmt: skip
    assert [group["mean"] for group in groups] == pytest.approx([0, 0.1, 0.25, 0.45, 0.6, 0.7])


def test_the_interval_is_that_of_the_normal_law_where_that_holds() -> None:
    values = np.random.default_rng(1).beta(2, 8, 4000)
    apart = np.arange(4000) * 1000
    low, high = confidence_interval(values, apart)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=half / 10)
    assert high == pytest.approx(values.mean() + half, abs=half / 10)
    assert (low, high) == confidence_interval(values, apart), "the same each time"
    assert confidence_interval(np.array([0.25]), np.array([7])) == (0.25, 0.25)


def test_prompts_that_are_near_each_other_count_as_one() -> None:
    """Where 100 prompts of a passage are answered alike, the mean of 400 passages is as sure as of 400 prompts."""
    random = np.random.default_rng(2)
    values = np.repeat(random.normal(0.5, 0.1, 400), 100)
    positions = (np.arange(400)[:, None] * PASSAGE_TOKENS + np.arange(100)).ravel()
    shuffled = random.permutation(len(values))
    low, high = confidence_interval(values[shuffled], positions[shuffled])
    half = 1.96 * 0.1 / math.sqrt(400)
    assert (high - low) / 2 == pytest.approx(half, rel=0.15)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=half / 10)


def test_the_interval_holds_the_mean_of_what_is_drawn_as_often_as_it_says() -> None:
    """Of texts of 300 passages, each with its own level and number of prompts, 95 in 100 intervals hold the mean."""
    random, held = np.random.default_rng(3), 0
    for _ in range(200):
        sizes = random.integers(1, 40, 300)
        values = np.repeat(random.normal(0.3, 0.05, 300), sizes) + random.normal(0, 0.05, sizes.sum())
        positions = np.repeat(np.arange(300) * PASSAGE_TOKENS, sizes)
        low, high = confidence_interval(values, positions)
        held += low <= 0.3 <= high
    assert 0.9 <= held / 200 <= 0.99


def test_a_short_text_is_cut_into_as_many_passages_as_it_takes() -> None:
    """Twenty passages of 25 tokens, each with a level of its own, are twenty numbers to know the mean by."""
    random = np.random.default_rng(4)
    levels = random.normal(0.5, 0.1, PASSAGES_MIN)
    values = np.repeat(levels, 25) + random.normal(0, 0.05, 25 * PASSAGES_MIN)
    low, high = confidence_interval(values, 1000 + np.arange(25 * PASSAGES_MIN))
    assert low < values.mean() < high
    assert (high - low) / 2 == pytest.approx(1.96 * levels.std() / math.sqrt(PASSAGES_MIN), rel=0.25)

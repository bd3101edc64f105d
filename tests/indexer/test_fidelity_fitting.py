"""Fitting finds what was planted: the model's distributions are those of a known profile."""

import numpy as np
import pytest

from ffnsearch_indexer.answer.prediction import combine, hellinger
from ffnsearch_indexer.answer.profile import ProductProfile, ProductStep, Profile, Step, SumProfile
from ffnsearch_indexer.fidelity import fitting
from ffnsearch_indexer.fidelity.bands import Bands

GRID = (0.6, 0.8, 0.9)
UNIGRAM = np.array([0.4, 0.3, 0.2, 0.1])


def planted(profile: Profile, prompts: int = 400) -> Bands:
    """Bands of two blocks with random counts, nested as thresholds demand, whose model answers as a profile does."""
    random = np.random.default_rng(3)
    tastes = random.dirichlet(np.ones(4), (prompts, 2))
    between = random.poisson(tastes[:, :, None] * random.lognormal(2, 1.5, (prompts, 2, 3, 1)))
    freq = between[:, :, ::-1].cumsum(axis=2)[:, :, ::-1].astype(np.int32)
    bands = Bands(GRID, freq, freq.sum(axis=3), np.zeros((prompts, 4)), UNIGRAM)
    answers, has_support = answers_of(profile, bands)
    kept = bands.take(np.flatnonzero(has_support))
    return Bands(GRID, kept.freq, kept.neighbors, answers[has_support], UNIGRAM)


def answers_of(profile: Profile, bands: Bands) -> tuple[np.ndarray, np.ndarray]:
    return combine(profile, bands.at(profile.thresholds_by_block), UNIGRAM)


def distance(profile: Profile, bands: Bands) -> float:
    return float(hellinger(answers_of(profile, bands)[0], bands.model).mean())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "ITERATIONS", 400)


def test_a_planted_product_is_found() -> None:
    steps = (
        ProductStep(0.6, 0.8, 0.1, (0.05, 0.0), prior_mass=5.0),
        ProductStep(0.8, 0.5, prior_mass=20.0),
        ProductStep(0.9, 1.2, -0.1, (0.0, 0.02), prior_mass=3.0),
    )
    truth = ProductProfile("truth", (steps, steps[:2]), 0.9, (0.1, 0.0, 0.0, -0.2))
    bands = planted(truth)
    found = fitting.fit_product(bands, [GRID, GRID])
    assert distance(found, bands) < 0.02


def test_a_planted_sum_is_found() -> None:
    truth = SumProfile("truth", ((Step(0.6, 0.1), Step(0.9, 4.0)), (Step(0.8, 1.0),)), mass_power=0.5)
    bands = planted(truth)
    plain, with_power = (fitting.fit_sum(bands, [GRID, GRID], mass_power=mass_power) for mass_power in (False, True))
    assert plain.mass_power == 0
    assert distance(with_power, bands) < min(0.01, distance(plain, bands))
    assert with_power.mass_power == pytest.approx(0.5, abs=0.1)


def test_weights_by_support_are_found() -> None:
    truth = SumProfile("truth", ((Step(0.6, 1.0, 0.5),), (Step(0.8, 2.0, 0.0, (-1.0, 0.0)),)), mass_power=1.0)
    bands = planted(truth)
    found = fitting.fit_sum(bands, [(0.6,), (0.8,)], by_support=True)
    assert distance(found, bands) < 0.02
    assert found.blocks[1][0].block_support_weights[0] - found.blocks[0][0].block_support_weights[0] < -0.5


def test_one_threshold_a_block_is_found() -> None:
    bands = planted(SumProfile("truth", ((Step(0.9, 1.0),), (Step(0.6, 0.5),))))
    assert fitting.choose_one_step(bands) == [[0.9], [0.6]]


def test_what_was_planted_is_found_in_small_batches_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "BATCH_SUMS", 64 * 2 * 4)
    bands = planted(SumProfile("truth", ((Step(0.9, 1.0),), (Step(0.6, 0.5),))))
    assert distance(fitting.fit_sum(bands, [(0.9,), (0.6,)]), bands) < 0.01


def test_a_fit_is_the_same_each_time_and_another_seed_gives_another() -> None:
    bands = planted(SumProfile("truth", ((Step(0.9, 1.0),), (Step(0.6, 0.5),))), prompts=600)
    first, again, other = (fitting.fit_sum(bands, [(0.8,), (0.8,)], seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_prompt_that_found_nothing_is_no_trouble() -> None:
    bands = planted(SumProfile("truth", ((Step(0.9, 1.0),), (Step(0.6, 0.5),))))
    freq = bands.freq.copy()
    freq[:10] = 0
    empty = Bands(GRID, freq, bands.neighbors, bands.model, UNIGRAM)
    for fit in (fitting.fit_sum, fitting.fit_product):
        weights = [step.weight for steps in fit(empty, [GRID, GRID]).blocks for step in steps]
        assert np.isfinite(weights).all()

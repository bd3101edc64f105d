"""The pieces of a report: the weights that a profile typically has, groups by support, text and numbers."""

from typing import Any

import numpy as np
import pytest

from ffnsearch_indexer.answer.prediction import combine
from ffnsearch_indexer.answer.profile import ProductProfile, ProductStep, Profile, Step, SumProfile
from ffnsearch_indexer.fidelity.report.explained import typical_weights
from ffnsearch_indexer.fidelity.report.groups import groups, support_groups
from ffnsearch_indexer.fidelity.report.markup import inline, signed, visible


def test_typical_weights_are_those_that_answers_are_made_with() -> None:
    random = np.random.default_rng(0)
    freqs = [random.integers(0, 9, (1, steps, 4)) for steps in (2, 0, 1)]
    unigram = np.full(4, 0.25)
    supported: tuple[tuple[Any, ...], ...]
    supported = ((Step(0.1, 2.0, 0.3), Step(0.5, 1.0, 0.0, (0.2, 0.5, -0.1))), (), (Step(0.3, 1.5, -0.2),))
    products = tuple(
        tuple(
            ProductStep(s.threshold, s.weight, s.support_weight, s.block_support_weights, prior_mass=1.0) for s in steps
        )
        for steps in supported
    )
    for profile in (SumProfile("sum", supported, 0.5), ProductProfile("product", products)):
        weights = typical_weights(profile, freqs)
        fixed: Profile = type(profile).from_json(
            profile.to_json()
            | {
                "blocks": [
                    [
                        {**step, "weight": weight, "support_weight": 0.0, "block_support_weights": []}
                        for step, weight in zip(steps, of_block, strict=True)
                    ]
                    for steps, of_block in zip(profile.to_json()["blocks"], weights, strict=True)
                ]
            }
        )
        np.testing.assert_allclose(combine(fixed, freqs, unigram)[0], combine(profile, freqs, unigram)[0], rtol=1e-12)


def test_groups_by_support_are_named_and_joined() -> None:
    few = [{"support_from": support, "count": 1, "mean": 0.5} for support in (0, 1, 2, 1024)]
    assert [name for name, _ in support_groups(few)] == ["none", "1+", "2+", "1k+"]
    many = [
        {"support_from": 2**power if power >= 0 else 0, "count": power + 2, "mean": 0.1 * (power + 1)}
        for power in range(-1, 10)
    ]
    joined = support_groups(many)
    assert [name for name, _ in joined] == ["none", "1+", "4+", "16+", "64+", "256+"]
    assert joined[1][1] == {"count": 5, "mean": pytest.approx((2 * 0.1 + 3 * 0.2) / 5)}


def test_a_figure_of_classes_lacks_what_is_not_known_of_the_training_text() -> None:
    part = {"count": 3, "mean": 0.5, "max": 0.7}
    document = {
        "protocol": "parity",
        "prompts": 4,
        "hellinger": {"mean": 0.5},
        "by_support": [{"support_from": 1, "count": 4, "mean": 0.5}],
    }
    known = groups({**document, "in_training": part, "not_in_training": {**part, "count": 1}})
    unknown = groups({**document, "in_training": None, "not_in_training": None})
    assert "training text" in known.caption
    assert "training text: 0.500; other text: 0.500; 1+" in known.alt
    assert "training text" not in unknown.caption + unknown.alt
    assert known.png != unknown.png


def test_text_and_numbers_can_be_read() -> None:
    assert visible(" a b\n<&") == "␣a b⏎&lt;&amp;"
    assert visible("ab ") == "ab␣"
    assert visible("   ") == "␣␣␣"
    assert visible("\x00\ud800\t") == "\\x00\\ud800⇥"
    assert inline(" a ") == " a "
    assert [signed(value) for value in (1.234, -0.5, -0.001)] == ["+1.23", "\N{MINUS SIGN}0.50", "+0.00"]

"""A profile is valid once made; what is wrong with a refused one is named by reason and field."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffnsearch_indexer.answer.profile import (
    ARTICLE,
    STEPS_MAX,
    Expectation,
    ProductProfile,
    ProductStep,
    Profile,
    Step,
    SumProfile,
    default_profile,
    one_step,
)
from ffnsearch_indexer.errors import ProfileError

GOOD = Step(0.5, 1.0)
NAN, INFINITY = float("nan"), float("inf")

steps = st.builds(Step, st.floats(-1, 1), st.floats(0, 1e300))
profiles = st.builds(
    lambda name, blocks, power, source: SumProfile(name, (*map(tuple, blocks), (GOOD,)), power, source=source),
    st.text(),
    st.lists(st.lists(steps, max_size=3), max_size=4),
    st.floats(0, 1),
    st.text(),
)


@given(profiles)
def test_a_profile_comes_back_from_json(profile: Profile) -> None:
    assert Profile.from_json(json.loads(json.dumps(profile.to_json()))) == profile


def refusal(make: Callable[[], object]) -> tuple[str, str | None]:
    """Reason and field of the error."""
    with pytest.raises(ProfileError) as error:
        make()
    field = error.value.metadata.get("field")
    assert error.value.message.startswith(f"{field}: ")
    return error.value.reason, field


@pytest.mark.parametrize("threshold", [NAN, INFINITY, -INFINITY, 1.0000000000000002, -1.1])
def test_a_threshold_out_of_range(threshold: float) -> None:
    expected = ("THRESHOLD_OUT_OF_RANGE", "profile.blocks[1].steps[2].threshold")
    assert refusal(lambda: SumProfile("p", ((GOOD,), (GOOD, GOOD, Step(threshold, 1.0))))) == expected


@pytest.mark.parametrize("weight", [NAN, INFINITY, -INFINITY, -1e-300])
def test_a_weight_out_of_range(weight: float) -> None:
    expected = ("WEIGHT_OUT_OF_RANGE", "profile.blocks[0].steps[0].weight")
    assert refusal(lambda: SumProfile("p", ((Step(0.5, weight),), (GOOD,)))) == expected


@pytest.mark.parametrize("mass_power", [NAN, INFINITY, -0.1, 1.1])
def test_a_mass_power_out_of_range(mass_power: float) -> None:
    assert refusal(lambda: SumProfile("p", ((GOOD,),), mass_power)) == ("MASS_POWER_OUT_OF_RANGE", "profile.mass_power")


@pytest.mark.parametrize("blocks", [(), ((),), ((Step(0.5, 0.0),),), ((Step(0.5, 0.0), Step(0.1, -0.0)), ())])
def test_no_positive_weight(blocks: tuple[tuple[Step, ...], ...]) -> None:
    assert refusal(lambda: SumProfile("p", blocks)) == ("NO_POSITIVE_WEIGHT", "profile.blocks")


def test_too_many_steps() -> None:
    assert SumProfile("p", ((GOOD,) * STEPS_MAX,))
    assert refusal(lambda: SumProfile("p", ((GOOD,) * (STEPS_MAX + 1),))) == (
        "TOO_MANY_STEPS",
        "profile.blocks[0].steps",
    )


def test_the_bounds_themselves_are_allowed() -> None:
    profile = SumProfile("p", ((Step(-1.0, 0.0), Step(1.0, 5e-324)), ()), 1.0)
    assert profile.thresholds(0) == (-1.0, 1.0)
    assert profile.thresholds(1) == ()


def test_another_number_of_blocks() -> None:
    ARTICLE.require_model(6, 65)
    assert refusal(lambda: ARTICLE.require_model(2, 65)) == ("WRONG_BLOCK_COUNT", "profile.blocks")
    assert refusal(lambda: one_step("p", [0.5, 0.6], [1.0])) == ("WRONG_BLOCK_COUNT", "profile.blocks")


def test_the_article_profile_has_the_published_constants() -> None:
    assert ARTICLE.thresholds_by_block == [(0.95,), (0.94,), (0.85,), (0.76,), (0.81,), (0.89,)]
    assert [steps[0].weight for steps in ARTICLE.blocks] == [0.01, 0.01, 0.1, 1.5, 6.0, 0.01]
    assert ARTICLE.mass_power == 0


@pytest.mark.parametrize("blocks", [1, 5, 6, 30])
def test_every_model_has_a_default(blocks: int) -> None:
    default_profile(blocks).require_model(blocks, 65)
    assert (default_profile(blocks) is ARTICLE) == (blocks == 6)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "product"}, {"kind": "mean"}, {"blocks": None}, {"blocks": [[{"threshold": 0.5}]]}, {"blocks": [0.5]},
        {"blocks": [[{"threshold": 0.5, "weight": 1, "heavy": 2}]]}, {"blocks": []}, {"mass_power": None},
        {"blocks": [[{"threshold": "high", "weight": 1}]]}, {"blocks": [[{"threshold": 0.5, "weight": NAN}]]},
        {"blocks": [[{"threshold": 2, "weight": 1}]]}, {"blocks": [[{"threshold": 0.5, "weight": 10**400}]]},
        {"mass_power": 2}, {"expectation": {"support": [0.0, 1.0], "distance": [0.1]}}, {"colour": "red"},
    ],
)  # fmt: skip
def test_a_damaged_document_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ProfileError):
        Profile.from_json({**ARTICLE.to_json(), **change})


@pytest.mark.parametrize("name", ["kind", "name", "blocks"])
def test_an_incomplete_document_is_refused(name: str) -> None:
    document = ARTICLE.to_json()
    del document[name]
    with pytest.raises(ProfileError, match=f"is not a profile: .*'{name}'"):
        Profile.from_json(document)


def product(**changes: Any) -> ProductProfile:
    """A valid product of two blocks, but for the changes to its first step."""
    step = {"threshold": 0.5, "weight": -1.0, "prior_mass": 3.0, "support_weight": 0.5} | changes
    return ProductProfile(
        "p", ((ProductStep(**step), ProductStep(0.9, 1.0, prior_mass=1.0)), ()), token_bias=(0.0, 1.0)
    )


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"prior_mass": 1e-323}, "PRIOR_MASS_OUT_OF_RANGE", "prior_mass"),
        ({"prior_mass": 2e9}, "PRIOR_MASS_OUT_OF_RANGE", "prior_mass"),
        ({"prior_mass": 0.0}, "PRIOR_MASS_OUT_OF_RANGE", "prior_mass"),
        ({"prior_mass": NAN}, "PRIOR_MASS_OUT_OF_RANGE", "prior_mass"),
        ({"weight": INFINITY}, "WEIGHT_OUT_OF_RANGE", "weight"),
        ({"support_weight": -1e7}, "WEIGHT_OUT_OF_RANGE", "support_weight"),
        ({"block_support_weights": (1.0, NAN)}, "WEIGHT_OUT_OF_RANGE", "block_support_weights"),
        ({"block_support_weights": (1.0,)}, "WRONG_BLOCK_COUNT", "block_support_weights"),
        ({"threshold": -1.5}, "THRESHOLD_OUT_OF_RANGE", "threshold"),
    ],
)
def test_a_bad_step_of_a_product_is_refused(changes: dict[str, Any], reason: str, field: str) -> None:
    assert refusal(lambda: product(**changes)) == (reason, f"profile.blocks[0].steps[0].{field}")


def test_the_steps_of_a_product_ascend_and_there_is_one() -> None:
    where = "profile.blocks[0].steps[1].threshold"
    assert refusal(lambda: product(threshold=0.9)) == ("THRESHOLDS_NOT_ASCENDING", where)
    assert refusal(lambda: ProductProfile("p", ((), ()))) == ("NO_STEP", "profile.blocks")


def test_the_biases_of_a_product_belong_to_a_vocabulary() -> None:
    product().require_model(2, 2)
    assert refusal(lambda: product().require_model(2, 65)) == ("WRONG_TOKEN_COUNT", "profile.token_bias")
    assert refusal(lambda: product().require_model(3, 2)) == ("WRONG_BLOCK_COUNT", "profile.blocks")


def test_a_product_comes_back_from_json() -> None:
    profile = dataclasses.replace(
        product(block_support_weights=(0.25, -1.0)), source="here", expectation=Expectation((0.0, 2.0), (0.5, 0.1))
    )
    assert Profile.from_json(json.loads(json.dumps(profile.to_json()))) == profile


def test_of_less_support_than_calibration_met_nothing_is_expected() -> None:
    expectation = Expectation((1.0, 2.0), (0.5, 0.1))
    assert [expectation.at(support) for support in (0.0, 0.99, 1.0, 1.99, 2.0, 1e9)] == [None, None, 0.5, 0.5, 0.1, 0.1]


@pytest.mark.parametrize(
    ("support", "distance"),
    [
        ((), ()), ((0.0,), ()), ((-1.0,), (0.1,)), ((0.0, 0.0), (0.1, 0.2)), ((0.0,), (1.5,)), ((NAN,), (0.1,)),
        ((0.0, NAN), (0.1, 0.2)), ((0.0,), (NAN,)),
    ],
)  # fmt: skip
def test_a_bad_expectation_is_refused(support: tuple[float, ...], distance: tuple[float, ...]) -> None:
    with pytest.raises(ProfileError):
        Expectation(support, distance)


@pytest.mark.parametrize("document", [None, [], "profile", 3])
def test_something_else_is_refused(document: Any) -> None:
    with pytest.raises(ProfileError):
        Profile.from_json(document)

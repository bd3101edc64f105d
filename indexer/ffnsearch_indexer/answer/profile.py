"""What turns sums into an answer: for each block, steps of a threshold and a weight, added up or multiplied."""

import itertools
import json
import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from ffnsearch_indexer.errors import ProfileError

STEPS_MAX = 64
"""Most steps of one block: each costs a sum over the vocabulary."""

PRIOR_MASS_MIN, PRIOR_MASS_MAX = 1e-9, 1e9
"""Least and most pseudo-counts of a step's prior: below, a step that found nothing would be lost in rounding; beyond,
nothing that is found could matter."""

WEIGHT_MAX = 1e6
"""Largest weight in an exponent, in magnitude: times logarithms, it stays far from overflow."""


@dataclass(frozen=True)
class Step:
    """One threshold of a block, exclusive, in [-1, 1], and the weight of what is above it.

    Weights may depend on how much was found, in logarithms: with x = `support_weight * log(1 + mass) + sum over blocks
    j of block_support_weights[j] * log(1 + mass of block j)`, where mass is the sum of the step's own counts and that
    of a block is taken at its middle step, the weight is `weight * exp(x)` in a sum and `weight + x` in a product.
    block_support_weights: one for each block, or none.
    """

    threshold: float
    weight: float
    support_weight: float = 0.0
    block_support_weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class ProductStep(Step):
    """A step of a product. prior_mass: how many counts the next wider distribution is worth, from PRIOR_MASS_MIN."""

    prior_mass: float = field(kw_only=True)


@dataclass(frozen=True)
class Expectation:
    """The mean Hellinger distance that calibration found, by support: a confidence before the model is asked.

    support: ascending lower edges of classes, from the least that calibration met on, at least 0. distance: for each
    class the mean distance in [0, 1].
    """

    support: tuple[float, ...]
    distance: tuple[float, ...]

    def __post_init__(self) -> None:
        is_ascending = all(a < b for a, b in itertools.pairwise(self.support))
        begins_well = bool(self.support) and self.support[0] >= 0  # so that what is not a number does not
        if len(self.support) != len(self.distance) or not begins_well or not is_ascending:
            raise _invalid(
                "give as many distances as classes of support, and let these ascend from 0 or more",
                "INVALID_EXPECTATION",
                "profile.expectation",
            )
        if not all(0 <= distance <= 1 for distance in self.distance):
            raise _invalid("a distance lies in [0, 1]", "INVALID_EXPECTATION", "profile.expectation")

    def at(self, support: float) -> float | None:
        """The mean distance of the calibration prompts whose support was of the same class; None below all of them."""
        number = bisect_right(self.support, support)
        return self.distance[number - 1] if number else None


@dataclass(frozen=True)
class Profile(ABC):
    """How the sums of K blocks become one distribution. Immutable and valid once made.

    Two kinds: SumProfile and ProductProfile. Raises ProfileError, which names the field, for values that make no
    answer. source: where its values come from. expectation: what calibration found, None where there was none.
    """

    kind: ClassVar[str]
    step: ClassVar[type[Step]]

    name: str
    blocks: tuple[tuple[Any, ...], ...]
    source: str = field(default="", kw_only=True)
    expectation: Expectation | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for block, steps in enumerate(self.blocks):
            if len(steps) > STEPS_MAX:
                raise _invalid(
                    f"block {block} has {len(steps)} steps; the limit is {STEPS_MAX}",
                    "TOO_MANY_STEPS",
                    f"profile.blocks[{block}].steps",
                )
            for number, step in enumerate(steps):
                path = f"profile.blocks[{block}].steps[{number}]"
                _check_step(step, len(self.blocks), path)
                self._check_own(step, path)

    def to_json(self) -> dict[str, Any]:
        """The form that a manifest stores: fields by name, steps as objects."""
        document: dict[str, Any] = json.loads(json.dumps({"kind": self.kind, **asdict(self)}))
        return document

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> "Profile":
        """Read what `to_json` wrote; fields with a default may be missing. Raises ProfileError."""
        try:
            fields = dict(document)
            kind = _KINDS.get(fields.pop("kind"))
            if kind is None:
                raise ValueError(f"its kind is {document['kind']!r}")
            fields["blocks"] = tuple(tuple(kind.step(**_numbers(step)) for step in steps) for steps in fields["blocks"])
            if fields.get("expectation") is not None:
                fields["expectation"] = Expectation(**_numbers(fields["expectation"]))
            kept = {name: fields.pop(name) for name in ("name", "source", "blocks", "expectation") if name in fields}
            return kind(**kept, **_numbers(fields))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            wrong = f"it lacks {error}" if isinstance(error, KeyError) else error
            raise ProfileError(
                f"this is not a profile: {wrong}; give `name`, `blocks` and a `kind`, {' or '.join(_KINDS)}"
            ) from None

    def thresholds(self, block: int) -> tuple[float, ...]:
        """The thresholds of a block's steps, in the profile's order; empty for a block that is not searched."""
        return tuple(step.threshold for step in self.blocks[block])

    @property
    def thresholds_by_block(self) -> list[tuple[float, ...]]:
        """The thresholds of all K blocks."""
        return [self.thresholds(block) for block in range(len(self.blocks))]

    def require_model(self, blocks: int, tokens: int) -> None:
        """Refuse a profile made for a model with another number of blocks or of tokens."""
        if len(self.blocks) != blocks:
            raise _invalid(
                f"the profile has {len(self.blocks)} blocks, the model {blocks}: give each block its steps (or none)",
                "WRONG_BLOCK_COUNT",
                "profile.blocks",
            )

    @staticmethod
    @abstractmethod
    def _check_own(step: Any, path: str) -> None:
        """Refuse what only this kind of profile refuses in a step."""


@dataclass(frozen=True)
class SumProfile(Profile):
    """`total = sum over blocks and steps of weight * freq / mass^mass_power`, and the answer is total / sum(total).

    With mass_power 0 raw counts are added, so a block with more matches weighs more; with 1 every step contributes a
    distribution.
    """

    kind: ClassVar[str] = "sum"
    step: ClassVar[type[Step]] = Step

    blocks: tuple[tuple[Step, ...], ...]
    mass_power: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.mass_power) and 0 <= self.mass_power <= 1):
            raise _invalid(
                f"mass_power is {self.mass_power}; it must be in [0, 1]",
                "MASS_POWER_OUT_OF_RANGE",
                "profile.mass_power",
            )
        if not any(step.weight > 0 for steps in self.blocks for step in steps):
            raise _invalid(
                "no weight is positive: give at least one block a weight", "NO_POSITIVE_WEIGHT", "profile.blocks"
            )

    @staticmethod
    def _check_own(step: Step, path: str) -> None:
        if not (math.isfinite(step.weight) and step.weight >= 0):
            raise _invalid(
                f"the weight is {step.weight}; a weight of a sum is finite and not negative",
                "WEIGHT_OUT_OF_RANGE",
                f"{path}.weight",
            )


@dataclass(frozen=True)
class ProductProfile(Profile):
    """A log-linear pool: the answer is the softmax of a prior and the evidence of every step.

    `log answer(v) = log prior(v) + sum over blocks and steps of weight * log(p_step(v) / p_wider(v)) + const`.
    The steps of a block ascend in threshold. `p_step = (freq + prior_mass * p_wider) / (mass + prior_mass)` is the
    step's distribution, smoothed towards that of the next wider step of its block, the widest towards the unigram
    distribution. A step that found nothing is its wider one, so it says nothing. log prior = prior_weight times the
    log of the unigram distribution, plus token_bias. token_bias: one for each token, or none. Weights may be negative.
    """

    kind: ClassVar[str] = "product"
    step: ClassVar[type[Step]] = ProductStep

    blocks: tuple[tuple[ProductStep, ...], ...]
    prior_weight: float = 1.0
    token_bias: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_weights((self.prior_weight,), "profile.prior_weight")
        _check_weights(self.token_bias, "profile.token_bias")
        for block, steps in enumerate(self.blocks):
            for number, (wider, step) in enumerate(itertools.pairwise(steps), start=1):
                if not wider.threshold < step.threshold:
                    raise _invalid(
                        f"the threshold {step.threshold} follows {wider.threshold}; those of a product's block ascend",
                        "THRESHOLDS_NOT_ASCENDING",
                        f"profile.blocks[{block}].steps[{number}].threshold",
                    )
        if not any(self.blocks):
            raise _invalid("no block has a step: give at least one", "NO_STEP", "profile.blocks")

    def require_model(self, blocks: int, tokens: int) -> None:
        """Refuse a profile made for a model with another number of blocks or of tokens."""
        super().require_model(blocks, tokens)
        if len(self.token_bias) not in (0, tokens):
            raise _invalid(
                f"{len(self.token_bias)} biases for {tokens} tokens: give one for each, or none",
                "WRONG_TOKEN_COUNT",
                "profile.token_bias",
            )

    @staticmethod
    def _check_own(step: ProductStep, path: str) -> None:
        _check_weights((step.weight,), f"{path}.weight")
        if not PRIOR_MASS_MIN <= step.prior_mass <= PRIOR_MASS_MAX:
            raise _invalid(
                f"the prior mass is {step.prior_mass}; it lies in [{PRIOR_MASS_MIN:g}, {PRIOR_MASS_MAX:g}]",
                "PRIOR_MASS_OUT_OF_RANGE",
                f"{path}.prior_mass",
            )


_KINDS: dict[str, type[SumProfile] | type[ProductProfile]] = {"sum": SumProfile, "product": ProductProfile}


def one_step(name: str, thresholds: Sequence[float], weights: Sequence[float], *, source: str = "") -> SumProfile:
    """The article's form: one threshold and one weight a block. A weight of 0 leaves the block in, for its counts."""
    if len(thresholds) != len(weights):
        raise _invalid(
            f"{len(thresholds)} thresholds and {len(weights)} weights: give one of each for every block",
            "WRONG_BLOCK_COUNT",
            "profile.blocks",
        )
    return SumProfile(name, tuple((Step(t, w),) for t, w in zip(thresholds, weights, strict=True)), source=source)


def default_profile(blocks: int) -> SumProfile:
    """The profile that a snapshot starts with: the article's for six blocks, an even one for others."""
    if blocks == len(ARTICLE.blocks):
        return ARTICLE
    return one_step("even", [0.85] * blocks, [1.0] * blocks, source="even weights, not calibrated")


def profiles_of(documents: Mapping[str, Mapping[str, Any]]) -> dict[str, Profile]:
    """The profiles of a snapshot by name, from what its manifest says of them."""
    return {name: Profile.from_json(document) for name, document in documents.items()}


def choose_profiles(documents: Mapping[str, Mapping[str, Any]], names: Sequence[str] = ()) -> list[Profile]:
    """The profiles of a snapshot with these names, each once, or all of them; raises ProfileError for one it lacks."""
    for name in names:
        if name not in documents:
            raise ProfileError(
                f"the snapshot has no profile {name!r}; it has {', '.join(sorted(documents))}",
                reason="UNKNOWN_PROFILE",
                profile=name,
            )
    return [Profile.from_json(documents[name]) for name in dict.fromkeys(names or sorted(documents))]


def thresholds_of(profiles: Sequence[Profile]) -> list[tuple[float, ...]]:
    """The thresholds of each block that any of the profiles, at least one, has: ascending, each once."""
    by_block = zip(*(profile.thresholds_by_block for profile in profiles), strict=True)
    return [tuple(sorted(map(float, set().union(*of_block)))) for of_block in by_block]


def _check_step(step: Step, blocks: int, path: str) -> None:
    if not (math.isfinite(step.threshold) and -1 <= step.threshold <= 1):
        raise _invalid(
            f"the threshold is {step.threshold}; a cosine threshold is in [-1, 1]",
            "THRESHOLD_OUT_OF_RANGE",
            f"{path}.threshold",
        )
    _check_weights((step.support_weight,), f"{path}.support_weight")
    _check_weights(step.block_support_weights, f"{path}.block_support_weights")
    if len(step.block_support_weights) not in (0, blocks):
        raise _invalid(
            f"{len(step.block_support_weights)} weights for {blocks} blocks: give one for each, or none",
            "WRONG_BLOCK_COUNT",
            f"{path}.block_support_weights",
        )


def _check_weights(weights: Sequence[float], path: str) -> None:
    for weight in weights:
        if not abs(weight) <= WEIGHT_MAX:  # also what is not a number
            raise _invalid(
                f"the weight is {weight}; a weight in an exponent is at most {WEIGHT_MAX:g} in magnitude",
                "WEIGHT_OUT_OF_RANGE",
                path,
            )


def _numbers(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document's fields as numbers, and lists of them as tuples."""
    return {
        name: tuple(map(float, value)) if isinstance(value, list | tuple) else float(value)
        for name, value in document.items()
    }


def _invalid(message: str, reason: str, field: str) -> ProfileError:
    return ProfileError(f"{field}: {message}", reason=reason, field=field)


ARTICLE = one_step(
    "article",
    (0.95, 0.94, 0.85, 0.76, 0.81, 0.89),
    (0.01, 0.01, 0.1, 1.5, 6.0, 0.01),
    source="Beyond Self-Attention (2024), tuned by hand on its own model",
)
"""The published constants, for a model of six blocks."""

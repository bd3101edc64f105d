"""What turns sums into an answer: for each block, steps of a threshold and a weight."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ffnsearch_indexer.errors import ProfileError

STEPS_MAX = 64
"""Most steps of one block: each costs a sum over the vocabulary."""


@dataclass(frozen=True)
class Step:
    """One threshold, exclusive, in [-1, 1], and the weight of the sum above it, at least 0."""

    threshold: float
    weight: float


@dataclass(frozen=True)
class Profile:
    """How the sums of K blocks become one distribution. Immutable and valid once made.

    `total = sum over blocks and steps of weight * freq / mass^mass_power`, and the answer is total / sum(total).
    With mass_power 0 raw counts are added, so a block with more matches weighs more; with 1 every step
    contributes a distribution. Raises ProfileError, which names the field, for values that make no answer.
    """

    name: str
    blocks: tuple[tuple[Step, ...], ...]
    mass_power: float = 0.0
    source: str = ""

    def __post_init__(self) -> None:
        for block, steps in enumerate(self.blocks):
            for number, step in enumerate(steps):
                _check_step(step, f"profile.blocks[{block}].steps[{number}]")
            if len(steps) > STEPS_MAX:
                raise _invalid(
                    f"block {block} has {len(steps)} steps; the limit is {STEPS_MAX}",
                    "TOO_MANY_STEPS",
                    f"profile.blocks[{block}].steps",
                )
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

    def thresholds(self, block: int) -> tuple[float, ...]:
        """The thresholds of a block's steps, in the profile's order; empty for a block that is not searched."""
        return tuple(step.threshold for step in self.blocks[block])

    def require_blocks(self, blocks: int) -> None:
        """Refuse a profile made for a model with another number of blocks."""
        if len(self.blocks) != blocks:
            raise _invalid(
                f"the profile has {len(self.blocks)} blocks, the model {blocks}: give each block its steps (or none)",
                "WRONG_BLOCK_COUNT",
                "profile.blocks",
            )

    def to_json(self) -> dict[str, Any]:
        """The form that a manifest stores."""
        return {
            "name": self.name,
            "kind": "sum",
            "mass_power": self.mass_power,
            "blocks": [[[step.threshold, step.weight] for step in steps] for steps in self.blocks],
            "source": self.source,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Profile":
        """Read what `to_json` wrote; raises ProfileError."""
        try:
            if document["kind"] != "sum":
                raise ProfileError(f"a profile of kind {document['kind']!r} is unknown: this version knows 'sum'")
            blocks = tuple(tuple(Step(float(t), float(w)) for t, w in steps) for steps in document["blocks"])
            return cls(str(document["name"]), blocks, float(document["mass_power"]), str(document["source"]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ProfileError(f"this is no profile: {error!r}") from None


def one_step(name: str, thresholds: Sequence[float], weights: Sequence[float], *, source: str = "") -> Profile:
    """The article's form: one threshold and one weight a block. A weight of 0 leaves the block in, for its counts."""
    if len(thresholds) != len(weights):
        raise _invalid(
            f"{len(thresholds)} thresholds and {len(weights)} weights: give one of each for every block",
            "WRONG_BLOCK_COUNT",
            "profile.blocks",
        )
    return Profile(name, tuple((Step(t, w),) for t, w in zip(thresholds, weights, strict=True)), source=source)


def default_profile(blocks: int) -> Profile:
    """The profile that a snapshot starts with: the article's for six blocks, an even one for others."""
    if blocks == len(ARTICLE.blocks):
        return ARTICLE
    return one_step("even", [0.85] * blocks, [1.0] * blocks, source="even weights, not calibrated")


def _check_step(step: Step, field: str) -> None:
    if not (math.isfinite(step.threshold) and -1 <= step.threshold <= 1):
        raise _invalid(
            f"the threshold is {step.threshold}; a cosine threshold is in [-1, 1]",
            "THRESHOLD_OUT_OF_RANGE",
            f"{field}.threshold",
        )
    if not (math.isfinite(step.weight) and step.weight >= 0):
        raise _invalid(
            f"the weight is {step.weight}; a weight is finite and not negative",
            "WEIGHT_OUT_OF_RANGE",
            f"{field}.weight",
        )


def _invalid(message: str, reason: str, field: str) -> ProfileError:
    return ProfileError(f"{field}: {message}", reason=reason, field=field)


ARTICLE = one_step(
    "article",
    (0.95, 0.94, 0.85, 0.76, 0.81, 0.89),
    (0.01, 0.01, 0.1, 1.5, 6.0, 0.01),
    source="Beyond Self-Attention (2024), tuned by hand on its own model",
)
"""The published constants, for a model of six blocks."""

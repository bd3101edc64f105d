"""How profiles travel: messages become profiles, and profiles become messages."""

from collections.abc import Sequence
from typing import Any, Literal

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_indexer.answer.profile import Expectation, ProductProfile, ProductStep, Profile, Step, SumProfile
from ffnsearch_indexer.errors import ProfileError

Kind = Literal["sum", "product"]
KINDS: dict[int, Kind] = {
    pb.PROFILE_KIND_UNSPECIFIED: "sum",
    pb.PROFILE_KIND_SUM: "sum",
    pb.PROFILE_KIND_PRODUCT: "product",
}

_OF_A_SUM = ("mass_power",)
_OF_A_PRODUCT = ("prior_weight", "token_bias")
_STEP_OF_A_PRODUCT = ("prior_mass",)


def kind_number(profile: Profile) -> pb.ProfileKind:
    """How the wire names the kind of a profile."""
    return pb.PROFILE_KIND_PRODUCT if isinstance(profile, ProductProfile) else pb.PROFILE_KIND_SUM


def profile_message(profile: Profile, name: str) -> pb.Profile:
    """Write a profile, under the name that it is known by."""
    message = pb.Profile(name=name, kind=kind_number(profile), source=profile.source)
    if profile.expectation is not None:
        message.expectation.support.extend(profile.expectation.support)
        message.expectation.distance.extend(profile.expectation.distance)
    if isinstance(profile, ProductProfile):
        message.prior_weight = profile.prior_weight
        message.token_bias.extend(profile.token_bias)
    if isinstance(profile, SumProfile):
        message.mass_power = profile.mass_power
    message.blocks.extend(pb.ProfileBlock(steps=[_step_message(step) for step in steps]) for steps in profile.blocks)
    return message


def read_profile(message: pb.Profile) -> Profile:
    """Read a profile. Raises ProfileError, which names the field, for values that make no answer."""
    kind = KINDS.get(message.kind)
    if kind is None:
        raise ProfileError(
            f"profile.kind: {message.kind} is not a kind that this version knows: choose sum or product",
            reason="UNKNOWN_PROFILE_KIND",
            field="profile.kind",
        )
    return _read_product(message) if kind == "product" else _read_sum(message)


def _read_sum(message: pb.Profile) -> SumProfile:
    _require_unset(message, _OF_A_PRODUCT, "profile", "sum")
    for block, of_block in enumerate(message.blocks):
        for number, step in enumerate(of_block.steps):
            _require_unset(step, _STEP_OF_A_PRODUCT, f"profile.blocks[{block}].steps[{number}]", "sum")
    return SumProfile(
        message.name,
        tuple(tuple(Step(**_step_fields(step)) for step in block.steps) for block in message.blocks),
        message.mass_power,
        source=message.source,
        expectation=_read_expectation(message),
    )


def _read_product(message: pb.Profile) -> ProductProfile:
    _require_unset(message, _OF_A_SUM, "profile", "product")
    return ProductProfile(
        message.name,
        tuple(
            tuple(ProductStep(**_step_fields(step), prior_mass=step.prior_mass) for step in block.steps)
            for block in message.blocks
        ),
        message.prior_weight if message.HasField("prior_weight") else 1.0,
        tuple(message.token_bias),
        source=message.source,
        expectation=_read_expectation(message),
    )


def _require_unset(message: Any, names: Sequence[str], path: str, kind: Kind) -> None:
    """Refuse fields of the other kind: they would have no effect, which is hardly intended.

    A 0 that the wire cannot tell from an unset field is unset, also where it is sent as -0.0.
    """
    for field, value in message.ListFields():
        if field.name in names and (value or field.has_presence):
            raise ProfileError(
                f"{path}.{field.name}: a {kind} has no {field.name}: leave it out, or set the profile's kind",
                reason="FIELD_OF_ANOTHER_KIND",
                field=f"{path}.{field.name}",
            )


def _read_expectation(message: pb.Profile) -> Expectation | None:
    if not message.HasField("expectation"):
        return None
    return Expectation(tuple(message.expectation.support), tuple(message.expectation.distance))


def _step_message(step: Step) -> pb.ProfileStep:
    message = pb.ProfileStep(
        threshold=step.threshold,
        weight=step.weight,
        support_weight=step.support_weight,
        block_support_weights=step.block_support_weights,
    )
    if isinstance(step, ProductStep):
        message.prior_mass = step.prior_mass
    return message


def _step_fields(message: pb.ProfileStep) -> dict[str, Any]:
    """The fields of a step of either kind, by name."""
    return {
        "threshold": message.threshold,
        "weight": message.weight,
        "support_weight": message.support_weight,
        "block_support_weights": tuple(message.block_support_weights),
    }

"""How profiles travel: messages to profiles and back."""

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_indexer.answer.profile import Profile, Step


def profile_message(profile: Profile, name: str) -> pb.Profile:
    """Write a profile, under the name that it is known by."""
    blocks = [
        pb.ProfileBlock(steps=[pb.ProfileStep(threshold=step.threshold, weight=step.weight) for step in steps])
        for steps in profile.blocks
    ]
    return pb.Profile(name=name, blocks=blocks, mass_power=profile.mass_power, source=profile.source)


def read_profile(message: pb.Profile) -> Profile:
    """Read a profile. Raises ProfileError, which names the field, for values that make no answer."""
    blocks = tuple(tuple(Step(step.threshold, step.weight) for step in block.steps) for block in message.blocks)
    return Profile(message.name, blocks, message.mass_power, message.source)

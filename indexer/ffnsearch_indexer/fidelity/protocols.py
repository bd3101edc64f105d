"""The three ways to measure fidelity, and which of them a snapshot allows."""

from collections.abc import Sequence
from enum import StrEnum

from ffnsearch_indexer.errors import FidelityError

CALIBRATION = "calibration"
"""Where a calibration stands in a manifest, beside the measurements, each under its protocol's key."""


class Protocol(StrEnum):
    """What is indexed, and where the prompts come from.

    parity: the whole text is indexed, prompts are substrings of it, and each finds itself too (the article's way).
    leave-one-out: the training split is indexed, prompts are substrings of it, and the own row of each does not count.
    held-out: the training split is indexed, prompts come from the rest of the text and occur neither in the index nor
    in what the model was trained on, which has to be known.
    """

    PARITY = "parity"
    LEAVE_ONE_OUT = "leave-one-out"
    HELD_OUT = "held-out"

    @property
    def key(self) -> str:
        """The protocol's name in JSON."""
        return self.value.replace("-", "_")

    @property
    def indexed_split(self) -> str:
        """Which part of a corpus a snapshot must have indexed."""
        return "all" if self is Protocol.PARITY else "train"


def choose_protocols(split: str, asked: Sequence[Protocol]) -> list[Protocol]:
    """The protocols that were asked for, or all that a snapshot of this split allows, each once.

    Raises FidelityError for one that it does not allow.
    """
    for protocol in asked:
        require_allowed(protocol, split)
    return [protocol for protocol in Protocol if protocol in asked or (not asked and protocol.indexed_split == split)]


def require_allowed(protocol: Protocol, split: str) -> None:
    """Refuse (FidelityError) a protocol that needs another split than the one that is indexed."""
    needed = protocol.indexed_split
    if needed != split:
        raise FidelityError(
            f"the protocol {protocol} needs a snapshot of the split {needed!r}, this one is of {split!r}: "
            f"build one with --split {needed}, or choose another protocol",
            reason="PROTOCOL_NOT_ALLOWED",
            protocol=protocol,
            split=split,
        )

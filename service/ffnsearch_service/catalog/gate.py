"""Is a snapshot near enough to its model for an alias to point to it?"""

from dataclasses import dataclass

from ffnsearch_indexer.store.manifest import Manifest
from ffnsearch_service.errors import RequestError, StateError
from ffnsearch_service.protocols import PROTOCOLS


@dataclass(frozen=True)
class FidelityGate:
    """A bound on the mean Hellinger distance that was recorded for a snapshot's default profile under a protocol.

    protocol: `parity`, `leave_one_out` or `held_out`. hellinger_mean_max: in [0, 1]; equal to it is near enough.
    """

    protocol: str
    hellinger_mean_max: float

    @classmethod
    def of(cls, protocol: str, hellinger_mean_max: float, *, field: str) -> "FidelityGate":
        """Make a gate of what a caller sent. Raises RequestError, which names the field."""
        if protocol not in PROTOCOLS:
            raise RequestError(
                f"{field}.protocol: {protocol[:80]!r} is not a protocol: choose one of {', '.join(PROTOCOLS)}",
                reason="UNKNOWN_PROTOCOL",
                field=f"{field}.protocol",
            )
        if not 0 <= hellinger_mean_max <= 1:  # not a number is refused too
            raise RequestError(
                f"{field}.hellinger_mean_max: {hellinger_mean_max:g} is not a distance: choose one in [0, 1]",
                reason="BOUND_OUT_OF_RANGE",
                field=f"{field}.hellinger_mean_max",
            )
        return cls(protocol, hellinger_mean_max)

    def check(self, name: str, manifest: Manifest) -> None:
        """Raise StateError for the snapshot `name` if it was not measured, or is further off than the bound."""
        document = (manifest.fidelity or {}).get(self.protocol)
        if document is None or document["profile"] != manifest.default_profile:
            raise StateError(
                f"snapshot {name} has no {self.protocol} measurement of its default profile "
                f"{manifest.default_profile}: make one with `ffnsearch evaluate`, then load it again",
                reason="FIDELITY_NOT_MEASURED",
                snapshot=name,
                protocol=self.protocol,
            )
        measured = document["hellinger"]["mean"]
        if not measured <= self.hellinger_mean_max:
            raise StateError(
                f"snapshot {name} is {measured:.4f} from its model ({self.protocol}), the bound is "
                f"{self.hellinger_mean_max:.4f}: calibrate it, build a better one, or raise the bound",
                reason="FIDELITY_TOO_LOW",
                snapshot=name,
                protocol=self.protocol,
                measured=measured,
                bound=self.hellinger_mean_max,
            )

"""What does a server have open, for whoever keeps count?"""

from collections.abc import Mapping
from typing import NamedTuple


class SnapshotSeen(NamedTuple):
    """An open snapshot."""

    snapshot_id: str
    substrings: int
    backend: str


class CatalogSeen(NamedTuple):
    """All open snapshots by name, and the snapshot that each alias means. Nobody changes the mappings.

    closed: names of the snapshots that are being opened, or could not be.
    """

    snapshots: Mapping[str, SnapshotSeen]
    aliases: Mapping[str, str]
    closed: frozenset[str] = frozenset()

"""What the catalog says of a snapshot and an alias at one moment."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ffnsearch_indexer.store.manifest import Manifest

State = Literal["LOADING", "OPEN", "FAILED"]


@dataclass(frozen=True)
class SnapshotView:
    """A snapshot as it was when asked.

    manifest: what was opened has it; None unless the state is OPEN. backend: what searches it, then. leases: requests
    that it is answering. aliases: those that point to it, by name. error: why it could not be opened, with state
    FAILED; may name paths.
    """

    name: str
    state: State
    folder: Path
    etag: str
    aliases: tuple[str, ...]
    leases: int = 0
    manifest: Manifest | None = None
    backend: str = ""
    error: str = ""


@dataclass(frozen=True)
class AliasView:
    """An alias as it was when asked."""

    name: str
    snapshot_name: str
    etag: str

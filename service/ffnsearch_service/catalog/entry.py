"""One snapshot of the catalog: what is open, and how many requests still need it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from ffnsearch_indexer.store.manifest import Manifest
from ffnsearch_service.catalog.state import Placed
from ffnsearch_service.catalog.views import SnapshotView, State


class Opened(Protocol):
    """What an opener gives: something that has a manifest and is closed once."""

    @property
    def manifest(self) -> Manifest:
        """What the snapshot says of itself."""

    @property
    def backend(self) -> str:
        """The name of what searches it now."""

    def close(self) -> None:
        """Let go of files and memory."""


Open = TypeVar("Open", bound=Opened)


@dataclass(eq=False)
class Entry(Generic[Open]):
    """A name's snapshot, from the start of its load to its close. The catalog's lock guards every field.

    bytes: size on disk, 0 until it is known. opened: set from the end of the load to the close. is_named: whether
    requests can still find it; once they cannot, it is closed with the last lease.
    """

    placed: Placed
    state: State = "LOADING"
    bytes: int = 0
    opened: Open | None = None
    error: str = ""
    leases: int = 0
    is_named: bool = True

    @property
    def is_over(self) -> bool:
        """Whether nobody uses it, and nobody will."""
        return not self.is_named and self.leases == 0

    def view(self, name: str, aliases: tuple[str, ...]) -> SnapshotView:
        """What it is at this moment."""
        return SnapshotView(
            name=name,
            state=self.state,
            folder=Path(self.placed.folder),
            etag=self.placed.etag,
            aliases=aliases,
            leases=self.leases,
            manifest=self.opened.manifest if self.opened else None,
            backend=self.opened.backend if self.opened else "",
            error=self.error,
        )

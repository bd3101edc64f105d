"""What does the catalog tell, for whoever keeps count? (events; by default nobody listens)."""

from typing import NamedTuple


class SnapshotSeen(NamedTuple):
    """A snapshot that is open under a name."""

    name: str
    snapshot_id: str
    substrings: int
    backend: str


class CatalogObserver:
    """Hears which snapshots there are. Does nothing; a subclass overrides what it wants to know.

    The methods are called in the event loop, in the order of the changes.
    """

    def opened(self, snapshot: SnapshotSeen) -> None:
        """A snapshot can be asked from now on."""

    def closed(self, name: str) -> None:
        """A snapshot cannot be asked any more; calls that have begun go on."""

    def pointed(self, alias: str, name: str | None) -> None:
        """An alias means this snapshot from now on; None: it is gone."""


class CatalogObservers(CatalogObserver):
    """Passes everything on to several, in their order."""

    def __init__(self, *observers: CatalogObserver) -> None:
        self._observers = observers

    def opened(self, snapshot: SnapshotSeen) -> None:  # noqa: D102 - as above
        for observer in self._observers:
            observer.opened(snapshot)

    def closed(self, name: str) -> None:  # noqa: D102
        for observer in self._observers:
            observer.closed(name)

    def pointed(self, alias: str, name: str | None) -> None:  # noqa: D102
        for observer in self._observers:
            observer.pointed(alias, name)

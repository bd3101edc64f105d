"""What has changed in a catalog? (a catalog that says only that it changed -> events in the event loop)."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ffnsearch_service.catalog.catalog import Catalog
from ffnsearch_service.operations.observer import CatalogObserver, SnapshotSeen


class CatalogWatch:
    """Tells an observer what a catalog has now that it had not before, and the reverse.

    catalog: set before `changed` is called, which any thread may do. Before a loop is followed the observer hears on
    the thread of the change, while one is followed in the loop, and afterwards not at all.
    """

    catalog: Catalog[Any]

    def __init__(self, observer: CatalogObserver) -> None:
        self._observer = observer
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_over = False
        self._open: dict[str, SnapshotSeen] = {}
        self._aliases: dict[str, str] = {}

    def changed(self) -> None:
        """Let the observer hear what is different."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._tell)
        elif not self._is_over:
            self._tell()

    @contextmanager
    def following(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Let the observer hear in a loop, which runs until the end of the `with`."""
        self._loop = loop
        try:
            yield
        finally:
            self._is_over, self._loop = True, None

    def _tell(self) -> None:
        found = {
            view.name: SnapshotSeen(view.name, view.manifest.snapshot_id, view.manifest.substrings, view.backend)
            for view in self.catalog.snapshots()
            if view.manifest is not None
        }
        aliases = {view.name: view.snapshot_name for view in self.catalog.aliases()}
        for name in self._open.keys() - found.keys():
            self._observer.closed(name)
        for name, seen in found.items():
            if self._open.get(name) != seen:
                self._observer.opened(seen)
        for alias in self._aliases.keys() - aliases.keys():
            self._observer.pointed(alias, None)
        for alias, name in aliases.items():
            if self._aliases.get(alias) != name:
                self._observer.pointed(alias, name)
        self._open, self._aliases = found, aliases

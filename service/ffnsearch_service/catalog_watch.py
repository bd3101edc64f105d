"""What does a catalog hold now? (each change of a catalog -> a look at all of it, in the event loop)."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ffnsearch_service.catalog.catalog import Catalog
from ffnsearch_service.operations.seen import CatalogSeen, SnapshotSeen


class CatalogWatch:
    """Shows what a catalog holds, after each change, to whoever keeps count. Any thread may call `changed`.

    Before a loop is followed it is shown on the thread of the change, while one is followed in the loop, and not at
    all afterwards.
    """

    def __init__(self, see: Callable[[CatalogSeen], None]) -> None:
        self._see = see
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_over = False

    def changed(self, catalog: Catalog[Any]) -> None:
        """Show what the catalog holds now."""
        with self._lock:  # the loop is not closed meanwhile
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._show, catalog)
            elif not self._is_over:
                self._show(catalog)

    @contextmanager
    def following(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Show changes in a loop, which runs until the end of the `with`."""
        with self._lock:
            self._loop = loop
        try:
            yield
        finally:
            with self._lock:
                self._is_over, self._loop = True, None

    def _show(self, catalog: Catalog[Any]) -> None:
        views = catalog.snapshots()
        snapshots = {
            view.name: SnapshotSeen(view.manifest.snapshot_id, view.manifest.substrings, view.backend)
            for view in views
            if view.manifest is not None
        }
        aliases = {view.name: view.snapshot_name for view in catalog.aliases()}
        self._see(CatalogSeen(snapshots, aliases, frozenset(view.name for view in views) - snapshots.keys()))

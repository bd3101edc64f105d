"""The catalog: several snapshots open at once under names, aliases that move from one to the next, leases of requests.

Two locks. `_changing` is held by whoever changes what is loaded or where aliases point, one at a time, while the state
file is written; `_lock` guards the maps for as long as it takes to read or replace them, so a lease never waits for a
disk. A change is durable before anybody sees it: killed at any moment, a restart finds what was there before or after.
"""

import logging
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Generic

from ffnsearch_indexer.errors import FfnSearchError
from ffnsearch_indexer.files import is_full
from ffnsearch_indexer.store.manifest import read_manifest
from ffnsearch_service.catalog.entry import Entry, Open
from ffnsearch_service.catalog.gate import FidelityGate
from ffnsearch_service.catalog.state import (
    CatalogState,
    Configured,
    Placed,
    Pointing,
    read_state,
    write_state,
)
from ffnsearch_service.catalog.views import AliasView, SnapshotView
from ffnsearch_service.config import DEFAULT_ALIAS, Limits
from ffnsearch_service.errors import (
    AbsentError,
    ExhaustedError,
    LostUpdateError,
    PresentError,
    ShuttingDownError,
    StateError,
)
from ffnsearch_service.names import require_name

_log = logging.getLogger(__name__)


def manifest_bytes(folder: Path) -> int:
    """Size of a snapshot on disk, without opening it. Raises SnapshotError."""
    return read_manifest(folder).total_bytes()


def at_once(close: Callable[[], None]) -> None:
    """Close on the thread that gave the last lease back: the default."""
    close()


class Catalog(Generic[Open]):
    """Opens snapshots, names them, lends them to requests and closes them. Any thread may call any method.

    opener: opens a folder under a name; raises FfnSearchError where it cannot. state_file: where to remember what is
    loaded, None to forget it with the process. size_of: size of a folder in bytes, asked before it is opened.
    run_close: how a snapshot is closed whose last lease ends; give an executor's `submit` where that thread must not
    wait. on_change: called with the catalog after each change, on the thread that made it, outside the locks.
    """

    def __init__(
        self,
        opener: Callable[[str, Path], Open],
        *,
        state_file: Path | None = None,
        limits: Limits | None = None,
        size_of: Callable[[Path], int] = manifest_bytes,
        run_close: Callable[[Callable[[], None]], object] = at_once,
        on_change: Callable[["Catalog[Open]"], None] = lambda catalog: None,
    ) -> None:
        self._opener = opener
        self._state_file = state_file
        self._limits = limits or Limits()
        self._size_of = size_of
        self._run_close = run_close
        self._on_change = on_change
        self._changing = threading.Lock()
        self._lock = threading.Lock()
        self._state = CatalogState()
        self._entries: dict[str, Entry[Open]] = {}
        self._held: set[Entry[Open]] = set()  # open or being opened, named or not
        self._is_ending = False

    def restore(self, configured: Configured | None = None) -> list[SnapshotView]:
        """Open what was loaded before, and what the configuration names; return what could not be opened.

        Call it once, before all else. What the configuration changed since the last start counts; elsewhere the state
        file does. A snapshot that cannot be opened stays listed as FAILED and stops no other. Raises StateError where
        the state file cannot be read, OSError where it cannot be written.
        """
        stored = read_state(self._state_file) if self._state_file else CatalogState()
        with self._changing:
            self._commit(stored.merged(configured or Configured(), _new_etag()))
            entries: dict[str, Entry[Open]] = {name: Entry(placed) for name, placed in self._state.snapshots.items()}
            with self._lock:
                self._entries = dict(entries)
        for name, entry in entries.items():
            self._reopen(name, entry)
        self._on_change(self)
        return [view for view in self.snapshots() if view.state == "FAILED"]

    @contextmanager
    def lease(self, name: str = "") -> Iterator[Open]:
        """Lend the open snapshot of a name or an alias, "" for `default`; it stays open until the lease ends.

        Raises AbsentError for an unknown name, StateError for a snapshot that is not open. Takes microseconds.
        """
        entry = self._take(name or DEFAULT_ALIAS)
        assert entry.opened is not None
        try:
            yield entry.opened
        finally:
            with self._lock:
                entry.leases -= 1
                is_over = entry.is_over
            if is_over:
                self._run_close(lambda: self._close(entry))

    def load(self, name: str, folder: Path) -> SnapshotView:
        """Open the snapshot in a folder under a name; returns when it is open. Requests go on meanwhile.

        A snapshot that FAILED is replaced. Raises RequestError for a name that cannot be, PresentError for one in use,
        ShuttingDownError before it begins; then everything is as before. Raises ExhaustedError beyond the limits, and
        what the opener raises; then the name stays listed as FAILED, with the error: its caller may have left.
        """
        require_name(name, "name")
        entry: Entry[Open] = Entry(Placed(str(folder), _new_etag()))
        self._reserve(name, entry)
        self._on_change(self)
        try:
            with ExitStack() as undo:
                opened = self._open(name, entry)
                undo.callback(opened.close)
                with self._changing:
                    self._require_free(name)  # an alias may have got the name meanwhile
                    self._commit(self._state.with_snapshot(name, entry.placed))
                    self._publish(entry, opened)
                    undo.pop_all()
        except Exception as error:
            self._fail(name, entry, error)
            raise
        finally:
            self._on_change(self)
        return self.snapshot(name)

    def require_names(self, name: str, folder: Path, alias: str = "") -> None:
        """Raise PresentError where a folder could not get a name, or the name an alias, because others have them.

        A folder that is loaded under that name already, or is being loaded, has it.
        """
        with self._lock:
            entry = self._entries.get(name)
            is_another = entry is not None and entry.state != "FAILED" and Path(entry.placed.folder) != folder
            if is_another or name in self._state.aliases:
                raise _name_taken(name, "name")
            if alias in self._entries:
                raise _name_taken(alias, "alias")

    def unload(self, name: str, etag: str = "") -> None:
        """Take the name from a snapshot; it is closed when the last request that uses it ends.

        Raises AbsentError, LostUpdateError for an etag that is not the current one, StateError while an alias points to
        it or it is being loaded.
        """
        with self._changing:
            entry = self._named(name, "name")
            _require_etag(etag, entry.placed.etag, f"snapshot {name}")
            if entry.state == "LOADING":
                raise StateError(f"snapshot {name} is being loaded: wait for it", reason="SNAPSHOT_LOADING")
            if aliases := self._aliases_of(name):
                raise StateError(
                    f"snapshot {name} is in use by alias {', '.join(aliases)}: move or delete that first",
                    reason="SNAPSHOT_IN_USE",
                    snapshot=name,
                    aliases=",".join(aliases),
                )
            self._commit(self._state.without_snapshot(name))
            with self._lock:
                del self._entries[name]
                entry.is_named = False
                is_over = entry.is_over
        if is_over:
            self._close(entry)
        self._on_change(self)

    def move_alias(
        self, alias: str, name: str, *, etag: str = "", allow_missing: bool = False, gate: FidelityGate | None = None
    ) -> AliasView:
        """Let an alias point to an open snapshot, in one step, and return it.

        etag: the alias' current one, "" for any. allow_missing: make the alias where there is none. gate: what the
        snapshot's fidelity must be. Raises RequestError, AbsentError, PresentError where a snapshot has the alias'
        name, LostUpdateError, StateError for a snapshot that is not open or that the gate refuses, ExhaustedError.
        """
        require_name(alias, "name")
        with self._changing:
            self._require_movable(alias, etag, allow_missing=allow_missing)
            entry = self._named(name, "snapshot_name")
            if entry.opened is None:
                raise StateError(
                    f"snapshot {name} is not open ({entry.state.lower()}): load it first",
                    reason="SNAPSHOT_NOT_OPEN",
                    snapshot=name,
                )
            if gate:
                gate.check(name, entry.opened.manifest)
            pointing = Pointing(name, _new_etag())
            self._commit(self._state.with_alias(alias, pointing))
        self._on_change(self)
        return AliasView(alias, pointing.snapshot, pointing.etag)

    def delete_alias(self, alias: str, etag: str = "") -> None:
        """Delete an alias. Raises AbsentError, LostUpdateError."""
        with self._changing:
            _require_etag(etag, self.alias(alias).etag, f"alias {alias}")
            self._commit(self._state.without_alias(alias))
        self._on_change(self)

    def snapshot(self, name: str) -> SnapshotView:
        """Describe the snapshot of a name or an alias. Raises AbsentError."""
        with self._lock:
            target = self._resolve(name)
            entry = self._entries.get(target)
            if entry is None:
                raise _no_snapshot(name, "name")
            return entry.view(target, self._aliases_of(target))

    def snapshots(self) -> list[SnapshotView]:
        """Describe all snapshots, by name."""
        with self._lock:
            return [entry.view(name, self._aliases_of(name)) for name, entry in sorted(self._entries.items())]

    def alias(self, name: str) -> AliasView:
        """Describe an alias. Raises AbsentError."""
        pointing = self._state.aliases.get(name)
        if pointing is None:
            raise AbsentError(
                f"there is no alias {name[:80]!r}: list them, or allow it to be made",
                reason="ALIAS_NOT_FOUND",
                field="name",
            )
        return AliasView(name, pointing.snapshot, pointing.etag)

    def aliases(self) -> list[AliasView]:
        """Describe all aliases, by name."""
        return [AliasView(name, to.snapshot, to.etag) for name, to in sorted(self._state.aliases.items())]

    def stop_loads(self) -> None:
        """Let no load begin from now on, and running ones end at their next checkpoint; what is open stays open."""
        self._is_ending = True

    def checkpoint(self) -> None:
        """Raise ShuttingDownError once loads are to end; an opener that takes long asks now and then."""
        if self._is_ending:
            raise ShuttingDownError

    def close(self) -> None:
        """Close every snapshot, those that are lent with their last lease. Call it once, after `restore` has returned.

        Nothing can be loaded or leased after it.
        """
        with self._changing, self._lock:
            self._is_ending = True
            entries, self._entries = list(self._entries.values()), {}
            for entry in entries:
                entry.is_named = False
            over = [entry for entry in entries if entry.is_over]
        for entry in over:
            self._close(entry)

    def _take(self, name: str) -> Entry[Open]:
        with self._lock:
            entry = self._entries.get(self._resolve(name))
            if entry is None:
                raise _no_snapshot(name, "snapshot")
            if entry.opened is None:
                loading = entry.state == "LOADING"
                raise StateError(
                    f"snapshot {name} is {'being opened: try again later' if loading else 'not open: load it again'}",
                    reason="SNAPSHOT_NOT_READY" if loading else "SNAPSHOT_NOT_OPEN",
                    snapshot=name,
                )
            entry.leases += 1
            return entry

    def _resolve(self, name: str) -> str:
        pointing = self._state.aliases.get(name)
        return pointing.snapshot if pointing else name

    def _named(self, name: str, field: str) -> Entry[Open]:
        with self._lock:
            entry = self._entries.get(name)
        if entry is None:
            raise _no_snapshot(name, field)
        return entry

    def _aliases_of(self, name: str) -> tuple[str, ...]:
        return tuple(sorted(alias for alias, to in self._state.aliases.items() if to.snapshot == name))

    def _reserve(self, name: str, entry: Entry[Open]) -> None:
        """Give the name to an entry that is being loaded, in the place of a failed one."""
        with self._changing, self._lock:  # an unload of the failed one may be on its way to the disk
            self._require_free(name)
            before = self._entries.get(name)
            if before and before.state != "FAILED":
                raise _name_taken(name, "name")
            self._entries[name] = entry

    def _require_free(self, name: str) -> None:
        self.checkpoint()
        if name in self._state.aliases:
            raise _name_taken(name, "name")

    def _hold(self, entry: Entry[Open]) -> None:
        """Take one of the places for open snapshots; the caller has the lock."""
        if len(self._held) >= self._limits.snapshots_max:
            raise ExhaustedError(
                f"{len(self._held)} snapshots are open, the most that this server allows: unload one",
                reason="TOO_MANY_SNAPSHOTS",
                limit=self._limits.snapshots_max,
            )
        self._held.add(entry)

    def _open(self, name: str, entry: Entry[Open]) -> Open:
        with self._lock:
            self._hold(entry)
        folder = Path(entry.placed.folder)
        size_bytes = self._size_of(folder)
        with self._lock:
            held_bytes = sum(held.bytes for held in self._held)
            if held_bytes + size_bytes > self._limits.snapshots_bytes_max:
                raise ExhaustedError(
                    f"the open snapshots have {held_bytes:,} bytes and this one {size_bytes:,}, together more than "
                    f"the {self._limits.snapshots_bytes_max:,} that this server allows: unload one",
                    reason="SNAPSHOTS_TOO_LARGE",
                    limit=self._limits.snapshots_bytes_max,
                )
            entry.bytes = size_bytes
        return self._opener(name, folder)

    def _publish(self, entry: Entry[Open], opened: Open) -> None:
        with self._lock:
            entry.opened, entry.state = opened, "OPEN"

    def _fail(self, name: str, entry: Entry[Open], error: Exception) -> None:
        """Keep why a snapshot cannot be opened. Of too many loads that failed, the first to fail is forgotten."""
        is_ours = not isinstance(error, FfnSearchError)
        if is_ours:
            _log.exception("snapshot %s cannot be opened", name)
        with self._changing, self._lock:  # an unload of one that failed may be on its way to the disk
            self._held.discard(entry)
            entry.state, entry.bytes = "FAILED", 0
            entry.error = "an internal error: the server's log says more" if is_ours else str(error)
            if self._entries.get(name) is not entry:
                return  # the catalog was closed
            self._entries[name] = self._entries.pop(name)  # the last to fail is the last
            failed = [known for known, other in self._entries.items() if other.state == "FAILED"]
            loads = [known for known in failed if known not in self._state.snapshots]
            for oldest in loads[: -self._limits.failed_loads_max]:
                del self._entries[oldest]

    def _reopen(self, name: str, entry: Entry[Open]) -> None:
        """Open a snapshot of an earlier start, or keep why it cannot be."""
        try:
            opened = self._open(name, entry)
        except Exception as error:  # whatever it is, it stops neither the start nor the other snapshots
            self._fail(name, entry, error)
        else:
            self._publish(entry, opened)

    def _require_movable(self, alias: str, etag: str, *, allow_missing: bool) -> None:
        with self._lock:
            is_taken = alias in self._entries
        if is_taken:
            raise _name_taken(alias, "name")
        if alias in self._state.aliases:
            return _require_etag(etag, self._state.aliases[alias].etag, f"alias {alias}")
        if not allow_missing:
            self.alias(alias)  # raises AbsentError
        _require_etag(etag, "", f"alias {alias}")
        if len(self._state.aliases) >= self._limits.aliases_max:
            raise ExhaustedError(
                f"there are {len(self._state.aliases)} aliases, the most that this server allows: delete one",
                reason="TOO_MANY_ALIASES",
                limit=self._limits.aliases_max,
            )

    def _commit(self, state: CatalogState) -> None:
        """Make a state durable, then the current one; the caller has `_changing`."""
        if self._state_file:
            try:
                write_state(self._state_file, state)
            except OSError as error:
                if is_full(error):
                    raise ExhaustedError(
                        "the disk of the server's state folder is full: nothing was changed; make room",
                        reason="DISK_FULL",
                    ) from error
                raise
        with self._lock:
            self._state = state

    def _close(self, entry: Entry[Open]) -> None:
        try:
            if entry.opened is not None:
                entry.opened.close()
        finally:
            with self._lock:
                self._held.discard(entry)


def _require_etag(given: str, current: str, what: str) -> None:
    if given and given != current:
        raise LostUpdateError(
            f"{what} has changed since you read it: read it again, then decide",
            reason="ETAG_MISMATCH",
            field="etag",
        )


def _name_taken(name: str, field: str) -> PresentError:
    return PresentError(
        f"the name {name} is in use by a snapshot or an alias: choose another, or free this one first",
        reason="NAME_TAKEN",
        field=field,
        name=name,
    )


def _no_snapshot(name: str, field: str) -> AbsentError:
    return AbsentError(
        f"there is no snapshot {name[:80]!r}: list what is loaded, or load it", reason="SNAPSHOT_NOT_FOUND", field=field
    )


def _new_etag() -> str:
    return secrets.token_hex(8)

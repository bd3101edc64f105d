"""What a restart finds: which snapshots are to be open, and where aliases point, in one file that is always whole."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ffnsearch_indexer.files import save_text
from ffnsearch_service.config import ServerConfig
from ffnsearch_service.errors import StateError

STATE_FILE = "catalog.json"
"""What the file is called in the state folder."""

_VERSION = 1


@dataclass(frozen=True)
class Placed:
    """A snapshot's folder. etag: changes whenever the name gets another snapshot."""

    folder: str
    etag: str


@dataclass(frozen=True)
class Pointing:
    """Where an alias points. etag: changes whenever the alias does."""

    snapshot: str
    etag: str


@dataclass(frozen=True)
class Configured:
    """What a configuration says: folders of snapshots and targets of aliases, by name."""

    snapshots: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, config: ServerConfig) -> "Configured":
        """What the settings of a server say."""
        return cls({name: str(path) for name, path in config.snapshots.items()}, config.aliases)


@dataclass(frozen=True)
class CatalogState:
    """Everything that survives a restart. configured: what the configuration said at the last start."""

    snapshots: Mapping[str, Placed] = field(default_factory=dict)
    aliases: Mapping[str, Pointing] = field(default_factory=dict)
    configured: Configured = field(default_factory=Configured)

    def with_snapshot(self, name: str, placed: Placed) -> "CatalogState":
        """The state with a snapshot under a name, in the place of any that had it."""
        return replace(self, snapshots={**self.snapshots, name: placed})

    def without_snapshot(self, name: str) -> "CatalogState":
        """The state without the snapshot of a name."""
        return replace(self, snapshots={known: placed for known, placed in self.snapshots.items() if known != name})

    def with_alias(self, name: str, pointing: Pointing) -> "CatalogState":
        """The state with an alias that points there."""
        return replace(self, aliases={**self.aliases, name: pointing})

    def without_alias(self, name: str) -> "CatalogState":
        """The state without an alias."""
        return replace(self, aliases={known: pointing for known, pointing in self.aliases.items() if known != name})

    def merged(self, configured: Configured, etag: str) -> "CatalogState":
        """The state to start with: what the configuration changed since the last start counts, otherwise the state.

        etag: what new entries get. An alias that the configuration changed brings its snapshot back where that was
        unloaded. Other aliases are dropped with their snapshots, and all where a new snapshot has their name.
        """
        snapshots = _merge(self.snapshots, self.configured.snapshots, configured.snapshots, lambda to: Placed(to, etag))
        for alias in _changed(self.configured.aliases, configured.aliases) & configured.aliases.keys():
            name = configured.aliases[alias]
            if name in configured.snapshots:
                snapshots.setdefault(name, Placed(configured.snapshots[name], etag))
        aliases = _merge(self.aliases, self.configured.aliases, configured.aliases, lambda to: Pointing(to, etag))
        kept = {
            name: pointing
            for name, pointing in aliases.items()
            if pointing.snapshot in snapshots and name not in snapshots
        }
        return CatalogState(snapshots, kept, configured)


def read_state(path: Path) -> CatalogState:
    """Read the state; none there is an empty one. Raises StateError for one that cannot be read."""
    try:
        document = json.loads(path.read_bytes())
        if document.pop("version") != _VERSION:
            raise ValueError("it is of another version")
        return CatalogState(
            {name: Placed(**entry) for name, entry in document["snapshots"].items()},
            {name: Pointing(**entry) for name, entry in document["aliases"].items()},
            Configured(**document["configured"]),
        )
    except FileNotFoundError:
        return CatalogState()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateError(
            f"{path} cannot be read ({error}): mend it, or delete it to begin with the configuration alone",
            reason="STATE_UNREADABLE",
        ) from None


def write_state(path: Path, state: CatalogState) -> None:
    """Write the state in one step: a process that is killed leaves the old one or the new one. Raises OSError."""
    text = json.dumps({"version": _VERSION, **asdict(state)}, indent=1, sort_keys=True) + "\n"
    save_text(path, text)


def _merge(stored: Mapping[str, Any], before: Mapping[str, str], now: Mapping[str, str], make: Any) -> dict[str, Any]:
    changed = _changed(before, now)
    kept = {name: entry for name, entry in stored.items() if name not in changed}
    return kept | {name: make(now[name]) for name in changed & now.keys()}


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> set[str]:
    return {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}

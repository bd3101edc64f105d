"""What would happen? (settings -> what a start would find, without starting anything)."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ffnsearch_indexer.errors import FfnSearchError
from ffnsearch_indexer.store.check import check_sizes
from ffnsearch_indexer.store.manifest import read_manifest
from ffnsearch_service.address import require_free
from ffnsearch_service.catalog.state import STATE_FILE, CatalogState, Configured, read_state
from ffnsearch_service.config import ServerConfig
from ffnsearch_service.errors import ExhaustedError, StateError
from ffnsearch_service.operations.tracing import require_extra
from ffnsearch_service.security.tls import ServerTls, TlsFiles
from ffnsearch_service.security.token_store import TokenStore
from ffnsearch_service.settings import rules
from ffnsearch_service.settings.loading import Loaded, key_values


@dataclass(frozen=True)
class SettingValue:
    """A setting, its value (a path as text, null: absent), and where that comes from."""

    key: str
    value: bool | int | float | str | None
    origin: str


@dataclass(frozen=True)
class SnapshotFound:
    """A snapshot that would be opened. bytes: the sum of its files."""

    name: str
    path: str
    snapshot_id: str
    substrings: int
    bytes: int


@dataclass(frozen=True)
class Findings:
    """What a start would find. problems: what would stop it, each with the key and the next step."""

    settings: tuple[SettingValue, ...]
    snapshots: tuple[SnapshotFound, ...]
    addresses: tuple[str, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def check(loaded: Loaded) -> Findings:
    """Look at what a start needs: snapshots (sizes, no hashes), the state, addresses, files, extras. Reads only."""
    config = loaded.config
    problems: list[str] = []
    snapshots = [
        found
        for name, path in config.snapshots.items()
        if (found := _tried(problems, loaded, f"snapshots.{name}", _snapshot, name, path))
    ]
    if state := _tried(problems, loaded, "server.state_folder", _state, config):
        _tried(problems, loaded, "limits.snapshots_max", _require_places, config, state)
        size_bytes = sum(snapshot.bytes for snapshot in snapshots if snapshot.name in state.snapshots)
        _tried(problems, loaded, "limits.snapshots_bytes_max", _require_bytes, config, size_bytes)
    addresses = [
        address
        for key, host, port in _places(config)
        if (address := _tried(problems, loaded, key, require_free, host, port))
    ]
    for key, work in _needs(config):
        _tried(problems, loaded, key, work)
    return Findings(
        settings=tuple(
            SettingValue(key, str(value) if isinstance(value, Path) else value, loaded.origin(key))
            for key, value in key_values(config).items()
        ),
        snapshots=tuple(snapshots),
        addresses=tuple(addresses),
        problems=tuple(problems),
        warnings=tuple(rules.warnings(config)),
    )


def _tried(problems: list[str], loaded: Loaded, key: str, work: Callable[..., Any], *arguments: Any) -> Any:
    """What the work gives, or None and one more problem."""
    try:
        return work(*arguments)
    except FfnSearchError as error:
        problems.append(f"{key} ({loaded.origin(key)}): {error.message}")
    except OSError as error:
        problems.append(f"{key} ({loaded.origin(key)}): {error.strerror or error}; give a file that can be read")
    return None


def _snapshot(name: str, path: Path) -> SnapshotFound:
    manifest = read_manifest(path)
    check_sizes(path, manifest)
    return SnapshotFound(name, str(path), manifest.snapshot_id, manifest.substrings, manifest.total_bytes())


def _state(config: ServerConfig) -> CatalogState:
    """What a start would go on with. Raises StateError where it could not be read, or not be written."""
    stored = CatalogState()
    if folder := config.state_folder:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            raise StateError(f"{there} is no folder that can be written: choose another", reason="STATE_UNWRITABLE")
        stored = read_state(folder / STATE_FILE)
    return stored.merged(Configured.of(config), etag="")


def _require_places(config: ServerConfig, state: CatalogState) -> None:
    most = config.limits.snapshots_max
    if any(name in config.snapshots for name in list(state.snapshots)[most:]):  # a start only warns about others
        raise ExhaustedError(
            f"{len(state.snapshots)} snapshots are to be open, more than {most}: raise it, or leave some out",
            reason="TOO_MANY_SNAPSHOTS",
        )


def _require_bytes(config: ServerConfig, size_bytes: int) -> None:
    most = config.limits.snapshots_bytes_max
    if size_bytes > most:
        raise ExhaustedError(
            f"the snapshots have {size_bytes:,} bytes, more than {most:,}: raise it, or leave some out",
            reason="SNAPSHOTS_TOO_LARGE",
        )


def _places(config: ServerConfig) -> Iterator[tuple[str, str, int]]:
    yield "server.port", config.host, config.port
    if config.metrics.port is not None:
        yield "metrics.port", config.metrics.host, config.metrics.port


def _needs(config: ServerConfig) -> Iterator[tuple[str, Callable[[], object]]]:
    """Files, folders and extras that the settings name, each with what fails where it is not as it should be."""
    tls, admin = config.tls, config.admin
    if tls.certificate_file and tls.key_file:
        yield (
            "tls.certificate_file",
            partial(ServerTls.open, TlsFiles(tls.certificate_file, tls.key_file, tls.client_ca_file)),
        )
    if tokens_file := config.auth.tokens_file:
        check_ms_max = config.limits.tokens_check_ms_max
        yield "auth.tokens_file", partial(TokenStore.open, tokens_file, check_ms_max=check_ms_max)
    for key in ("snapshots_folder", "corpora_folder", "models_folder"):
        if folder := getattr(admin, key):
            yield f"admin.{key}", partial(os.listdir, folder)
    if config.tracing.endpoint:
        yield "tracing.endpoint", require_extra

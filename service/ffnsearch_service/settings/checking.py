"""What would happen? (settings -> what a start would find, without starting anything)."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ffnsearch_indexer.errors import FfnSearchError
from ffnsearch_indexer.store.snapshot import check_sizes, read_manifest
from ffnsearch_service.address import require_free
from ffnsearch_service.config import ServerConfig
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
    """Look at everything that a start needs: snapshots (sizes, no hashes), addresses, files, extras. Reads only."""
    config = loaded.config
    problems: list[str] = []
    snapshots = [
        found
        for name, path in config.snapshots.items()
        if (found := _tried(problems, loaded, f"snapshots.{name}", _snapshot, name, path))
    ]
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


def _places(config: ServerConfig) -> Iterator[tuple[str, str, int]]:
    yield "server.port", config.host, config.port
    if config.metrics.port is not None:
        yield "metrics.port", config.metrics.host, config.metrics.port


def _needs(config: ServerConfig) -> Iterator[tuple[str, Callable[[], object]]]:
    """Files, folders and extras that the settings name, each with what fails where it is not as it should be."""
    tls, admin = config.tls, config.administration
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

"""What an administrator's call gives: frozen results; `plain` (`results.py`) makes JSON of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ffnsearch_service.client.results import FidelitySummary

State = Literal["LOADING", "OPEN", "FAILED"]


@dataclass(frozen=True)
class Snapshot:
    """A snapshot that a server has, by name.

    folder: below the folder that the operator allows, "" for one of the configuration. etag: changes whenever the name
    gets another snapshot. aliases: those that point to it. leases: requests that it is answering. error: why it could
    not be opened, with state FAILED. info: as `Info.snapshot`; it and all fields after it are empty unless
    the state is OPEN.
    """

    name: str
    state: State
    folder: str
    etag: str
    aliases: tuple[str, ...]
    leases: int
    error: str
    info: Mapping[str, Any]
    model_sha256: str
    size_bytes: int
    default_profile_name: str
    fidelity: tuple[FidelitySummary, ...]


@dataclass(frozen=True)
class Alias:
    """An alias and the snapshot that it points to. etag: changes whenever the alias does."""

    name: str
    snapshot_name: str
    etag: str


@dataclass(frozen=True)
class OperationFailure:
    """Why a build did not succeed.

    code: name of the gRPC status code. reason: stable UPPER_SNAKE name. metadata: the variable parts of the message.
    """

    code: str
    reason: str
    message: str
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class BuildResult:
    """What a build gave. loaded: whether it was opened under its name. alias: what was moved to it, or ""."""

    name: str
    snapshot_id: str
    substrings: int
    loaded: bool
    alias: str


@dataclass(frozen=True)
class BuildOperation:
    """A build as it was when asked.

    name: `operations/ID`. snapshot_name: what it builds. fraction: share of the stage that is done, in [0, 1].
    units_per_second, seconds_left: None before they are known. Times are in seconds since the epoch. One of result and
    error is set once it is done.
    """

    name: str
    snapshot_name: str
    corpus: str
    done: bool
    stage: str
    fraction: float
    units_done: int
    units_total: int
    units_per_second: float | None
    seconds_left: float | None
    attempts: int
    created_s: float
    started_s: float | None
    ended_s: float | None
    result: BuildResult | None
    error: OperationFailure | None

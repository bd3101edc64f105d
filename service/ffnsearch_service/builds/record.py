"""What is known of a build: what was asked for, and how it went; one file each, so that a restart finds it."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ffnsearch_indexer.files import save_text
from ffnsearch_service.builds.progress import Progress
from ffnsearch_service.catalog import FidelityGate
from ffnsearch_service.pathless import without_paths

OPERATIONS = "operations"
"""The collection of all operations; the name of one is `operations/ID`."""

State = Literal["QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildSpec:
    """What to build. corpus, model: names below the allowed folders; model "" is the one that ffnsearch ships.

    fidelity_gate: what the measured fidelity must be for the alias to move.
    """

    name: str
    corpus: str
    model: str
    window_tokens: int
    split: str
    calibration_prompts: int
    load: bool
    alias: str
    evaluation_prompts: int = 0
    fidelity_gate: FidelityGate | None = None


@dataclass(frozen=True)
class BuildError:
    """Why a build did not succeed.

    code: number of the google.rpc.Code. message: one line without paths. metadata: its variable parts.
    """

    code: int
    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BuildResult:
    """What a build gave."""

    snapshot_id: str
    substrings: int


@dataclass(frozen=True)
class BuildRecord:
    """One build. Times are in seconds since the epoch.

    id: sorts by when it was made. attempts: how often its process was started. is_cancelled: whether its end was asked
    for. resumes: whether it goes on with a snapshot that an earlier build of the same left uncalibrated. progress: how
    far it came; None before it has ended.
    """

    id: str
    spec: BuildSpec
    created_s: float
    resumes: bool = False
    is_cancelled: bool = False
    state: State = "QUEUED"
    attempts: int = 0
    started_s: float | None = None
    ended_s: float | None = None
    result: BuildResult | None = None
    error: BuildError | None = None
    progress: Progress | None = None

    @property
    def is_done(self) -> bool:
        """Whether it has ended, one way or the other."""
        return self.state in ("SUCCEEDED", "FAILED", "CANCELLED")


def operation_name(id: str) -> str:
    """The name of a build's operation."""
    return f"{OPERATIONS}/{id}"


def write_record(folder: Path, record: BuildRecord) -> None:
    """Make a record durable in one step. Raises OSError."""
    text = json.dumps(asdict(record), indent=1, sort_keys=True) + "\n"
    save_text(record_file(folder, record.id), text)


def read_records(folder: Path) -> list[BuildRecord]:
    """All records of a folder, oldest first. One that cannot be read is logged and left alone."""
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            records.append(_record_of(json.loads(path.read_bytes())))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.error("%s cannot be read (%s): this build is not continued", path.name, without_paths(str(error)))
    return records


def record_file(folder: Path, id: str) -> Path:
    """Where the record of a build is."""
    return folder / f"{id}.json"


def _record_of(document: dict[str, Any]) -> BuildRecord:
    spec, result, error = document.pop("spec"), document.pop("result"), document.pop("error")
    gate, progress = spec.pop("fidelity_gate"), document.pop("progress", None)  # not yet in the oldest records
    return BuildRecord(
        spec=BuildSpec(**spec, fidelity_gate=FidelityGate(**gate) if gate else None),
        result=BuildResult(**result) if result else None,
        error=BuildError(**error) if error else None,
        progress=Progress(**progress) if progress else None,
        **document,
    )

"""How the administration's messages are read and written: requests become what is wanted, views become messages."""

from datetime import UTC, datetime

from google.longrunning import operations_pb2

from ffnsearch.v1 import admin_pb2 as pb
from ffnsearch_indexer.models.extraction import WINDOW_TOKENS_MAX
from ffnsearch_indexer.store.manifest import Manifest
from ffnsearch_service.answering.fidelity import fidelity_messages
from ffnsearch_service.answering.replies import snapshot_message
from ffnsearch_service.builds.builds import BuildView
from ffnsearch_service.builds.record import OPERATIONS, BuildRecord, BuildSpec, operation_name
from ffnsearch_service.catalog import AliasView, FidelityGate, SnapshotView
from ffnsearch_service.config import CALIBRATION_PROMPTS_DEFAULT, WINDOW_TOKENS_DEFAULT
from ffnsearch_service.confined import Folders
from ffnsearch_service.errors import AbsentError, RequestError
from ffnsearch_service.names import require_name
from ffnsearch_service.pathless import without_paths
from ffnsearch_service.protocols import PROTOCOLS
from ffnsearch_service.status import status_with

PROMPTS_MAX = 20_000
"""Most prompts of a calibration, and of a measurement."""

_STATES = {
    "LOADING": pb.SNAPSHOT_STATE_LOADING,
    "OPEN": pb.SNAPSHOT_STATE_OPEN,
    "FAILED": pb.SNAPSHOT_STATE_FAILED,
}


def snapshot_view_message(view: SnapshotView, folders: Folders) -> pb.Snapshot:
    """Describe a snapshot of the catalog."""
    message = pb.Snapshot(
        name=view.name,
        state=_STATES[view.state],
        folder=folders.name_of(view.folder),
        etag=view.etag,
        aliases=view.aliases,
        error=without_paths(view.error),
        leases=view.leases,
    )
    if view.manifest:
        message.MergeFrom(_content_message(view.manifest))
    return message


def alias_message(view: AliasView) -> pb.Alias:
    """Describe an alias."""
    return pb.Alias(name=view.name, snapshot_name=view.snapshot_name, etag=view.etag)


def gate_of(request: pb.MoveAliasRequest | pb.BuildSnapshotRequest) -> FidelityGate | None:
    """The gate of a request, None without one. Raises RequestError."""
    if not request.HasField("fidelity_gate"):
        return None
    gate = request.fidelity_gate
    return FidelityGate.of(gate.protocol, gate.hellinger_mean_max, field="fidelity_gate")


def build_spec(request: pb.BuildSnapshotRequest) -> BuildSpec:
    """What a request wants to be built, defaults filled in. Raises RequestError, which names the field."""
    if request.split not in ("", "all", "train"):
        raise RequestError(
            f"split: {request.split[:80]!r} is no split: choose all or train", reason="UNKNOWN_SPLIT", field="split"
        )
    if request.alias and not request.load:
        raise RequestError(
            "alias: it can only point to a snapshot that is open: set load too",
            reason="ALIAS_WITHOUT_LOAD",
            field="alias",
        )
    if request.alias and request.alias == request.name:
        raise RequestError(
            "alias: it is the name of the snapshot itself: choose another", reason="ALIAS_IS_NAME", field="alias"
        )
    split = request.split or "all"
    prompts = request.calibration_prompts if request.HasField("calibration_prompts") else CALIBRATION_PROMPTS_DEFAULT
    return BuildSpec(
        name=require_name(request.name, "name"),
        corpus=request.corpus,
        model=request.model,
        window_tokens=_in_range(request.window_tokens, "window_tokens", WINDOW_TOKENS_MAX) or WINDOW_TOKENS_DEFAULT,
        split=split,
        calibration_prompts=_in_range(prompts, "calibration_prompts", PROMPTS_MAX),
        load=request.load,
        alias=require_name(request.alias, "alias") if request.alias else "",
        evaluation_prompts=_in_range(request.evaluation_prompts, "evaluation_prompts", PROMPTS_MAX),
        fidelity_gate=_gate_of_build(request, split),
    )


def _gate_of_build(request: pb.BuildSnapshotRequest, split: str) -> FidelityGate | None:
    """The gate of a build, which must be able to read what was measured: better now than after hours of building."""
    gate = gate_of(request)
    if gate is None:
        return None
    if not (request.alias and request.evaluation_prompts):
        raise RequestError(
            "fidelity_gate: it is for an alias, and reads what was measured: set alias and evaluation_prompts too",
            reason="GATE_WITHOUT_ALIAS",
            field="fidelity_gate",
        )
    if PROTOCOLS[gate.protocol] != split:
        allowed = ", ".join(protocol for protocol, needed in PROTOCOLS.items() if needed == split)
        raise RequestError(
            f"fidelity_gate.protocol: with the split {split} {gate.protocol} is not measured: choose {allowed}",
            reason="PROTOCOL_NOT_ALLOWED",
            field="fidelity_gate.protocol",
        )
    return gate


def operation_message(view: BuildView) -> operations_pb2.Operation:
    """A build as an operation: how far it is, and in the end its response or its error."""
    record = view.record
    operation = operations_pb2.Operation(name=operation_name(record.id), done=record.is_done)
    operation.metadata.Pack(_metadata_message(view))
    if record.result:
        operation.response.Pack(
            pb.BuildSnapshotResponse(
                name=record.spec.name,
                snapshot_id=record.result.snapshot_id,
                substrings=record.result.substrings,
                loaded=record.spec.load,
                alias=record.spec.alias,
            )
        )
    elif record.error:
        error = record.error
        operation.error.CopyFrom(status_with(error.code, error.reason, error.message, error.metadata))
    return operation


def operation_id(name: str) -> str:
    """The build of an operation's name. Raises AbsentError for a name that no operation has."""
    collection, _, id = name.partition("/")
    if collection != OPERATIONS:
        raise AbsentError(f"there is no operation {name[:80]!r}: list them", reason="OPERATION_NOT_FOUND", field="name")
    return id


def _content_message(manifest: Manifest) -> pb.Snapshot:
    return pb.Snapshot(
        info=snapshot_message(manifest),
        model_sha256=manifest.model_sha256,
        size_bytes=manifest.total_bytes(),
        default_profile_name=manifest.default_profile,
        fidelity=fidelity_messages(manifest.fidelity),
    )


def _metadata_message(view: BuildView) -> pb.BuildSnapshotMetadata:
    record, progress = view.record, view.progress
    rate, seconds_left = progress.rate, progress.seconds_left
    return pb.BuildSnapshotMetadata(
        request=_request_message(record),
        create_time=_time(record.created_s),
        start_time=_time(record.started_s),
        end_time=_time(record.ended_s),
        attempts=record.attempts,
        stage=progress.stage,
        fraction=progress.fraction,
        units_done=progress.done,
        units_total=progress.total,
        units_per_second=rate,
        seconds_left=seconds_left,
    )


def _request_message(record: BuildRecord) -> pb.BuildSnapshotRequest:
    gate = record.spec.fidelity_gate
    return pb.BuildSnapshotRequest(**vars(record.spec) | {"fidelity_gate": gate and pb.FidelityGate(**vars(gate))})


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _in_range(value: int, field: str, most: int) -> int:
    if not 0 <= value <= most:
        raise RequestError(
            f"{field}: {value} is out of range: choose 0 to {most}", reason="BUILD_OPTION_OUT_OF_RANGE", field=field
        )
    return value

"""How the administration's responses are read: messages become frozen results."""

from typing import Any

from google.longrunning import operations_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from ffnsearch.v1 import admin_pb2 as pb
from ffnsearch_service.client.admin_results import Alias, BuildOperation, BuildResult, OperationFailure, Snapshot, State
from ffnsearch_service.client.reading import fidelity_summaries, scalars

_STATES: dict[int, State] = {
    pb.SNAPSHOT_STATE_LOADING: "LOADING",
    pb.SNAPSHOT_STATE_OPEN: "OPEN",
    pb.SNAPSHOT_STATE_FAILED: "FAILED",
}


def snapshot(message: pb.Snapshot) -> Snapshot:
    """Read a snapshot."""
    return Snapshot(
        name=message.name,
        state=_STATES[message.state],
        folder=message.folder,
        etag=message.etag,
        aliases=tuple(message.aliases),
        leases=message.leases,
        error=message.error,
        info=scalars(message.info) if message.HasField("info") else {},
        model_sha256=message.model_sha256,
        size_bytes=message.size_bytes,
        default_profile_name=message.default_profile_name,
        fidelity=fidelity_summaries(message.fidelity),
    )


def alias(message: pb.Alias) -> Alias:
    """Read an alias."""
    return Alias(message.name, message.snapshot_name, message.etag)


def build_operation(message: operations_pb2.Operation) -> BuildOperation:
    """Read the operation of a build."""
    metadata, response = pb.BuildSnapshotMetadata(), pb.BuildSnapshotResponse()
    message.metadata.Unpack(metadata)
    has_result = message.HasField("response") and message.response.Unpack(response)
    return BuildOperation(
        name=message.name,
        snapshot_name=metadata.request.name,
        corpus=metadata.request.corpus,
        done=message.done,
        stage=metadata.stage,
        fraction=metadata.fraction,
        units_done=metadata.units_done,
        units_total=metadata.units_total,
        units_per_second=metadata.units_per_second if metadata.HasField("units_per_second") else None,
        seconds_left=metadata.seconds_left if metadata.HasField("seconds_left") else None,
        attempts=metadata.attempts,
        created_s=metadata.create_time.ToMicroseconds() / 1e6,
        started_s=_seconds(metadata, "start_time"),
        ended_s=_seconds(metadata, "end_time"),
        result=BuildResult(**scalars(response)) if has_result else None,
        error=_failure(message.error) if message.HasField("error") else None,
    )


def _failure(status: status_pb2.Status) -> OperationFailure:
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        detail.Unpack(info)
    return OperationFailure(code_pb2.Code.Name(status.code), info.reason, status.message, dict(info.metadata))


def _seconds(message: Any, name: str) -> float | None:
    return getattr(message, name).ToMicroseconds() / 1e6 if message.HasField(name) else None

"""What does the end of a build's process mean?"""

import signal
from collections.abc import Mapping
from typing import Any

from google.rpc import code_pb2

from ffnsearch_service.builds.process import Ended
from ffnsearch_service.builds.record import BuildError, BuildResult
from ffnsearch_service.pathless import without_paths
from ffnsearch_service.status import error_message

_CODES = {
    "DISK_FULL": code_pb2.RESOURCE_EXHAUSTED,
    "OUTPUT_EXISTS": code_pb2.ALREADY_EXISTS,
    "OUTPUT_BUSY": code_pb2.ABORTED,
}


def result_of(document: Mapping[str, Any]) -> BuildResult:
    """Read what `ffnsearch build --json` printed."""
    return BuildResult(snapshot_id=document["snapshot_id"], substrings=document["substrings"])


def cancelled() -> BuildError:
    """The error of a build that somebody stopped."""
    return BuildError(
        code_pb2.CANCELLED, "CANCELLED", "the build was cancelled; the same request continues it, a delete discards it"
    )


def failure_of(ended: Ended) -> BuildError:
    """The error of a process that did not succeed."""
    if ended.error is not None:
        reason = ended.error["reason"]
        code = _CODES.get(reason, code_pb2.FAILED_PRECONDITION)
        return BuildError(code, reason, without_paths(ended.error["message"]))
    how = f"status {ended.status}" if ended.status >= 0 else f"signal {signal.Signals(-ended.status).name}"
    return BuildError(
        code_pb2.INTERNAL,
        "BUILD_CRASHED",
        f"the build ended with {how}: its log in the server's state folder says more; the same request continues it",
    )


def failure_of_error(error: Exception) -> BuildError:
    """The error of a build that could not be started, or whose snapshot could not be opened: that of such a call."""
    told = error_message(error)
    return BuildError(told.code, told.reason, without_paths(told.message), dict(told.metadata))

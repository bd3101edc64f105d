"""How errors become google.rpc.Status on the wire.

The codes follow AIP-193. What a caller can mend is INVALID_ARGUMENT, except a profile name that the snapshot does
not have: the name is well formed and another snapshot may have it, so that is NOT_FOUND. A class that is not in the
table is INTERNAL with an opaque id, whatever its message, which may name a path: the log has the failure under that
id, at level `debug` with message and stack trace; the reply has neither.
"""

import logging
import math
import secrets
from collections.abc import Mapping
from datetime import timedelta

from google.rpc import code_pb2, error_details_pb2, status_pb2

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_indexer.errors import (
    DEVICE_FAILED,
    DEVICE_MEMORY,
    CancelledError,
    DeviceError,
    FfnSearchError,
    LimitError,
    ProfileError,
    PromptError,
    TokenError,
)
from ffnsearch_service.errors import (
    AbsentError,
    AuthenticationError,
    ExhaustedError,
    LostUpdateError,
    OverloadedError,
    PresentError,
    RequestError,
    ScopeError,
    ShuttingDownError,
    StateError,
    UnreadError,
)

DOMAIN = "ffnsearch"
TEXT_CHARACTERS_MAX = 400
"""Longest message or metadata value: trailing metadata beyond 8 KiB may be dropped on the way."""

_CODE_OF_REASON: dict[str, int] = {
    "PROFILE_NOT_FOUND": code_pb2.NOT_FOUND,
    "DEADLINE_EXCEEDED": code_pb2.DEADLINE_EXCEEDED,
    "SNAPSHOT_NOT_READY": code_pb2.UNAVAILABLE,
}
_CODE_OF_CLASS: tuple[tuple[type[FfnSearchError], int], ...] = (
    (PromptError, code_pb2.INVALID_ARGUMENT),
    (TokenError, code_pb2.INVALID_ARGUMENT),
    (ProfileError, code_pb2.INVALID_ARGUMENT),
    (LimitError, code_pb2.INVALID_ARGUMENT),
    (RequestError, code_pb2.INVALID_ARGUMENT),
    (OverloadedError, code_pb2.RESOURCE_EXHAUSTED),
    (UnreadError, code_pb2.RESOURCE_EXHAUSTED),
    (AbsentError, code_pb2.NOT_FOUND),
    (PresentError, code_pb2.ALREADY_EXISTS),
    (StateError, code_pb2.FAILED_PRECONDITION),
    (LostUpdateError, code_pb2.ABORTED),
    (ExhaustedError, code_pb2.RESOURCE_EXHAUSTED),
    (ShuttingDownError, code_pb2.UNAVAILABLE),
    (CancelledError, code_pb2.CANCELLED),
    (AuthenticationError, code_pb2.UNAUTHENTICATED),
    (ScopeError, code_pb2.PERMISSION_DENIED),
)

_log = logging.getLogger(__name__)


def error_message(error: Exception) -> pb.PromptError:
    """What a caller is told of an error, of a prompt, a call or a build; logs what is not the caller's fault."""
    if isinstance(error, DeviceError):
        _log.error("a GPU failed (%s)", error.reason, exc_info=error)  # what its libraries say has paths of theirs
        is_full = error.reason == DEVICE_MEMORY
        message = "the server's GPU had too little memory for this call" if is_full else "the server's GPU failed"
        reason = DEVICE_MEMORY if is_full else DEVICE_FAILED
        return pb.PromptError(code=code_pb2.UNAVAILABLE, reason=reason, message=f"{message}: ask again later")
    code = _code(error)
    if code == code_pb2.INTERNAL or not isinstance(error, FfnSearchError):
        error_id = secrets.token_hex(8)
        _log.error("internal error %s", error_id, exc_info=error)
        message = f"internal error {error_id}: the server's log says more"
        return pb.PromptError(
            code=code_pb2.INTERNAL, reason="INTERNAL", message=message, metadata={"error_id": error_id}
        )
    metadata = {name: _shorten(value) for name, value in error.metadata.items() if name != "field"}
    return pb.PromptError(
        code=code,
        reason=error.reason,
        message=_shorten(error.message),
        field=error.metadata.get("field", ""),
        metadata=metadata,
    )


def status_of(error: Exception) -> status_pb2.Status:
    """Turn an error into the status of a whole call.

    It carries ErrorInfo; where a field is at fault, BadRequest; and where there was no room, RetryInfo.
    """
    shown = error_message(error)
    status = status_with(shown.code, shown.reason, shown.message, shown.metadata)
    if shown.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=shown.field, description=shown.message)
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, OverloadedError):
        delay = timedelta(milliseconds=math.ceil(1000 * error.retry_after_s))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def status_with(code: int, reason: str, message: str, metadata: Mapping[str, str]) -> status_pb2.Status:
    """A status with an ErrorInfo."""
    status = status_pb2.Status(code=code, message=message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata))
    return status


def _code(error: Exception) -> int:
    code: int = next((code for kind, code in _CODE_OF_CLASS if isinstance(error, kind)), code_pb2.INTERNAL)
    if code == code_pb2.INTERNAL or not isinstance(error, FfnSearchError):
        return code
    return _CODE_OF_REASON.get(error.reason, code)


def _shorten(text: str) -> str:
    return text if len(text) <= TEXT_CHARACTERS_MAX else text[: TEXT_CHARACTERS_MAX - 1] + "…"

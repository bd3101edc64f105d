"""How a failed call becomes an exception: google.rpc.Status from the wire, and what to do where there is none."""

from typing import Any

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from ffnsearch_service.errors import (
    AbortedError,
    AlreadyExistsError,
    CallCancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    ServiceError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)

_ERROR_OF_CODE: dict[str, type[ServiceError]] = {
    "INVALID_ARGUMENT": InvalidRequestError,
    "UNAUTHENTICATED": UnauthenticatedError,
    "PERMISSION_DENIED": PermissionDeniedError,
    "NOT_FOUND": NotFoundError,
    "ALREADY_EXISTS": AlreadyExistsError,
    "FAILED_PRECONDITION": FailedPreconditionError,
    "ABORTED": AbortedError,
    "RESOURCE_EXHAUSTED": ResourceExhaustedError,
    "DEADLINE_EXCEEDED": DeadlineExceededError,
    "CANCELLED": CallCancelledError,
    "UNIMPLEMENTED": UnimplementedError,
    "INTERNAL": InternalError,
    "UNAVAILABLE": UnavailableError,
}
_ADVICE = {
    "DEADLINE_EXCEEDED": "; allow more time, or send fewer prompts",
    "UNAVAILABLE": "; check the address, whether the server runs, and whether it wants TLS",
    "RESOURCE_EXHAUSTED": "; `info` shows the server's limits",
    "UNIMPLEMENTED": "; another service listens there, or another version",
}
"""What to do about a call that failed without a status of the server's, by code."""

_TOO_LARGE = "larger than max"
"""gRPC's own words of a message beyond a limit, a request or its response; the code is that of a busy server too."""

_SEND_LESS = "; send fewer prompts in a call, as predict_many does by itself; `info` shows the server's limits"


def service_error(error: Any, address: str) -> ServiceError:
    """Turn a failed call to `address`, a grpc.RpcError of either kind of client, into what a client raises."""
    code = error.code().name
    kind = _ERROR_OF_CODE.get(code, ServiceError)
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    try:
        status = rpc_status.from_call(error)
        for packed in status.details if status else ():
            for detail in (info, bad_request, retry):
                packed.Unpack(detail)
    except (ValueError, DecodeError):  # details that contradict the code, or cannot be read: some proxy's
        status = None
    if status is None:
        advice = _SEND_LESS if _TOO_LARGE in (error.details() or "") else _ADVICE.get(code, "")
        return kind(f"the call to {address} failed with {code}: {error.details()}{advice}", code=code, reason=code)
    return kind(
        status.message,
        code=code,
        reason=info.reason or code,
        field=bad_request.field_violations[0].field if bad_request.field_violations else "",
        metadata=dict(info.metadata),
        retry_after_s=retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None,
    )


def is_too_large(error: ResourceExhaustedError) -> bool:
    """Whether gRPC refused the request or its response for its size, so that fewer prompts might be answered."""
    return _TOO_LARGE in error.message

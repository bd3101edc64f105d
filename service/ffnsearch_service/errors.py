"""The service's branch of the error tree.

FfnSearchError
├── RequestError         a request with a field that cannot be honoured
├── OverloadedError      more at a time than the server takes
├── ShuttingDownError    a call that comes when the server is about to end
├── AddressError         an address that cannot be listened on or called
└── ServiceError         a call that failed, as a client sees it
    ├── InvalidRequestError       INVALID_ARGUMENT
    ├── NotFoundError             NOT_FOUND
    ├── DeadlineExceededError     DEADLINE_EXCEEDED
    └── UnavailableError          UNAVAILABLE: the one to retry
"""

from collections.abc import Mapping

from ffnsearch_indexer.errors import FfnSearchError


class RequestError(FfnSearchError):
    """A request with a field that cannot be honoured; `metadata["field"]` names it."""

    default_reason = "INVALID_REQUEST"


class OverloadedError(FfnSearchError):
    """More calls or prompts at a time than the server takes. retry_after_s: when there will be room, in seconds."""

    default_reason = "OVERLOADED"

    def __init__(self, message: str, *, retry_after_s: float, **metadata: object) -> None:
        super().__init__(message, reason=None, **metadata)
        self.retry_after_s = retry_after_s


class ShuttingDownError(FfnSearchError):
    """A call that comes when the server is about to end: another server may take it."""

    default_reason = "SHUTTING_DOWN"


class AddressError(FfnSearchError):
    """An address that cannot be listened on or called."""

    default_reason = "INVALID_ADDRESS"


class ServiceError(FfnSearchError):
    """A call that failed.

    code: name of the gRPC status code. reason: stable UPPER_SNAKE name. field: path of the request's field at
    fault, or "". metadata: the variable parts of the message, as strings.
    """

    def __init__(self, message: str, *, code: str, reason: str, field: str, metadata: Mapping[str, str]) -> None:
        super().__init__(message, reason=reason, **metadata)
        self.code = code
        self.field = field


class InvalidRequestError(ServiceError):
    """The request cannot be honoured, now or later."""


class NotFoundError(ServiceError):
    """The request names something that the snapshot does not have."""


class DeadlineExceededError(ServiceError):
    """The time allowed for the call has passed; the server has stopped working on it."""


class UnavailableError(ServiceError):
    """No server answers at the address, or it is going away: try again."""

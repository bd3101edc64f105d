"""The service's branch of the error tree.

FfnSearchError
├── RequestError         a request with a field that cannot be honoured
├── OverloadedError      more calls at a time than the server takes
├── SettingsError        settings that no server can run with
├── AddressError         an address that cannot be listened on or called
└── ServiceError         a call that failed, as a client sees it
    ├── InvalidRequestError       INVALID_ARGUMENT
    ├── NotFoundError             NOT_FOUND
    ├── DeadlineExceededError     DEADLINE_EXCEEDED
    └── UnavailableError          UNAVAILABLE: the one to retry
"""

from collections.abc import Mapping, Sequence

from ffnsearch_indexer.errors import FfnSearchError


class RequestError(FfnSearchError):
    """A request with a field that cannot be honoured; `metadata["field"]` names it."""

    default_reason = "INVALID_REQUEST"


class OverloadedError(FfnSearchError):
    """More calls at a time than the server takes."""

    default_reason = "OVERLOADED"


class SettingsError(FfnSearchError):
    """Settings that no server can run with; `problems` has a line for each one, with key, origin and next step."""

    default_reason = "INVALID_SETTINGS"

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(" ".join(problem.split()) for problem in problems)
        super().__init__("; ".join(self.problems))


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

"""The service's branch of the error tree.

FfnSearchError
├── RequestError         a request with a field that cannot be honoured
├── OverloadedError      more calls at a time than the server takes
├── AdminError           what an administrator asked for cannot be done now
│   ├── AbsentError               there is nothing of that name
│   ├── PresentError              there is something of that name already
│   ├── StateError                something must be done first
│   ├── LostUpdateError           somebody else was faster
│   └── ExhaustedError            a limit of the server is reached, or its disk is full
├── AddressError         an address that cannot be listened on or called
├── CredentialsError     a file of tokens, certificates or keys that must not be used
├── AuthenticationError  a call without a token that is valid now
├── ScopeError           a call that its token does not allow
└── ServiceError         a call that failed, as a client sees it
    ├── InvalidRequestError       INVALID_ARGUMENT
    ├── NotFoundError             NOT_FOUND
    ├── UnauthenticatedError      UNAUTHENTICATED
    ├── PermissionDeniedError     PERMISSION_DENIED
    ├── DeadlineExceededError     DEADLINE_EXCEEDED
    └── UnavailableError          UNAVAILABLE: the one to retry
"""

from collections.abc import Mapping

from ffnsearch_indexer.errors import FfnSearchError


class RequestError(FfnSearchError):
    """A request with a field that cannot be honoured; `metadata["field"]` names it."""

    default_reason = "INVALID_REQUEST"


class OverloadedError(FfnSearchError):
    """More calls at a time than the server takes."""

    default_reason = "OVERLOADED"


class AdminError(FfnSearchError):
    """What an administrator asked for cannot be done now. The message has no path."""

    default_reason = "ADMIN_REFUSED"


class AbsentError(AdminError):
    """There is nothing of that name."""


class PresentError(AdminError):
    """There is something of that name already."""


class StateError(AdminError):
    """Something must be done first; the message says what."""


class LostUpdateError(AdminError):
    """The etag is not the current one: somebody else was faster."""

    default_reason = "ETAG_MISMATCH"


class ExhaustedError(AdminError):
    """A limit of the server is reached, or its disk is full."""


class AddressError(FfnSearchError):
    """An address that cannot be listened on or called."""

    default_reason = "INVALID_ADDRESS"


class CredentialsError(FfnSearchError):
    """A file of tokens, certificates or keys that must not be used. Its message names the file: never on the wire."""

    default_reason = "INVALID_CREDENTIALS"


class AuthenticationError(FfnSearchError):
    """A call without a token, or whose token is unknown, expired or revoked: which of these is not told."""

    default_reason = "TOKEN_INVALID"


class ScopeError(FfnSearchError):
    """A call that its token does not allow; `metadata["scope"]` is the scope that is missing."""

    default_reason = "SCOPE_MISSING"


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


class UnauthenticatedError(ServiceError):
    """The server wants a token, or does not know this one (any more)."""


class PermissionDeniedError(ServiceError):
    """The token is valid and has not the scope that the call takes."""


class DeadlineExceededError(ServiceError):
    """The time allowed for the call has passed; the server has stopped working on it."""


class UnavailableError(ServiceError):
    """No server answers at the address, or it is going away: try again."""

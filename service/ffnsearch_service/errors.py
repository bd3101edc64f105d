"""The service's branch of the error tree.

FfnSearchError
├── RequestError         a request with a field that cannot be honoured
├── OverloadedError      more at a time than the server takes
├── UnreadError          a call of a client that does not read its responses
├── ShuttingDownError    something was asked of a server that is about to end
├── AdminError           what an administrator asked for cannot be done now
│   ├── AbsentError               there is nothing of that name
│   ├── PresentError              there is something of that name already
│   ├── StateError                something must be done first
│   ├── LostUpdateError           somebody else was faster
│   └── ExhaustedError            a limit of the server is reached, or its disk is full
├── AddressError         an address that cannot be listened on or called
├── SettingsError        settings that no server can run with
├── CredentialsError     a certificate, a key, a token or a file of them that must not or cannot be used
├── AuthenticationError  a call without a token that is valid now
├── ScopeError           a call that its token does not allow
└── ServiceError         a call that failed, as a client sees it
    ├── InvalidRequestError       INVALID_ARGUMENT
    ├── UnauthenticatedError      UNAUTHENTICATED: the caller is not known
    ├── PermissionDeniedError     PERMISSION_DENIED: the caller is known, and may not
    ├── NotFoundError             NOT_FOUND
    ├── AlreadyExistsError        ALREADY_EXISTS
    ├── FailedPreconditionError   FAILED_PRECONDITION: not in the state that things are in
    ├── AbortedError              ABORTED: somebody else was quicker (an etag that is out of date)
    ├── ResourceExhaustedError    RESOURCE_EXHAUSTED: too much at a time, or too large
    ├── DeadlineExceededError     DEADLINE_EXCEEDED
    ├── CallCancelledError        CANCELLED
    ├── UnimplementedError        UNIMPLEMENTED: switched off, or another version
    ├── InternalError             INTERNAL: the server's fault
    └── UnavailableError          UNAVAILABLE: the one that clients retry by themselves
"""

from collections.abc import Mapping, Sequence

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


class UnreadError(FfnSearchError):
    """A call that comes while too many bytes of earlier responses are unread."""

    default_reason = "RESPONSES_UNREAD"


class ShuttingDownError(FfnSearchError):
    """Something was asked of a server that is about to end: another server may do it."""

    default_reason = "SHUTTING_DOWN"

    def __init__(self) -> None:
        super().__init__("the server is shutting down: call another one, or try again later")


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


class SettingsError(FfnSearchError):
    """Settings that no server can run with; `problems` has a line for each one, with key, origin and next step."""

    default_reason = "INVALID_SETTINGS"

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(" ".join(problem.split()) for problem in problems)
        super().__init__("; ".join(self.problems))


class AddressError(FfnSearchError):
    """An address that cannot be listened on or called."""

    default_reason = "INVALID_ADDRESS"


class CredentialsError(FfnSearchError):
    """A certificate, a key, a token or a file of them that must not or cannot be used.

    Its message may name the file: never on the wire.
    """

    default_reason = "INVALID_CREDENTIALS"


class AuthenticationError(FfnSearchError):
    """A call without a token, or whose token is unknown, expired or revoked; the error does not say which."""

    default_reason = "TOKEN_INVALID"


class ScopeError(FfnSearchError):
    """A call that its token does not allow; `metadata["scope"]` is the scope that is missing."""

    default_reason = "SCOPE_MISSING"


class ServiceError(FfnSearchError):
    """A call that failed.

    code: name of the gRPC status code. reason: stable UPPER_SNAKE name. field: path of the request's field at
    fault, or "". metadata: the variable parts of the message, as strings. retry_after_s: seconds after which the
    server asks to come back (google.rpc.RetryInfo), None where it does not say.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        reason: str,
        field: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, reason=reason)
        self.metadata = dict(metadata or {})
        self.code = code
        self.field = field
        self.retry_after_s = retry_after_s


class InvalidRequestError(ServiceError):
    """The request cannot be honoured, now or later."""


class UnauthenticatedError(ServiceError):
    """The server does not know the caller: there is no token, or none that it accepts."""


class PermissionDeniedError(ServiceError):
    """The server knows the caller, and the token's scopes do not cover this call."""


class NotFoundError(ServiceError):
    """The request names something that is not there: a snapshot, or a profile of it."""


class AlreadyExistsError(ServiceError):
    """The request would make something that is there already."""


class FailedPreconditionError(ServiceError):
    """Things are not in a state in which this can be done; trying again does not help until they are."""


class AbortedError(ServiceError):
    """Somebody else was quicker: read again what is there, its etag included, and decide anew."""


class ResourceExhaustedError(ServiceError):
    """More at a time, or a larger message, than the server takes.

    With `retry_after_s` the server is busy, and that is when to come back. Without it, waiting alone does not help: the
    request or its reply is too large, or responses wait to be read.
    """


class DeadlineExceededError(ServiceError):
    """The time allowed for the call has passed; the server has stopped working on it."""


class CallCancelledError(ServiceError):
    """The call was given up before there was an answer, by this side or by a server that went away."""


class UnimplementedError(ServiceError):
    """The server does not have this call: it is switched off, or the server is of another version."""


class InternalError(ServiceError):
    """The server failed; `metadata["error_id"]` is where its log says more."""


class UnavailableError(ServiceError):
    """No server answers at the address, or it is going away. The client has tried again already."""

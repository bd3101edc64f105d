"""Every error that a user can meet, as one tree.

FfnSearchError
├── CorpusError          a text that cannot be read or indexed
├── TokenError           a character or token id outside the vocabulary
├── PromptError          a prompt that cannot be run
├── ProfileError         thresholds or weights that make no answer
├── ModelError           a model directory that cannot be loaded, or does not fit the request
├── SnapshotError        a snapshot that must not be opened
│   ├── FormatError      written by another version of the format
│   ├── MismatchError    made with another model, tokenizer or corpus
│   └── DamageError      a file is missing, truncated or altered
├── OutputError          a result that cannot be written (exists already, no room)
├── BackendError         a search backend or a device that is unknown or not there
│   └── DeviceError      a GPU that failed at work: no memory left, or gone
├── FidelityError        a measurement that a snapshot does not allow
│   └── ChangedError     one of profiles that are no longer those of the snapshot
├── LimitError           a request beyond a stated limit
└── CancelledError       the caller no longer wants the answer

A message says what is wrong, where, and what to do next. `reason` is the stable name that programs
test for (UPPER_SNAKE, also the reason of the gRPC ErrorInfo); `metadata` holds the variable parts.
"""


class FfnSearchError(Exception):
    """Base of the tree.

    message: one line for a person. reason: a stable UPPER_SNAKE name, by default that of the class.
    metadata: the variable parts of the message, turned into strings.
    """

    default_reason = "ERROR"

    def __init__(self, message: str, *, reason: str | None = None, **metadata: object) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata = {name: str(value) for name, value in metadata.items()}


class CorpusError(FfnSearchError):
    """A text that cannot be read or indexed."""

    default_reason = "INVALID_CORPUS"


class TokenError(FfnSearchError):
    """A character or token id outside the vocabulary."""

    default_reason = "UNKNOWN_TOKEN"


class PromptError(FfnSearchError):
    """A prompt that cannot be run."""

    default_reason = "INVALID_PROMPT"


class ProfileError(FfnSearchError):
    """Thresholds or weights that make no answer."""

    default_reason = "INVALID_PROFILE"


class ModelError(FfnSearchError):
    """A model directory that cannot be loaded, or does not fit what is asked of it."""

    default_reason = "INVALID_MODEL"


class SnapshotError(FfnSearchError):
    """A snapshot that must not be opened."""

    default_reason = "INVALID_SNAPSHOT"


class FormatError(SnapshotError):
    """A snapshot written by another version of the format."""

    default_reason = "UNKNOWN_FORMAT"


class MismatchError(SnapshotError):
    """A snapshot made with another model, tokenizer or corpus than it says or than is wanted."""

    default_reason = "SNAPSHOT_MISMATCH"


class DamageError(SnapshotError):
    """A snapshot with a file that is missing, truncated or altered."""

    default_reason = "DAMAGED_SNAPSHOT"


class OutputError(FfnSearchError):
    """A result that cannot be written."""

    default_reason = "OUTPUT_FAILED"


class BackendError(FfnSearchError):
    """A search backend or a device that is unknown or not there."""

    default_reason = "BACKEND_UNAVAILABLE"


DEVICE_MEMORY = "DEVICE_MEMORY"
"""The reason of a DeviceError after which other work may succeed."""

DEVICE_FAILED = "DEVICE_FAILED"
"""The reason of a DeviceError after which none will."""


class DeviceError(BackendError):
    """A GPU that failed at work; the reason is DEVICE_MEMORY or DEVICE_FAILED."""

    default_reason = DEVICE_FAILED


class FidelityError(FfnSearchError):
    """A measurement of fidelity that a snapshot does not allow, or has no prompts for."""

    default_reason = "INVALID_MEASUREMENT"


class ChangedError(FidelityError):
    """A measurement of profiles that are no longer those of the snapshot."""

    default_reason = "PROFILES_CHANGED"


class LimitError(FfnSearchError):
    """A request beyond a stated limit."""

    default_reason = "LIMIT_EXCEEDED"


class CancelledError(FfnSearchError):
    """The caller no longer wants the answer, or its deadline has passed."""

    default_reason = "CANCELLED"

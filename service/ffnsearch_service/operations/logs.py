"""How does a line of the log look, and which are written? (record -> text or JSON)."""

import json
import logging
import re
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

from ffnsearch_service.config import LoggingSettings
from ffnsearch_service.operations.record import CallRecord, current_call

FRAMES_MAX = 3
_NEVER_TOLD = ("logThreads", "logProcesses", "logMultiprocessing")
"""What `logging` collects for each record unless switched off, and no line of ours shows: half of a record's cost."""

_PLAIN = re.compile(r"[A-Za-z0-9_./:<>,+-]+")
_call_log = logging.getLogger("ffnsearch.call")


@contextmanager
def logging_to(settings: LoggingSettings, stream: IO[str] | None = None) -> Iterator[None]:
    """Let the whole process log to a stream, by default stderr, and afterwards to where it logged before.

    A failure is logged as its class and the functions it came through. Its message, which may quote what a caller
    sent, and the stack trace, which has paths, are written at level `debug` alone.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter((JsonLines if settings.format == "json" else TextLines)(traces=settings.level == "debug"))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    asked = {name: getattr(logging, name) for name in _NEVER_TOLD}
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    _set(dict.fromkeys(_NEVER_TOLD, False))
    try:
        yield
    finally:
        _set(asked)
        root.handlers[:] = handlers
        root.setLevel(level)


def log_call(record: CallRecord) -> None:
    """Write the one line of a call: no text, no path, no token of it.

    Probes and reflection are logged at `debug`; so are calls without a valid token, which are counted when refused.
    """
    is_quiet = record.method.startswith("grpc.") or record.code == "UNAUTHENTICATED"
    level = logging.DEBUG if is_quiet else logging.INFO
    if not _call_log.isEnabledFor(level):
        return
    fields = {
        "method": record.method,
        "code": record.code,
        "duration_ms": round(1e3 * record.duration_s, 3),
        "prompts": record.prompts,
        "snapshot": record.snapshot,
        "token": record.token_name,
    }
    extra = {"fields": {name: value for name, value in fields.items() if value is not None}}
    line = _call_log.makeRecord(_call_log.name, level, "", 0, "call", (), None, extra=extra)
    _call_log.handle(line)  # without a search through the stack for who logs: it is always here


class _Lines(logging.Formatter):
    """A record as a flat mapping, in the order in which it is read."""

    def __init__(self, *, traces: bool) -> None:
        super().__init__()
        self._traces = traces
        self._second = (0, "")

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """What a line says."""
        found = {
            "time": f"{self._written(int(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        call = current_call.get()
        if call is not None:
            found["request_id"] = call.request_id
        found |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1]:
            found["error"] = type(record.exc_info[1]).__name__
            found["where"] = _where(record.exc_info[1])
            if self._traces:
                found["trace"] = self.formatException(record.exc_info)
        return found

    def _written(self, second: int) -> str:
        """A second of Unix time as ISO 8601 has it; the last one is kept, as many lines share it."""
        known, text = self._second
        if known != second:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = (second, text)
        return text


class JsonLines(_Lines):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        return json.dumps(self.fields(record), default=str)


class TextLines(_Lines):
    """`TIME LEVEL LOGGER message name=value ...`; values with spaces or controls are quoted."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text; a stack trace, where one is wanted, follows in lines of its own."""
        fields = self.fields(record)
        trace = fields.pop("trace", None)
        head = " ".join(str(fields.pop(name)) for name in ("time", "level", "logger"))
        message = _one_line(fields.pop("message"))
        line = " ".join([head, message, *(f"{name}={_plain(value)}" for name, value in fields.items())])
        return f"{line}\n{trace}" if trace else line


def _set(asked: Mapping[str, bool]) -> None:
    for name, value in asked.items():
        setattr(logging, name, value)


def _message(record: logging.LogRecord) -> str:
    """What a record says; gRPC's own records without values, which quote the metadata of callers, tokens included."""
    return str(record.msg) if record.name.partition(".")[0] == "grpc" else record.getMessage()


def _where(error: BaseException) -> str:
    """The last functions that an error came through, innermost first: module, function and line, no path."""
    frames = list(traceback.walk_tb(error.__traceback__))[-FRAMES_MAX:]
    return " < ".join(
        f"{frame.f_globals.get('__name__')}.{frame.f_code.co_name}:{line}" for frame, line in reversed(frames)
    )


def _plain(value: Any) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _one_line(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)[1:-1]

"""What is known of a call? (its request id and all else, wherever its code runs)."""

import contextvars
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

REQUEST_ID_KEY = "x-request-id"
"""Metadata key of a request id, in a call and in its trailing metadata back."""

UNKNOWN_METHOD = "unknown"
"""Stands for methods that do not exist: callers may invent any number of names, of any length."""

_SANE = re.compile(r"[A-Za-z0-9._:-]{8,64}")
"""Ids that are accepted: long enough to be unique, short enough for every line, without what a log must escape."""

TIMED_STAGES = ("tokenize", "queue", "model", "search", "combine")
"""The stages of an answer in their order; the timings of a response have the nanoseconds of each, `STAGE_ns`."""


@dataclass
class CallRecord:
    """What is known of a call so far. Belongs to the call's task; others read only the id.

    method: full name, as in the path. started_ns, started_unix_ns: on the monotonic clock, and in Unix time.
    traceparent: the caller's, or None. prompts, snapshot: from the request; the name only where it is a sane one.
    code: name of the gRPC status code, once it is known. timings: stage times of the response, if it has them.
    token_name: name of the token that allowed the call, never the token; whoever checks it sets it.
    """

    request_id: str
    method: str
    traceparent: str | None = None
    started_ns: int = field(default_factory=time.perf_counter_ns)
    started_unix_ns: int = field(default_factory=time.time_ns)
    duration_s: float = 0.0
    code: str = ""
    prompts: int | None = None
    snapshot: str | None = None
    token_name: str | None = None
    timings: Any = None


current_call: contextvars.ContextVar[CallRecord | None] = contextvars.ContextVar("current_call", default=None)
"""The call that this code runs for, if any."""


def request_id_of(given: str | bytes | None) -> str:
    """The caller's id where it is sane, and a new one of 128 bits otherwise."""
    return given if isinstance(given, str) and _SANE.fullmatch(given) else secrets.token_hex(16)

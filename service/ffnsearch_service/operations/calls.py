"""What happens around every call? (it gets a request id and a record, and its start and end are reported)."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from ffnsearch_service.operations.record import REQUEST_ID_KEY, UNKNOWN_METHOD, CallRecord, current_call, request_id_of
from ffnsearch_service.security.handlers import Behavior, behavior_of, with_behavior

CLOCKS_S = 0.01
"""A call cancelled this shortly before its deadline has met it: a client gives up by its own clock."""

Begun = Callable[[], None]
Ended = Callable[[CallRecord, bool], None]


class CallWatch:
    """Makes the record of each call, and reports when the call has begun and, with the record, when it has ended.

    Refused calls are reported too. The request id goes back in the trailing metadata: initial metadata would cost one
    more message a call, and gRPC does not retry after them. Lives in one event loop.
    """

    def __init__(self, begun: Begun, ended: Ended) -> None:
        """Take what is called at the start, and at the end with the record and whether the call is unary."""
        self._begun = begun
        self._ended = ended

    def begin(self, details: Any, *, is_known: bool) -> CallRecord:
        """Make the record of a call, from here on the current one. is_known: whether there is such a method."""
        record = _record(details, details.method.removeprefix("/") if is_known else UNKNOWN_METHOD)
        current_call.set(record)
        return record

    def end_unknown(self, record: CallRecord) -> None:
        """Report a call of an unknown method, which gRPC answers itself."""
        record.code = "UNIMPLEMENTED"
        self._begun()
        self._ended(record, False)

    def watched(self, handler: Any) -> Any:
        """The same handler, with its calls reported; each must have a record."""
        return with_behavior(handler, self._answered(behavior_of(handler), is_unary=not handler.response_streaming))

    def _answered(self, behavior: Behavior, *, is_unary: bool) -> Behavior:
        async def watched(request: Any, context: Any) -> Any:
            record = current_call.get()
            assert record is not None, "a call has begun before it is answered"
            self._begun()
            try:
                context.set_trailing_metadata(((REQUEST_ID_KEY, record.request_id),))
                response = await behavior(request, context)
                record.code = _code(context, None)
                return response
            except BaseException as error:
                record.code = _code(context, error)
                raise
            finally:
                record.duration_s = (time.perf_counter_ns() - record.started_ns) / 1e9
                self._ended(record, is_unary)

        return watched


def _record(details: Any, method: str) -> CallRecord:
    metadata: Sequence[tuple[str, str | bytes]] = details.invocation_metadata or ()
    given = {key: value for key, value in metadata if key in (REQUEST_ID_KEY, "traceparent")}
    traceparent = given.get("traceparent")
    return CallRecord(
        request_id=request_id_of(given.get(REQUEST_ID_KEY)),
        method=method,
        traceparent=traceparent if isinstance(traceparent, str) else None,
    )


def _code(context: Any, error: BaseException | None) -> str:
    """Name of the status code with which a call ends."""
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        left_s = context.time_remaining()
        return "DEADLINE_EXCEEDED" if left_s is not None and left_s <= CLOCKS_S else "CANCELLED"
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        return code.name
    return "OK" if error is None else "UNKNOWN"

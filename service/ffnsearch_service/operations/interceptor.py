"""What happens around every call? (a request id, a record, and everyone who wants it told how the call ended)."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc

from ffnsearch_service.catalog.names import NAME
from ffnsearch_service.operations.callers import REQUEST_ID_KEY, UNKNOWN_METHOD, CallRecord, current_call, request_id_of

CLOCKS_S = 0.01
"""A client gives up by its own clock; so little before the deadline, that was the reason."""

Begun = Callable[[CallRecord], None]
Ended = Callable[[CallRecord, bool], None]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Makes the record of each call, and passes it on once the call has begun, and once it has ended.

    The first of a server's interceptors: it sees calls that the others refuse. The request id goes back in the
    initial metadata, so that a caller has it however the call ends.
    """

    def __init__(self, begun: Begun, ended: Ended) -> None:
        """Take what is called at the begin, and at the end with the record and whether the call is unary."""
        self._begun = begun
        self._ended = ended

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """The handler of a call, watched."""
        record = _record(handler_call_details)
        current_call.set(record)
        handler = await continuation(handler_call_details)
        if handler is None:
            record.method, record.code = UNKNOWN_METHOD, "UNIMPLEMENTED"
            self._begun(record)
            self._ended(record, False)
            return None
        sides = (handler.request_streaming, handler.response_streaming)
        kind = "_".join("stream" if is_streaming else "unary" for is_streaming in sides)
        watched = (self._streamed if handler.response_streaming else self._answered)(getattr(handler, kind), record)
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(watched, handler.request_deserializer, handler.response_serializer)

    def _answered(self, behavior: Callable[..., Awaitable[Any]], record: CallRecord) -> Callable[..., Awaitable[Any]]:
        async def watched(request: Any, context: Any) -> Any:
            self._begin(record, request)
            try:
                await _send_id(context, record)
                response = await behavior(request, context)
                record.code = _code(context, None)
                return response
            except BaseException as error:
                record.code = _code(context, error)
                raise
            finally:
                self._end(record, is_unary=True)

        return watched

    def _streamed(
        self, behavior: Callable[..., AsyncIterator[Any] | Awaitable[None]], record: CallRecord
    ) -> Callable[..., AsyncIterator[Any]]:
        async def watched(request: Any, context: Any) -> AsyncIterator[Any]:
            self._begin(record, request)
            try:
                await _send_id(context, record)
                responses = behavior(request, context)
                if isinstance(responses, AsyncIterator):
                    async for response in responses:
                        yield response
                else:  # a handler that writes by itself
                    await responses
                record.code = _code(context, None)
            except BaseException as error:
                record.code = _code(context, error)
                raise
            finally:
                self._end(record, is_unary=False)

        return watched

    def _begin(self, record: CallRecord, request: Any) -> None:
        prompts = getattr(request, "prompts", None)
        record.prompts = None if prompts is None else len(prompts)
        snapshot = getattr(request, "snapshot", None)
        record.snapshot = snapshot if isinstance(snapshot, str) and NAME.fullmatch(snapshot) else None
        self._begun(record)

    def _end(self, record: CallRecord, *, is_unary: bool) -> None:
        record.duration_s = (time.perf_counter_ns() - record.started_ns) / 1e9
        self._ended(record, is_unary)


def _record(details: Any) -> CallRecord:
    metadata: Sequence[tuple[str, str | bytes]] = details.invocation_metadata or ()
    given = {key: value for key, value in metadata if key in (REQUEST_ID_KEY, "traceparent")}
    traceparent = given.get("traceparent")
    return CallRecord(
        request_id=request_id_of(given.get(REQUEST_ID_KEY)),
        method=details.method.removeprefix("/"),
        traceparent=traceparent if isinstance(traceparent, str) else None,
    )


async def _send_id(context: Any, record: CallRecord) -> None:
    try:
        await context.send_initial_metadata(((REQUEST_ID_KEY, record.request_id),))
    except grpc.aio.InternalError:  # the caller has gone before the call has begun
        raise asyncio.CancelledError from None


def _code(context: Any, error: BaseException | None) -> str:
    """Name of the status code with which a call ends."""
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        left_s = context.time_remaining()
        return "DEADLINE_EXCEEDED" if left_s is not None and left_s <= CLOCKS_S else "CANCELLED"
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        return code.name
    return "OK" if error is None else "UNKNOWN"

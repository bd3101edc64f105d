"""How is a method's handler wrapped, whichever of the four kinds it is, and how is a call refused?"""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc

from ffnsearch_service.aborting import abort

Behavior = Callable[[Any, Any], Awaitable[Any]]
"""Takes a request, or an iterator of them, and the context; gives the response, or writes all to the context."""


def behavior_of(handler: Any) -> Behavior:
    """What a handler does, as a coroutine; what an asynchronous generator yields is written to the context."""
    behavior = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    if not inspect.isasyncgenfunction(behavior):
        return behavior  # type: ignore[no-any-return]

    async def written(request: Any, context: Any) -> None:
        async with aclosing(behavior(request, context)) as messages:
            async for message in messages:
                await context.write(message)

    return written


def with_behavior(handler: Any, behavior: Behavior, *, raw_requests: bool = False) -> Any:
    """A handler of the same kind with another behavior. raw_requests: the behavior gets bytes and parses them."""
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    deserializer = None if raw_requests else handler.request_deserializer
    return make(behavior, deserializer, handler.response_serializer)


def refusing(error: Exception) -> Any:
    """A handler that refuses: the status goes out before any of the request is read, for every kind of method."""

    async def refuse(_: AsyncIterator[bytes], context: Any) -> None:
        await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(refuse)

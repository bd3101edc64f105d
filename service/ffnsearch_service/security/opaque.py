"""What may a failed call tell? Never what gRPC would say of an exception: its class, its message, and so its paths."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from ffnsearch_service.aborting import abort
from ffnsearch_service.errors import RequestError
from ffnsearch_service.security.handlers import behavior_of, with_behavior


class OpaqueErrors(grpc.aio.ServerInterceptor):
    """Ends every call whose handler raises with the status of the error (`status.py`); the outermost interceptor.

    A request that is no message of its method is INVALID_ARGUMENT, where gRPC would answer UNKNOWN and the exception.
    """

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Wrap the handler of a method."""
        handler = await continuation(handler_call_details)
        return handler and with_behavior(handler, _opaque(handler), raw_requests=True)


def _opaque(handler: Any) -> Callable[[Any, Any], Awaitable[Any]]:
    behavior, read = behavior_of(handler), handler.request_deserializer or bytes

    async def answer(request: Any, context: Any) -> Any:
        try:
            message = _read_all(request, read) if handler.request_streaming else _read(request, read)
            return await behavior(message, context)
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except grpc.aio.InternalError:  # what was to be sent found nobody: not worth a line of the log
            raise asyncio.CancelledError from None
        except Exception as error:
            await abort(context, error)

    return answer


async def _read_all(requests: AsyncIterator[bytes], read: Callable[[bytes], Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _read(request, read)


def _read(request: bytes, read: Callable[[bytes], Any]) -> Any:
    try:
        return read(request)
    except Exception:
        raise RequestError(
            "the request is no message of this method: compare the .proto file", reason="MALFORMED_REQUEST"
        ) from None

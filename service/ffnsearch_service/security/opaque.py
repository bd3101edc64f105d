"""What may a failed call reveal? Not what gRPC would send of an exception: its class and message, and so its paths."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from ffnsearch_service.aborting import abort
from ffnsearch_service.errors import RequestError
from ffnsearch_service.security.handlers import behavior_of, with_behavior


def opaque(handler: Any) -> Any:
    """The same handler, except that what it raises ends the call with the status of the error (`status.py`).

    A request that cannot be parsed is INVALID_ARGUMENT; gRPC would answer UNKNOWN and quote the exception.
    """
    behavior, read = behavior_of(handler), handler.request_deserializer or bytes

    async def answer(request: Any, context: Any) -> Any:
        try:
            message = _read_all(request, read) if handler.request_streaming else _read(request, read)
            return await behavior(message, context)
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except grpc.aio.InternalError:  # the caller had gone before the response: not worth a line of the log
            raise asyncio.CancelledError from None
        except Exception as error:
            await abort(context, error)

    return with_behavior(handler, answer, raw_requests=True)


async def _read_all(requests: AsyncIterator[bytes], read: Callable[[bytes], Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _read(request, read)


def _read(request: bytes, read: Callable[[bytes], Any]) -> Any:
    try:
        return read(request)
    except Exception:
        raise RequestError(
            "the request cannot be parsed as a message of this method: compare the .proto file",
            reason="MALFORMED_REQUEST",
        ) from None

"""How does a handler end a call with an error? With the error's status, beside the trailing metadata already set."""

from typing import Any, NamedTuple

import grpc
from grpc_status import rpc_status

from ffnsearch_service.status import status_of


class _Ending(NamedTuple):
    """What gRPC wants of a status."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


async def abort(context: Any, error: Exception) -> None:
    """End a call with the status of an error and the trailing metadata already set; does not return.

    The error loses its traceback: gRPC keeps the exception in a reference cycle, and the traceback would keep a
    snapshot in memory that has long been unloaded.
    """
    status = rpc_status.to_status(status_of(error))
    error.__traceback__ = None
    told = tuple(context.trailing_metadata() or ())
    await context.abort_with_status(_Ending(status.code, status.details, (*told, *status.trailing_metadata)))

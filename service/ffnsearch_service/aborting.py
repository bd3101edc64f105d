"""How does a handler end a call with an error? With its status, beside what was to be told at the end anyway."""

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
    """End a call with the status of an error, and the trailing metadata that are set; does not return.

    The error lets go of its stack: gRPC keeps what was raised meanwhile, in a circle, and with it a snapshot would stay
    in memory that has long been unloaded.
    """
    status = rpc_status.to_status(status_of(error))
    error.__traceback__ = None
    told = tuple(context.trailing_metadata() or ())
    await context.abort_with_status(_Ending(status.code, status.details, (*told, *status.trailing_metadata)))

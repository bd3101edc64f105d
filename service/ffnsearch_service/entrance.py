"""What does a call pass on its way to its handler? The door, its record and the check of its token, without a pause.

gRPC's interceptors are coroutines around every call, and wrap its handler anew each time. Here gRPC asks for a method's
handler, which was wrapped when it was first asked for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from ffnsearch_service.door import Door
from ffnsearch_service.errors import AuthenticationError, ScopeError
from ffnsearch_service.operations.calls import CallWatch
from ffnsearch_service.security.guard import TokenGuard
from ffnsearch_service.security.handlers import refusing
from ffnsearch_service.security.opaque import opaque


class Entrance(grpc.GenericRpcHandler):
    """All services of a grpc.aio server, behind what protects and watches them. Lives in one event loop.

    To generated code, which registers services, it is the server.
    """

    def __init__(self, door: Door, watch: CallWatch, guard: TokenGuard | None = None) -> None:
        """Begin without services. guard: None lets everybody in."""
        self._door = door
        self._watch = watch
        self._guard = guard
        self._services: list[grpc.GenericRpcHandler] = []
        self._handlers: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Add services."""
        self._services.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Do nothing: the same methods come as generic handlers. gRPC would wait for calls of each method apart."""

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a call, or one that refuses it before its request is read; None for an unknown method."""
        refusal = self._door.refusal(handler_call_details.method)
        if refusal is not None:
            return refusing(refusal)
        handler = self._handler(handler_call_details)
        record = self._watch.begin(handler_call_details, is_known=handler is not None)
        if self._guard is not None:
            try:
                record.token_name = self._guard.admit(handler_call_details)
            except (AuthenticationError, ScopeError) as error:
                return self._watch.watched(refusing(error))
        if handler is None:
            self._watch.end_unknown(record)
        return handler

    def _handler(self, details: Any) -> Any:
        """The wrapped handler of a method that is there, or None."""
        known = self._handlers.get(details.method)
        if known is not None:
            return known
        found = next(filter(None, (service.service(details) for service in self._services)), None)
        if found is None:
            return None
        if self._guard is not None:
            found = self._guard.checked(found)
        self._handlers[details.method] = wrapped = self._watch.watched(opaque(found))
        return wrapped

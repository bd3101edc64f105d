"""How does a call get from the wire to the engine? As bytes, with its deadline; and its error back as a status."""

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import grpc

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_indexer.errors import DEVICE_FAILED, DeviceError
from ffnsearch_service.answering.call import Call
from ffnsearch_service.answering.engine import METHODS, Engine
from ffnsearch_service.names import NAME, PREDICTION_SERVICE
from ffnsearch_service.operations.record import current_call
from ffnsearch_service.outgoing import Outgoing

_log = logging.getLogger(__name__)


class PredictionServicer:
    """Answers the calls of the PredictionService from one engine, in one event loop.

    Messages stay bytes until the engine reads them: it decides what is read and written on the loop, and what is
    large enough to be done elsewhere.

    outgoing: what has been answered and not been read; to be looked at, not to be changed.
    """

    def __init__(self, engine: Engine, on_device_lost: Callable[[], None]) -> None:
        """Answer from an engine. on_device_lost: called in the loop when its GPU is gone, so that no answer follows."""
        self.outgoing = Outgoing(engine.limits)
        self._on_device_lost = on_device_lost
        self._engine = engine

    def add_to(self, server: Any) -> None:
        """Register the calls with a grpc.aio server that has not started."""
        handlers: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(self._answering(partial(self._engine.answer, name)))
            for name in METHODS
        }
        handlers["GetInfo"] = grpc.unary_unary_rpc_method_handler(
            self._answering(self._get_info), request_deserializer=pb.GetInfoRequest.FromString
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(PREDICTION_SERVICE, handlers),))

    def _answering(self, answer: Callable[[Any, Call], Awaitable[bytes]]) -> Any:
        """What gRPC calls for a request: `answer`, unless too much is unread, and what is known of the call noted."""
        outgoing = self.outgoing

        async def handle(request: Any, context: Any) -> bytes:
            call, peer = Call(context.time_remaining()), context.peer()
            try:
                outgoing.check(peer)
                response = await answer(request, call)
                context.add_done_callback(outgoing.hold(peer, response))
                return response
            except Exception as error:
                self._notice(error)
                raise
            finally:
                _note(call)

        return handle

    async def _get_info(self, request: pb.GetInfoRequest, call: Call) -> bytes:
        call.snapshot = request.snapshot
        return self._engine.get_info(request).SerializeToString()

    def _notice(self, error: Exception) -> None:
        if isinstance(error, DeviceError) and error.reason == DEVICE_FAILED:
            _log.error("no prediction is answered any more: %s", error.message)
            self._on_device_lost()


def _note(call: Call) -> None:
    """Tell those who keep count what is known of a call."""
    record = current_call.get()
    if record is not None:
        record.prompts, record.timings = call.prompts, call.timings
        record.snapshot = call.snapshot if call.snapshot and NAME.fullmatch(call.snapshot) else None

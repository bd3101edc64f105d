"""How does a call get from the wire to the engine? As bytes, with its deadline; and its error back as a status."""

from typing import Any

import grpc

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_service.aborting import abort
from ffnsearch_service.answering.call import Call
from ffnsearch_service.answering.engine import METHODS, Engine
from ffnsearch_service.catalog.names import NAME
from ffnsearch_service.operations.callers import current_call

SERVICE = pb.DESCRIPTOR.services_by_name["PredictionService"].full_name


class PredictionServicer:
    """Answers the calls of the PredictionService from one engine, in one event loop.

    Messages stay bytes until the engine reads them: it decides what is read and written on the loop, and what is
    large enough to be done elsewhere.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add_to(self, server: Any) -> None:
        """Register the calls with a grpc.aio server that has not started."""
        handlers: dict[str, Any] = {name: grpc.unary_unary_rpc_method_handler(self._handler(name)) for name in METHODS}
        handlers["GetInfo"] = grpc.unary_unary_rpc_method_handler(
            self._get_info,
            request_deserializer=pb.GetInfoRequest.FromString,
            response_serializer=pb.GetInfoResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    def _handler(self, method: str) -> Any:
        answer = self._engine.answer

        async def handle(data: bytes, context: Any) -> Any:
            call = Call(context.time_remaining())
            try:
                return await answer(method, data, call)
            except Exception as error:
                await abort(context, error)
            finally:
                _note(call)

        return handle

    async def _get_info(self, request: pb.GetInfoRequest, context: Any) -> Any:
        try:
            return self._engine.get_info(request)
        except Exception as error:
            await abort(context, error)


def _note(call: Call) -> None:
    """Tell those who keep count what is known of a call."""
    record = current_call.get()
    if record is not None:
        record.prompts, record.timings = call.prompts, call.timings
        record.snapshot = call.snapshot if call.snapshot and NAME.fullmatch(call.snapshot) else None

"""How the administration's calls get from the event loop to what they do, and back.

The loop never touches a disk: short calls share some threads, loads have threads of their own, so that a load never
keeps anybody waiting. A caller that goes away does not end what it began.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar

import grpc
from google.longrunning import operations_pb2
from google.protobuf.message_factory import GetMessageClass

from ffnsearch.v1 import admin_pb2 as pb
from ffnsearch_service.admin.administration import Administration
from ffnsearch_service.admin.waiting import Waits
from ffnsearch_service.config import Limits
from ffnsearch_service.names import ADMIN_SERVICE, OPERATIONS_SERVICE
from ffnsearch_service.security.handlers import Behavior

Result = TypeVar("Result")

SHORT_CALLS_AT_A_TIME = 4
LOADS_AT_A_TIME = 2
"""Each reads its files with several threads already; a third load waits for its turn."""
WAIT_S_MAX = 3600.0
"""Longest that WaitOperation waits; a caller that wants more asks again."""


class AdminServices:
    """AdminService and Operations: their calls, the threads on which these run, and who waits. Lives in one event loop.

    Close it when no call is in flight.
    """

    def __init__(self, administration: Administration, limits: Limits) -> None:
        self._admin = administration
        self._short = ThreadPoolExecutor(SHORT_CALLS_AT_A_TIME, thread_name_prefix="ffnsearch-admin")
        self._loads = ThreadPoolExecutor(LOADS_AT_A_TIME, thread_name_prefix="ffnsearch-load")
        self._running: set[asyncio.Future[Any]] = set()
        self._waits = Waits(lambda: _on(self._short, administration.unfinished_operations), limits.waits_max)

    def add_to(self, server: Any) -> tuple[str, str]:
        """Let a grpc.aio server answer both services, and return their names, for reflection and health."""
        admin, short = self._admin, self._short_call
        _register(
            server,
            pb.DESCRIPTOR.services_by_name["AdminService"],
            {
                "ListSnapshots": short(admin.list_snapshots),
                "GetSnapshot": short(admin.get_snapshot),
                "LoadSnapshot": self._load,
                "UnloadSnapshot": short(admin.unload_snapshot),
                "ListAliases": short(admin.list_aliases),
                "GetAlias": short(admin.get_alias),
                "MoveAlias": short(admin.move_alias),
                "DeleteAlias": short(admin.delete_alias),
                "BuildSnapshot": short(admin.build_snapshot),
            },
        )
        _register(
            server,
            operations_pb2.Operation.DESCRIPTOR.file.services_by_name["Operations"],
            {
                "ListOperations": short(admin.list_operations),
                "GetOperation": short(admin.get_operation),
                "CancelOperation": short(admin.cancel_operation),
                "DeleteOperation": short(admin.delete_operation),
                "WaitOperation": self._wait,
            },
        )
        return ADMIN_SERVICE, OPERATIONS_SERVICE

    @property
    def loads(self) -> int:
        """How many loads run or wait for their turn, whether or not anybody waits for them."""
        return len(self._running)

    async def drain(self) -> None:
        """Begin the end: callers that wait for an operation get it as it is, and the builds stop."""
        self._waits.end()
        await _on(self._short, self._admin.stop_builds)

    async def close(self) -> None:
        """Stop the loads, and wait until nothing runs; what has not begun is dropped."""
        self._admin.stop_loads()
        for threads in (self._short, self._loads):
            await asyncio.to_thread(threads.shutdown, wait=True, cancel_futures=True)

    def _short_call(self, work: Callable[[Any], Any]) -> Behavior:
        async def call(request: Any, context: Any) -> Any:
            return await _on(self._short, work, request)

        return call

    async def _load(self, request: pb.LoadSnapshotRequest, context: Any) -> pb.LoadSnapshotResponse:
        load = asyncio.get_running_loop().run_in_executor(self._loads, self._admin.load_snapshot, request)
        self._running.add(load)
        load.add_done_callback(self._running.discard)
        return await asyncio.shield(load)

    async def _wait(self, request: operations_pb2.WaitOperationRequest, context: Any) -> operations_pb2.Operation:
        """Answer when the operation has ended, or with how far it is when the timeout has passed or the end begins."""
        timeout_s = request.timeout.ToNanoseconds() / 1e9 if request.HasField("timeout") else WAIT_S_MAX
        asked = operations_pb2.GetOperationRequest(name=request.name)
        operation = await _on(self._short, self._admin.get_operation, asked)
        if operation.done or timeout_s <= 0:
            return operation
        await self._waits.until_ended(request.name, min(timeout_s, WAIT_S_MAX))
        return await _on(self._short, self._admin.get_operation, asked)


def _register(server: Any, service: Any, calls: Mapping[str, Behavior]) -> None:
    """Let a server answer every method of a service, a descriptor, with the call of its name."""
    handlers = {
        method.name: grpc.unary_unary_rpc_method_handler(
            calls[method.name],
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )
        for method in service.methods
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))


async def _on(threads: Executor, work: Callable[..., Result], *arguments: Any) -> Result:
    """What work on other threads gives; it is done even if nobody waits for it any more."""
    return await asyncio.shield(asyncio.get_running_loop().run_in_executor(threads, work, *arguments))

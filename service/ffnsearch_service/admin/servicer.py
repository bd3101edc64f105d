"""How the administration's calls get from the event loop to what they do, and back.

The loop never touches a disk: short calls share some threads, loads have threads of their own, so that a load never
keeps anybody waiting. A caller that goes away does not end what it began.
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar

from google.longrunning import operations_pb2, operations_pb2_grpc

from ffnsearch.v1 import admin_pb2 as pb
from ffnsearch.v1 import admin_pb2_grpc as pb_grpc
from ffnsearch_service.admin.administration import Administration
from ffnsearch_service.admin.waiting import Waits
from ffnsearch_service.config import Limits

Result = TypeVar("Result")

ADMIN_SERVICE: str = pb.DESCRIPTOR.services_by_name["AdminService"].full_name
OPERATIONS_SERVICE: str = operations_pb2.Operation.DESCRIPTOR.file.services_by_name["Operations"].full_name

SHORT_CALLS_AT_A_TIME = 4
LOADS_AT_A_TIME = 2
"""Each reads its files with several threads already; a third load waits for its turn."""
WAIT_S_MAX = 3600.0
"""Longest that WaitOperation waits; who wants more asks again."""


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
        pb_grpc.add_AdminServiceServicer_to_server(_AdminServicer(self._admin, self._short, self._load), server)
        operations = _OperationsServicer(self._admin, self._short, self._waits)
        operations_pb2_grpc.add_OperationsServicer_to_server(operations, server)
        return ADMIN_SERVICE, OPERATIONS_SERVICE

    @property
    def loads(self) -> int:
        """How many loads run or wait for their turn, whether or not anybody waits for them."""
        return len(self._running)

    async def drain(self) -> None:
        """Begin the end: who waits for an operation gets it as it is, and the builds are told to stop."""
        self._waits.end()
        await _on(self._short, self._admin.stop_builds)

    async def close(self) -> None:
        """Stop the loads, and wait until nothing runs; what has not begun is dropped."""
        self._admin.stop_loads()
        for threads in (self._short, self._loads):
            await asyncio.to_thread(threads.shutdown, wait=True, cancel_futures=True)

    async def _load(self, request: pb.LoadSnapshotRequest) -> pb.LoadSnapshotResponse:
        load = asyncio.get_running_loop().run_in_executor(self._loads, self._admin.load_snapshot, request)
        self._running.add(load)
        load.add_done_callback(self._running.discard)
        return await asyncio.shield(load)


class _AdminServicer(pb_grpc.AdminServiceServicer):
    def __init__(self, administration: Administration, short: Executor, load: Callable[[Any], Awaitable[Any]]) -> None:
        self._admin = administration
        self._short = short
        self._load = load

    async def ListSnapshots(self, request: Any, context: Any) -> Any:
        return await _on(self._short, self._admin.list_snapshots, request)

    async def GetSnapshot(self, request: Any, context: Any) -> Any:
        return await _on(self._short, self._admin.get_snapshot, request)

    async def LoadSnapshot(self, request: Any, context: Any) -> Any:
        return await self._load(request)

    async def UnloadSnapshot(self, request: Any, context: Any) -> Any:
        return await _on(self._short, self._admin.unload_snapshot, request)

    async def ListAliases(self, request: Any, context: Any) -> Any:
        return await _on(self._short, self._admin.list_aliases, request)

    async def GetAlias(self, request: Any, context: Any) -> Any:
        return await _on(self._short, self._admin.get_alias, request)

    async def MoveAlias(self, request: Any, context: Any) -> Any:
        return await _on(self._short, self._admin.move_alias, request)

    async def DeleteAlias(self, request: Any, context: Any) -> Any:
        return await _on(self._short, self._admin.delete_alias, request)

    async def BuildSnapshot(self, request: Any, context: Any) -> Any:
        return await _on(self._short, self._admin.build_snapshot, request)


class _OperationsServicer(operations_pb2_grpc.OperationsServicer):  # type: ignore[misc]
    def __init__(self, administration: Administration, short: Executor, waits: Waits) -> None:
        self._admin = administration
        self._short = short
        self._waits = waits

    async def ListOperations(self, request: Any, context: Any) -> Any:
        return await _on(self._short, self._admin.list_operations, request)

    async def GetOperation(self, request: Any, context: Any) -> Any:
        return await _on(self._short, self._admin.get_operation, request)

    async def CancelOperation(self, request: Any, context: Any) -> Any:
        return await _on(self._short, self._admin.cancel_operation, request)

    async def DeleteOperation(self, request: Any, context: Any) -> Any:
        return await _on(self._short, self._admin.delete_operation, request)

    async def WaitOperation(self, request: operations_pb2.WaitOperationRequest, context: Any) -> Any:
        """Answer when the operation has ended, or with how far it is when the timeout has passed or the end begins."""
        timeout_s = _seconds(request.timeout) if request.HasField("timeout") else WAIT_S_MAX
        asked = operations_pb2.GetOperationRequest(name=request.name)
        operation = await self.GetOperation(asked, context)
        if operation.done or timeout_s <= 0:
            return operation
        await self._waits.until_ended(request.name, min(timeout_s, WAIT_S_MAX))
        return await self.GetOperation(asked, context)


async def _on(threads: Executor, work: Callable[..., Result], *arguments: Any) -> Result:
    """What work on other threads gives; it is done even if nobody waits for it any more."""
    return await asyncio.shield(asyncio.get_running_loop().run_in_executor(threads, work, *arguments))


def _seconds(duration: Any) -> float:
    return float(duration.seconds + duration.nanos / 1e9)

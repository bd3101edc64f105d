"""How the administration's calls get from the event loop to what they do, and back.

The loop never touches a disk: short calls share some threads, loads have threads of their own, so that a load never
keeps anybody waiting. A caller that goes away does not end what it began.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from google.longrunning import operations_pb2, operations_pb2_grpc

from ffnsearch.v1 import admin_pb2 as pb
from ffnsearch.v1 import admin_pb2_grpc as pb_grpc
from ffnsearch_service.aborting import abort
from ffnsearch_service.admin.administration import Administration

ADMIN_SERVICE: str = pb.DESCRIPTOR.services_by_name["AdminService"].full_name
OPERATIONS_SERVICE: str = operations_pb2.Operation.DESCRIPTOR.file.services_by_name["Operations"].full_name

SHORT_CALLS_AT_A_TIME = 4
LOADS_AT_A_TIME = 2
"""Each reads its files with several threads already; a third load waits for its turn."""
WAIT_INTERVAL_S = 0.05
"""How often WaitOperation looks whether the operation has ended."""
WAIT_S_MAX = 3600.0


class AdminThreads:
    """The threads on which the calls run. Close it when no call is in flight."""

    def __init__(self) -> None:
        self.short = ThreadPoolExecutor(SHORT_CALLS_AT_A_TIME, thread_name_prefix="ffnsearch-admin")
        self.loads = ThreadPoolExecutor(LOADS_AT_A_TIME, thread_name_prefix="ffnsearch-load")

    def close(self) -> None:
        """Wait for what runs, a load included; what has not begun is dropped."""
        for threads in (self.short, self.loads):
            threads.shutdown(wait=True, cancel_futures=True)


def add_admin_services(server: Any, administration: Administration, threads: AdminThreads) -> tuple[str, str]:
    """Let a grpc.aio server answer AdminService and Operations, and return their names, for reflection and health."""
    pb_grpc.add_AdminServiceServicer_to_server(_AdminServicer(administration, threads), server)
    operations_pb2_grpc.add_OperationsServicer_to_server(_OperationsServicer(administration, threads), server)
    return ADMIN_SERVICE, OPERATIONS_SERVICE


class _AdminServicer(pb_grpc.AdminServiceServicer):
    def __init__(self, administration: Administration, threads: AdminThreads) -> None:
        self._admin = administration
        self._threads = threads

    async def ListSnapshots(self, request: Any, context: Any) -> Any:
        return await _answer(self._admin.list_snapshots, request, context, self._threads.short)

    async def GetSnapshot(self, request: Any, context: Any) -> Any:
        return await _answer(self._admin.get_snapshot, request, context, self._threads.short)

    async def LoadSnapshot(self, request: Any, context: Any) -> Any:
        return await _answer(self._admin.load_snapshot, request, context, self._threads.loads)

    async def UnloadSnapshot(self, request: Any, context: Any) -> Any:
        return await _answer(self._admin.unload_snapshot, request, context, self._threads.short)

    async def ListAliases(self, request: Any, context: Any) -> Any:
        return await _answer(self._admin.list_aliases, request, context, self._threads.short)

    async def GetAlias(self, request: Any, context: Any) -> Any:
        return await _answer(self._admin.get_alias, request, context, self._threads.short)

    async def MoveAlias(self, request: Any, context: Any) -> Any:
        return await _answer(self._admin.move_alias, request, context, self._threads.short)

    async def DeleteAlias(self, request: Any, context: Any) -> Any:
        return await _answer(self._admin.delete_alias, request, context, self._threads.short)

    async def BuildSnapshot(self, request: Any, context: Any) -> Any:
        return await _answer(self._admin.build_snapshot, request, context, self._threads.short)


class _OperationsServicer(operations_pb2_grpc.OperationsServicer):  # type: ignore[misc]
    def __init__(self, administration: Administration, threads: AdminThreads) -> None:
        self._admin = administration
        self._threads = threads

    async def ListOperations(self, request: Any, context: Any) -> Any:
        return await _answer(self._admin.list_operations, request, context, self._threads.short)

    async def GetOperation(self, request: Any, context: Any) -> Any:
        return await _answer(self._admin.get_operation, request, context, self._threads.short)

    async def CancelOperation(self, request: Any, context: Any) -> Any:
        return await _answer(self._admin.cancel_operation, request, context, self._threads.short)

    async def DeleteOperation(self, request: Any, context: Any) -> Any:
        return await _answer(self._admin.delete_operation, request, context, self._threads.short)

    async def WaitOperation(self, request: operations_pb2.WaitOperationRequest, context: Any) -> Any:
        """Answer when the operation has ended, or with how far it is when the timeout has passed."""
        timeout_s = _seconds(request.timeout) if request.HasField("timeout") else WAIT_S_MAX
        ends_s = time.monotonic() + min(timeout_s, WAIT_S_MAX)
        asked = operations_pb2.GetOperationRequest(name=request.name)
        while True:
            operation = await self.GetOperation(asked, context)
            if operation.done or time.monotonic() >= ends_s:
                return operation
            await asyncio.sleep(WAIT_INTERVAL_S)


async def _answer(method: Callable[[Any], Any], request: Any, context: Any, threads: Executor) -> Any:
    try:
        return await asyncio.get_running_loop().run_in_executor(threads, method, request)
    except Exception as error:
        await abort(context, error)


def _seconds(duration: Any) -> float:
    return float(duration.seconds + duration.nanos / 1e9)

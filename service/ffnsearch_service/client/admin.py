"""`AdminClient`: how is a running server given other snapshots?"""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, Unpack

from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from ffnsearch.v1 import admin_pb2 as pb
from ffnsearch.v1 import admin_pb2_grpc as pb_grpc
from ffnsearch_service.client import admin_reading as reading
from ffnsearch_service.client.admin_results import Alias, BuildOperation, Snapshot
from ffnsearch_service.client.asking import message
from ffnsearch_service.client.call import Caller
from ffnsearch_service.client.channel import AccessOptions, Bearer, open_channel
from ffnsearch_service.client.readiness import health_stub, wait_until_ready
from ffnsearch_service.closing import Closing
from ffnsearch_service.config import CALL_TIMEOUT_S, LOAD_TIMEOUT_S
from ffnsearch_service.errors import DeadlineExceededError, ResourceExhaustedError
from ffnsearch_service.names import ADMIN_SERVICE

POLL_S = 1.0
"""Longest WaitOperation that `wait` sends, and so the time between two reports of progress."""


class AdminClient(Closing):
    """Administers the server at `address`, `host:port`. Safe to share between threads. Failed calls raise ServiceError.

    timeout_s: time allowed for a call, unless the call gives its own. The other options are those of AccessOptions,
    which raise CredentialsError. A failed call is not repeated: read the current state, decide, and repeat it with the
    etag that was read.
    """

    def __init__(self, address: str, *, timeout_s: float = CALL_TIMEOUT_S, **access: Unpack[AccessOptions]) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._caller = Caller(address, Bearer(address, access), timeout_s=timeout_s, retry_overloaded=False)
        self._channel = open_channel(address, access)
        self._admin = pb_grpc.AdminServiceStub(self._channel)
        self._operations = operations_pb2_grpc.OperationsStub(self._channel)
        self._health = health_stub(self._channel)

    def wait_for_ready(self, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Return once the server can be administered, whether it has a snapshot or not; as `Client.wait_for_ready`."""
        wait_until_ready(self._caller, self._health, timeout_s, service=ADMIN_SERVICE)

    def snapshots(self) -> Iterator[Snapshot]:
        """All snapshots by name, a call a page."""
        return map(reading.snapshot, self._pages(self._admin.ListSnapshots, pb.ListSnapshotsRequest(), "snapshots"))

    def snapshot(self, name: str) -> Snapshot:
        """One snapshot, by its name or an alias."""
        return reading.snapshot(self._ask(self._admin.GetSnapshot, pb.GetSnapshotRequest, name=name).snapshot)

    def load(self, name: str, folder: str = "", *, timeout_s: float = LOAD_TIMEOUT_S) -> Snapshot:
        """Open the snapshot in a folder, by default that of its name; returns when it is open.

        The load goes on if the deadline passes: `snapshot` shows how it went, FAILED where it failed.
        """
        request = message(pb.LoadSnapshotRequest, name=name, folder=folder)
        return reading.snapshot(self._send(self._admin.LoadSnapshot, request, timeout_s).snapshot)

    def unload(self, name: str, *, etag: str = "") -> None:
        """Take a snapshot's name away; requests in flight end on it."""
        self._ask(self._admin.UnloadSnapshot, pb.UnloadSnapshotRequest, name=name, etag=etag)

    def aliases(self) -> Iterator[Alias]:
        """All aliases by name, a call a page."""
        return map(reading.alias, self._pages(self._admin.ListAliases, pb.ListAliasesRequest(), "aliases"))

    def alias(self, name: str) -> Alias:
        """Where an alias points."""
        return reading.alias(self._ask(self._admin.GetAlias, pb.GetAliasRequest, name=name).alias)

    def move_alias(
        self,
        name: str,
        snapshot_name: str,
        *,
        etag: str = "",
        allow_missing: bool = False,
        gate: tuple[str, float] | None = None,
    ) -> Alias:
        """Let an alias point to another snapshot.

        etag: what the alias had when it was read, "" for any. allow_missing: make it where there is none. gate:
        protocol and largest mean Hellinger distance that the snapshot must have recorded.
        """
        moved = self._ask(
            self._admin.MoveAlias,
            pb.MoveAliasRequest,
            name=name,
            snapshot_name=snapshot_name,
            etag=etag,
            allow_missing=allow_missing,
            fidelity_gate=gate and _gate_message(gate),
        )
        return reading.alias(moved.alias)

    def delete_alias(self, name: str, *, etag: str = "") -> None:
        """Delete an alias."""
        self._ask(self._admin.DeleteAlias, pb.DeleteAliasRequest, name=name, etag=etag)

    def build(
        self,
        name: str,
        corpus: str,
        *,
        model: str = "",
        window_tokens: int = 0,
        split: str = "all",
        calibration_prompts: int | None = None,
        evaluation_prompts: int = 0,
        load: bool = False,
        alias: str = "",
        gate: tuple[str, float] | None = None,
    ) -> BuildOperation:
        """Begin to build a snapshot, or go on with one; `wait` reports how it goes. The defaults are the server's.

        gate: as for `move_alias`; it takes `evaluation_prompts` and an alias, which does not move where it refuses.
        """
        built = self._ask(
            self._admin.BuildSnapshot,
            pb.BuildSnapshotRequest,
            name=name,
            corpus=corpus,
            model=model,
            window_tokens=window_tokens,
            split=split,
            calibration_prompts=calibration_prompts,
            evaluation_prompts=evaluation_prompts,
            load=load,
            alias=alias,
            fidelity_gate=gate and _gate_message(gate),
        )
        return reading.build_operation(built)

    def operations(self) -> Iterator[BuildOperation]:
        """All operations, oldest first, a call a page."""
        request = operations_pb2.ListOperationsRequest()
        return map(reading.build_operation, self._pages(self._operations.ListOperations, request, "operations"))

    def operation(self, name: str) -> BuildOperation:
        """One operation as it is now."""
        return reading.build_operation(
            self._ask(self._operations.GetOperation, operations_pb2.GetOperationRequest, name=name)
        )

    def wait(
        self,
        name: str,
        *,
        timeout_s: float | None = None,
        on_progress: Callable[[BuildOperation], None] = lambda operation: None,
    ) -> BuildOperation:
        """Wait until an operation has ended, and return it, whether it succeeded or not.

        on_progress: called about once a second. Raises DeadlineExceededError after `timeout_s`; the operation goes on.
        """
        ends_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = POLL_S if ends_s is None else min(POLL_S, ends_s - time.monotonic())
            operation = self._wait_once(name, max(0.0, left_s))
            on_progress(operation)
            if operation.done:
                return operation
            if left_s <= 0:
                raise DeadlineExceededError(
                    f"{name} has not ended after {timeout_s:g} s: it goes on; wait longer, or cancel it",
                    code="DEADLINE_EXCEEDED",
                    reason="DEADLINE_EXCEEDED",
                )

    def cancel(self, name: str) -> None:
        """Ask an operation to end; `wait` returns when it has."""
        self._ask(self._operations.CancelOperation, operations_pb2.CancelOperationRequest, name=name)

    def delete_operation(self, name: str) -> None:
        """Forget an operation that has ended, and discard what it left undone."""
        self._ask(self._operations.DeleteOperation, operations_pb2.DeleteOperationRequest, name=name)

    def close(self) -> None:
        """Close the connection; calls of other threads end, too."""
        self._caller.close()
        self._channel.close()

    def _wait_once(self, name: str, wait_s: float) -> BuildOperation:
        timeout = Duration()
        timeout.FromMilliseconds(int(1000 * wait_s))
        request = message(operations_pb2.WaitOperationRequest, name=name, timeout=timeout)
        try:
            waited = self._send(self._operations.WaitOperation, request, self._timeout_s + wait_s)
        except ResourceExhaustedError as error:
            if error.reason != "TOO_MANY_WAITS":
                raise
            time.sleep(wait_s)
            return self.operation(name)
        return reading.build_operation(waited)

    def _pages(self, method: Callable[..., Any], request: Any, field: str) -> Iterator[Any]:
        def pages() -> Iterator[Any]:
            while True:
                page = self._send(method, request)
                yield getattr(page, field)
                if not page.next_page_token:
                    return
                request.page_token = page.next_page_token

        return itertools.chain.from_iterable(pages())

    def _ask(self, method: Callable[..., Any], kind: type[Message], **fields: Any) -> Any:
        return self._send(method, message(kind, **fields))

    def _send(self, method: Callable[..., Any], request: Any, timeout_s: float | None = None) -> Any:
        return self._caller.call(method, request, timeout_s)


def _gate_message(gate: tuple[str, float]) -> pb.FidelityGate:
    protocol, hellinger_mean_max = gate
    return message(pb.FidelityGate, "fidelity_gate", protocol=protocol, hellinger_mean_max=hellinger_mean_max)

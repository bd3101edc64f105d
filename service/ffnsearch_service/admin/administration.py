"""What the administration's calls do: request messages become changes of the catalog and the builds, and responses.

It knows nothing of sockets. Every method blocks for as long as its work takes, a load for minutes, all others for
milliseconds; any thread may call any method.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf import empty_pb2

from ffnsearch.v1 import admin_pb2 as pb
from ffnsearch_indexer.errors import BackendError, SnapshotError
from ffnsearch_service.admin.messages import (
    alias_message,
    build_spec,
    gate_of,
    operation_id,
    operation_message,
    snapshot_view_message,
)
from ffnsearch_service.admin.name_pages import name_page
from ffnsearch_service.builds.builds import Builds
from ffnsearch_service.builds.record import OPERATIONS, BuildSpec, operation_name
from ffnsearch_service.catalog import Catalog, SnapshotView
from ffnsearch_service.config import Limits
from ffnsearch_service.confined import Folders
from ffnsearch_service.errors import AbsentError, RequestError, StateError
from ffnsearch_service.names import require_name
from ffnsearch_service.pathless import without_paths


class Administration:
    """The calls of AdminService and Operations, one method each. They raise FfnSearchError, without paths."""

    def __init__(
        self, catalog: Catalog[Any], folders: Folders, builds: Builds | None = None, limits: Limits | None = None
    ) -> None:
        """Share a catalog and builds, None where none are allowed; who made them closes them."""
        self._catalog = catalog
        self._folders = folders
        self._builds = builds
        self._limits = limits or Limits()

    def list_snapshots(self, request: pb.ListSnapshotsRequest) -> pb.ListSnapshotsResponse:
        """A page of the snapshots."""
        views = self._catalog.snapshots()
        names = [view.name for view in views]
        page, token = name_page(names, request.page_size, request.page_token, self._limits)
        return pb.ListSnapshotsResponse(
            snapshots=[snapshot_view_message(view, self._folders) for view in views[page]], next_page_token=token
        )

    def get_snapshot(self, request: pb.GetSnapshotRequest) -> pb.GetSnapshotResponse:
        """One snapshot, by its name or an alias."""
        view = self._catalog.snapshot(request.name)
        return pb.GetSnapshotResponse(snapshot=snapshot_view_message(view, self._folders))

    def load_snapshot(self, request: pb.LoadSnapshotRequest) -> pb.LoadSnapshotResponse:
        """Open a snapshot; returns when it is open."""
        name = require_name(request.name, "name")
        field = "folder" if request.folder else "name"
        folder = self._folders.snapshot(request.folder or name, field=field)
        view = _load(self._catalog, name, folder, field=field)
        return pb.LoadSnapshotResponse(snapshot=snapshot_view_message(view, self._folders))

    def unload_snapshot(self, request: pb.UnloadSnapshotRequest) -> pb.UnloadSnapshotResponse:
        """Take a snapshot's name away."""
        self._catalog.unload(request.name, request.etag)
        return pb.UnloadSnapshotResponse()

    def list_aliases(self, request: pb.ListAliasesRequest) -> pb.ListAliasesResponse:
        """A page of the aliases."""
        views = self._catalog.aliases()
        names = [view.name for view in views]
        page, token = name_page(names, request.page_size, request.page_token, self._limits)
        return pb.ListAliasesResponse(aliases=[alias_message(view) for view in views[page]], next_page_token=token)

    def get_alias(self, request: pb.GetAliasRequest) -> pb.GetAliasResponse:
        """One alias."""
        return pb.GetAliasResponse(alias=alias_message(self._catalog.alias(request.name)))

    def move_alias(self, request: pb.MoveAliasRequest) -> pb.MoveAliasResponse:
        """Let an alias point elsewhere."""
        view = self._catalog.move_alias(
            request.name,
            request.snapshot_name,
            etag=request.etag,
            allow_missing=request.allow_missing,
            gate=gate_of(request),
        )
        return pb.MoveAliasResponse(alias=alias_message(view))

    def delete_alias(self, request: pb.DeleteAliasRequest) -> pb.DeleteAliasResponse:
        """Delete an alias."""
        self._catalog.delete_alias(request.name, request.etag)
        return pb.DeleteAliasResponse()

    def build_snapshot(self, request: pb.BuildSnapshotRequest) -> operations_pb2.Operation:
        """Queue a build."""
        if self._builds is None:
            raise StateError(
                "this server builds nothing: its operator sets state_folder and the folders in [admin]",
                reason="FOLDER_NOT_SET",
            )
        spec = build_spec(request)
        if spec.load:  # better now than after hours of building
            folder = self._folders.snapshot(spec.name, field="name")
            self._catalog.require_names(spec.name, folder, spec.alias)
        return operation_message(self._builds.create(spec))

    def list_operations(self, request: operations_pb2.ListOperationsRequest) -> operations_pb2.ListOperationsResponse:
        """A page of the operations, oldest first."""
        if request.name not in ("", OPERATIONS):
            raise RequestError(
                f"name: leave it empty, or write {OPERATIONS}", reason="UNKNOWN_COLLECTION", field="name"
            )
        if request.filter:
            raise RequestError(
                "filter: this server cannot filter operations: leave it empty", reason="UNKNOWN_FILTER", field="filter"
            )
        views = self._builds.list() if self._builds else []
        ids = [view.record.id for view in views]
        page, token = name_page(ids, request.page_size, request.page_token, self._limits)
        return operations_pb2.ListOperationsResponse(
            operations=[operation_message(view) for view in views[page]], next_page_token=token
        )

    def get_operation(self, request: operations_pb2.GetOperationRequest) -> operations_pb2.Operation:
        """One operation as it is now."""
        return operation_message(self._builds_with(request.name).get(operation_id(request.name)))

    def cancel_operation(self, request: operations_pb2.CancelOperationRequest) -> empty_pb2.Empty:
        """Ask an operation to end."""
        self._builds_with(request.name).cancel(operation_id(request.name))
        return empty_pb2.Empty()

    def delete_operation(self, request: operations_pb2.DeleteOperationRequest) -> empty_pb2.Empty:
        """Forget an operation that has ended, and what it left undone."""
        self._builds_with(request.name).delete(operation_id(request.name))
        return empty_pb2.Empty()

    def unfinished_operations(self) -> frozenset[str]:
        """The names of all operations that have not ended."""
        return frozenset(map(operation_name, self._builds.unfinished() if self._builds else ()))

    def stop_builds(self) -> None:
        """Let the builds stop, so that the next start goes on with them; returns at once."""
        if self._builds:
            self._builds.stop()

    def stop_loads(self) -> None:
        """Let the loads that run end soon, and none begin."""
        self._catalog.stop_loads()

    def _builds_with(self, name: str) -> Builds:
        if self._builds is None:
            raise AbsentError(
                f"there is no operation {name[:80]!r}: this server builds nothing",
                reason="OPERATION_NOT_FOUND",
                field="name",
            )
        return self._builds


def opener_of_built(catalog: Catalog[Any], folders: Folders) -> Callable[[BuildSpec], None]:
    """What `Builds` does with a snapshot that was to be opened, and was to get an alias."""

    def open_built(spec: BuildSpec) -> None:
        if not spec.load:
            return
        folder = folders.snapshot(spec.name, field="name")
        opened = [view.folder for view in catalog.snapshots() if (view.name, view.state) == (spec.name, "OPEN")]
        if folder not in opened:  # a restart does the last step again
            _load(catalog, spec.name, folder, field="name")
        if spec.alias:
            catalog.move_alias(spec.alias, spec.name, allow_missing=True, gate=spec.fidelity_gate)

    return open_built


def _load(catalog: Catalog[Any], name: str, folder: Path, *, field: str) -> SnapshotView:
    """Load, and say why not without saying where. field: what of the request named the folder."""
    try:
        return catalog.load(name, folder)
    except (SnapshotError, BackendError) as error:
        raise StateError(without_paths(error.message), reason=error.reason, field=field) from error

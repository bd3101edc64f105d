"""Which health does a server report, of what, and when? (grpc.health.v1: Check, List and Watch).

| asked for | SERVING |
|---|---|
| "", and services without a rule of their own | from `ready` to `drain` |
| the prediction service | the same, while any snapshot is open |
| `snapshot/NAME`, of a snapshot that is listed, or an alias | the same, while it is open, or points to one that is |

After the loss of a GPU that nothing takes the place of, nothing is SERVING any more: only a new process can use it.

Everything else is unknown: NOT_FOUND to Check, SERVICE_UNKNOWN to Watch, as the protocol says. List has all of it.
"""

import asyncio
import enum
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc

from ffnsearch_service.operations.seen import CatalogSeen

SNAPSHOT_PREFIX = "snapshot/"

WATCHES_MAX = 256
"""Balancers and orchestrators watch, a few for each service; more is a client that has lost count."""

TOLD_S_MAX = 0.5
"""How long the end waits for watchers to read the last status; those that do not read miss it."""

Status = pb.HealthCheckResponse.ServingStatus


class Phase(enum.Enum):
    """Where a server is in its life; it only goes forward."""

    STARTING = "starting"
    READY = "ready"
    LOST = "lost"
    DRAINING = "draining"


class Health(health_pb2_grpc.HealthServicer):
    """Reports the health of a server. Lives in the event loop; any thread may read `is_ready`.

    A watcher that does not read holds up nobody but itself, and ends with the server.
    """

    def __init__(self, prediction_service: str, other_services: Iterable[str] = ()) -> None:
        """Nothing is SERVING yet. The services go by their full names."""
        self._prediction_service = prediction_service
        self._services = {"", prediction_service, *other_services}
        self._phase = Phase.STARTING
        self._catalog = CatalogSeen({}, {})
        self._watchers: set[asyncio.Event] = set()

    @property
    def is_ready(self) -> bool:
        """Whether predictions are answered now."""
        return bool(self.status(self._prediction_service) == pb.HealthCheckResponse.SERVING)

    def ready(self) -> None:
        """Calls are taken from now on."""
        if self._phase is Phase.STARTING:
            self._enter(Phase.READY)

    def device_lost(self) -> None:
        """The GPU is gone: report NOT_SERVING for everything from now on; calls are still taken."""
        if self._phase is Phase.READY:
            self._enter(Phase.LOST)

    async def drain(self) -> None:
        """Report NOT_SERVING for everything from now on; return once the watchers know, or after `TOLD_S_MAX`."""
        self._enter(Phase.DRAINING)
        loop = asyncio.get_running_loop()
        latest_s = loop.time() + TOLD_S_MAX
        while self._watchers and loop.time() < latest_s:
            await asyncio.sleep(0.005)

    def status(self, service: str) -> Any:
        """The current status of a service; None where there is no such service."""
        name = service.removeprefix(SNAPSHOT_PREFIX)
        snapshots, aliases, closed = self._catalog
        if service == self._prediction_service:
            is_up = bool(snapshots)
        elif service in self._services:
            is_up = True
        elif name != service and (name in snapshots or name in aliases or name in closed):
            is_up = aliases.get(name, name) in snapshots
        else:
            return None
        is_serving = is_up and self._phase is Phase.READY
        return pb.HealthCheckResponse.SERVING if is_serving else pb.HealthCheckResponse.NOT_SERVING

    def see(self, catalog: CatalogSeen) -> None:
        """Report these snapshots and aliases from now on."""
        self._catalog = catalog
        self._wake()

    async def Check(self, request: pb.HealthCheckRequest, context: Any) -> pb.HealthCheckResponse:
        """The current status."""
        status = self.status(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service or snapshot: list the services")
        return pb.HealthCheckResponse(status=status)

    async def List(self, request: Any, context: Any) -> Any:
        """The current status of everything that has one, by what to ask for."""
        snapshots, aliases, closed = self._catalog
        names = (f"{SNAPSHOT_PREFIX}{name}" for name in {*snapshots, *aliases, *closed})
        statuses = {
            service: pb.HealthCheckResponse(status=self.status(service)) for service in (*self._services, *names)
        }
        return pb.HealthListResponse(statuses=statuses)  # type: ignore[attr-defined]  # the stubs are older

    async def Watch(self, request: pb.HealthCheckRequest, context: Any) -> AsyncIterator[pb.HealthCheckResponse]:
        """The current status, then each change, until the server drains."""
        if len(self._watchers) >= WATCHES_MAX:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{WATCHES_MAX} watches run, the most that are taken: use Check"
            )
        changed = asyncio.Event()
        self._watchers.add(changed)
        told = None
        try:
            while True:
                changed.clear()
                is_last = self._phase is Phase.DRAINING  # before the status: it may change while one is being told
                status = self.status(request.service)
                now = pb.HealthCheckResponse.SERVICE_UNKNOWN if status is None else status
                if now != told:
                    yield pb.HealthCheckResponse(status=now)
                    told = now
                if is_last:
                    return
                await changed.wait()
        finally:
            self._watchers.discard(changed)

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._wake()

    def _wake(self) -> None:
        for changed in self._watchers:
            changed.set()

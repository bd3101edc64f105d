"""How a test serves the administration on loopback, and what it lets callers build from."""

import shutil
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from looping import WAIT_S, loop_thread, run_in

from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_service.admin.administration import Administration, opener_of_built
from ffnsearch_service.admin.servicer import AdminServices
from ffnsearch_service.builds.builds import Builds
from ffnsearch_service.builds.command import build_command
from ffnsearch_service.catalog import Catalog
from ffnsearch_service.client.admin import AdminClient
from ffnsearch_service.config import Limits
from ffnsearch_service.confined import Folders
from ffnsearch_service.door import Door
from ffnsearch_service.entrance import Entrance
from ffnsearch_service.operations.calls import CallWatch
from ffnsearch_service.security.protection import Protection

FAKE_BUILD = """
import json, sys, time
from pathlib import Path
out, folder, events = Path(sys.argv[1]), Path(sys.argv[2]), open(sys.argv[4], "w")
with (folder / "starts").open("a") as starts:
    starts.write("x")
for done in range(1001):
    if done == 1000 and not (folder / "go").exists():
        while not (folder / "go").exists():
            time.sleep(0.005)
    if done % 500 == 0:
        print(json.dumps({"stage": "keys", "done": done, "total": 1000, "detail": ""}), file=events, flush=True)
if (folder / "fail").exists():
    message = f"{folder}/texts/novel.txt is not UTF-8 text: convert it"
    print(json.dumps({"error": {"reason": "UNDECODABLE_CORPUS", "message": message}}), file=events, flush=True)
    sys.exit(2)
out.mkdir()
print(json.dumps({"snapshot_id": "abc", "substrings": 7}))
"""
"""A build that takes no time but waits until the file `go` is there, and fails if there is one called `fail`."""


@dataclass(frozen=True)
class Site:
    """Folders as an operator sets them up."""

    root: Path

    @property
    def folders(self):
        return Folders(self.root / "snapshots", self.root / "corpora", self.root / "models")

    @property
    def state(self):
        return self.root / "state"

    def fake_command(self, spec, folders, *, resume):
        """The command of a fake build."""
        out = folders.snapshot(spec.name, field="name")
        return [sys.executable, "-S", "-c", FAKE_BUILD, str(out), str(self.root)]

    def let_go(self):
        (self.root / "go").touch()


def make_site(root, model, text="a text for every test\n" * 20):
    """Folders with the corpora `novel.txt` and `plays/one.txt`, and the model `tiny`."""
    site = Site(root)
    for folder in ("snapshots", "corpora/plays", "models", "state"):
        (root / folder).mkdir(parents=True)
    for name in ("novel.txt", "plays/one.txt"):
        (root / "corpora" / name).write_text(text)
    shutil.copytree(model, root / "models" / "tiny")
    return site


class WithoutEngine(Datastore):
    """A snapshot that is open, as far as the catalog looks: nothing searches it."""

    backend = "none"


def datastore_catalog(site, **options):
    """A catalog that opens datastores."""
    state_file = site.state / "catalog.json"
    return Catalog(lambda _, folder: WithoutEngine.open(folder, check="sizes"), state_file=state_file, **options)


@contextmanager
def administering(site, catalog, *, command=build_command, limits=None, builds_max=1, protection=None, **access):
    """Serve the administration of a site; yields a client, and the builds. access: how that client calls."""
    builds = Builds(
        site.folders,
        site.state / "operations",
        builds_max=builds_max,
        limits=limits,
        open_built=opener_of_built(catalog, site.folders),
        command=command,
    )
    builds.start()
    administration = Administration(catalog, site.folders, builds, limits or Limits())
    with (
        serving_administration(administration, protection or Protection.open(Limits()), limits) as address,
        AdminClient(address, timeout_s=WAIT_S, **access) as client,
    ):
        try:
            yield client, builds
        finally:
            builds.close()


@contextmanager
def serving_administration(administration, protection, limits=None):
    """Serve on a free loopback port, with health, from a thread of its own; yields the address."""

    async def start():
        watch = CallWatch(lambda: None, lambda record, is_unary: None)
        entrance = Entrance(Door(), watch, protection.guard)
        services, servicer = AdminServices(administration, limits or Limits()), health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, entrance)
        for name in services.add_to(entrance):
            await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
        server = grpc.aio.server(options=protection.options)
        server.add_generic_rpc_handlers((entrance,))
        port = protection.add_port(server, "127.0.0.1:0")
        await server.start()
        return server, services, f"127.0.0.1:{port}"

    async def stop(server, services):
        await services.drain()
        await server.stop(None)
        await services.close()

    with loop_thread() as loop:
        server, services, address = run_in(loop, start())
        try:
            yield address
        finally:
            run_in(loop, stop(server, services))

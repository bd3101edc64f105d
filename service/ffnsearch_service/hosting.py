"""What is a server made of, and in which order does it all begin and end?

Beginning: what watches, then the snapshots, the engine, the builds, and the socket last. Ending goes the other way:
health first, then no new calls, those in flight, the builds, the engine, and the snapshots' files last.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from ffnsearch_indexer.errors import SnapshotError
from ffnsearch_indexer.files import disk_errors
from ffnsearch_service.admin.administration import Administration, opener_of_built
from ffnsearch_service.answering.engine import Engine
from ffnsearch_service.answering.opened import OpenSnapshot
from ffnsearch_service.builds.builds import Builds
from ffnsearch_service.catalog.catalog import Catalog
from ffnsearch_service.catalog.state import STATE_FILE, Configured
from ffnsearch_service.catalog_watch import CatalogWatch
from ffnsearch_service.config import ServerConfig
from ffnsearch_service.confined import Folders
from ffnsearch_service.engine_watch import watch_engine
from ffnsearch_service.names import ADMIN_SERVICE, OPERATIONS_SERVICE, PREDICTION_SERVICE
from ffnsearch_service.operations.health import Health
from ffnsearch_service.operations.logs import logging_to
from ffnsearch_service.operations.operations import Operations
from ffnsearch_service.security.protection import Protection
from ffnsearch_service.security.tls import TlsFiles
from ffnsearch_service.server import Server, address_of, serve
from ffnsearch_service.tuning import share_heaps, stay_quick
from ffnsearch_service.version import software_version

BUILDS_FOLDER = "builds"
"""Where the builds' records are in the state folder."""

_log = logging.getLogger(__name__)


class _Parts(NamedTuple):
    """What is behind the socket of a server. administration: None where the settings allow none."""

    engine: Engine
    administration: Administration | None
    operations: Operations
    watch: CatalogWatch


def run(config: ServerConfig, on_ready: Callable[[str, Engine], None]) -> None:
    """Open the snapshots, serve them until a signal, then close everything.

    on_ready: called with the address once calls are taken. Raises AddressError, CredentialsError, SnapshotError where a
    snapshot that the settings name cannot be opened, StateError and OutputError where the state folder cannot be used.
    """
    share_heaps()
    protection = protection_of(config)
    address_of(config, protection)  # before minutes of reading
    with logging_to(config.logging):
        with _parts(config) as parts:
            stay_quick()
            asyncio.run(_serve(config, parts, protection, on_ready))
        _log.info("closed: no snapshot is open any more")


def protection_of(config: ServerConfig) -> Protection:
    """Open what protects a server of these settings. Raises CredentialsError, which names the file at fault."""
    tls, files = config.tls, None
    if tls.certificate_file and tls.key_file:
        files = TlsFiles(tls.certificate_file, tls.key_file, tls.client_ca_file)
    return Protection.open(config.limits, tokens_file=config.auth.tokens_file, tls_files=files)


async def _serve(
    config: ServerConfig, parts: _Parts, protection: Protection, on_ready: Callable[[str, Engine], None]
) -> None:
    with parts.watch.following(asyncio.get_running_loop()):
        server = Server(parts.engine, config, parts.operations, protection, parts.administration)
        await serve(server, config, lambda address: on_ready(address, parts.engine))


@contextmanager
def _parts(config: ServerConfig) -> Iterator[_Parts]:
    """Everything behind the socket, in the order in which it depends on each other."""
    with ExitStack() as closing:
        others = (ADMIN_SERVICE, OPERATIONS_SERVICE) if config.admin.enabled else ()
        operations = closing.enter_context(Operations(config, Health(PREDICTION_SERVICE, others), software_version()))
        if operations.address:
            _log.info("measurements and probes: http://%s/metrics, /livez, /readyz", operations.address)
        closer = closing.enter_context(ThreadPoolExecutor(1, thread_name_prefix="ffnsearch-close"))
        watch = CatalogWatch(operations.see)

        def open_snapshot(name: str, path: Path) -> OpenSnapshot:
            return _open(config, name, path, on_move=lambda: watch.changed(catalog), checkpoint=catalog.checkpoint)

        catalog = Catalog(
            open_snapshot,
            state_file=config.state_folder and config.state_folder / STATE_FILE,
            limits=config.limits,
            run_close=closer.submit,
            on_change=watch.changed,
        )
        closing.callback(catalog.close)
        _restore(catalog, config)
        engine = closing.enter_context(Engine(catalog.lease, config.limits))
        watch_engine(engine, operations.metrics)
        administration = _administration(config, catalog, closing) if config.admin.enabled else None
        yield _Parts(engine, administration, operations, watch)


def _open(
    config: ServerConfig, name: str, path: Path, *, on_move: Callable[[], None], checkpoint: Callable[[], None]
) -> OpenSnapshot:
    """Open a snapshot, and load the compiled code that it takes: no caller waits for that.

    on_move: called when its search has gone from a GPU to the CPU. checkpoint: asked again and again while it is read,
    which is what takes long; raises what is to end that.
    """
    snapshot = OpenSnapshot.open(
        path,
        name=name,
        backend=config.backend,
        device=config.device,
        check=config.verify,
        limits=config.limits,
        on_move=on_move,
        progress=lambda *_: checkpoint(),
    )
    snapshot.warm_up()
    return snapshot


def _restore(catalog: Catalog[OpenSnapshot], config: ServerConfig) -> None:
    """Open what the settings name, which has to open, and what was loaded over the wire before, which need not.

    Under a name of the settings another folder may have been loaded over the wire.
    """
    with disk_errors("set server.state_folder to one that can be written"):
        if config.state_folder:
            config.state_folder.mkdir(parents=True, exist_ok=True)
        failures = catalog.restore(Configured.of(config))
    for failed in failures:
        if failed.folder == config.snapshots.get(failed.name):
            raise SnapshotError(failed.error)
        _log.error("the snapshot %s, which was loaded before, cannot be opened: load it again", failed.name)


def _administration(config: ServerConfig, catalog: Catalog[OpenSnapshot], closing: ExitStack) -> Administration:
    settings = config.admin
    folders = Folders(settings.snapshots_folder, settings.corpora_folder, settings.models_folder)
    builds = None
    if config.state_folder:
        builds = Builds(
            folders,
            config.state_folder / BUILDS_FOLDER,
            builds_max=settings.builds_max,
            limits=config.limits,
            open_built=opener_of_built(catalog, folders),
        )
        builds.start()
        closing.callback(builds.close)
    return Administration(catalog, folders, builds, config.limits)

"""How a test serves an engine on loopback, and makes one that takes long."""

import asyncio
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from looping import WAIT_S, loop_thread, run_in

from ffnsearch_indexer.answer.predictor import Found, Predictor, RankedNeighbors
from ffnsearch_indexer.index.base import Checkpoint
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_service.answering.engine import Engine
from ffnsearch_service.answering.opened import OpenSnapshot
from ffnsearch_service.config import DEFAULT_ALIAS, ServerConfig
from ffnsearch_service.engine_watch import watch_engine
from ffnsearch_service.names import PREDICTION_SERVICE
from ffnsearch_service.operations.health import Health
from ffnsearch_service.operations.operations import Operations
from ffnsearch_service.operations.seen import CatalogSeen, SnapshotSeen
from ffnsearch_service.security.protection import Protection
from ffnsearch_service.server import Server


def get(address: str, path: str) -> tuple[int, str]:
    """Status and text of a page, whatever the environment says of proxies."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{address}{path}", timeout=WAIT_S) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


class SlowPredictor(Predictor):
    """Searches tile by tile until somebody stops it or `release` is set, and tells how it ended."""

    def __init__(self, datastore: Datastore) -> None:
        super().__init__(datastore)
        self.calls = 0
        self.running = threading.Event()
        self.stopped = threading.Event()
        self.release = threading.Event()

    def search(self, *arguments: Any, checkpoint: Checkpoint, **options: Any) -> Found:
        self._wait(checkpoint)
        return super().search(*arguments, checkpoint=checkpoint, **options)

    def neighbors(self, *arguments: Any, checkpoint: Checkpoint, **options: Any) -> RankedNeighbors:
        self._wait(checkpoint)
        return super().neighbors(*arguments, checkpoint=checkpoint, **options)

    def _wait(self, checkpoint: Checkpoint) -> None:
        self.calls += 1
        self.running.set()
        try:
            while not self.release.is_set():
                checkpoint()
                time.sleep(0.002)
        except BaseException:
            self.stopped.set()
            raise


def opened(engine: Engine) -> OpenSnapshot:
    """The snapshot that an engine answers from where a request names none."""
    with engine.lease("") as snapshot:
        return snapshot


def operations_for(engine: Engine, config: ServerConfig) -> Operations:
    """What watches a server of the engine, whose snapshot is open under the name `tiny`."""
    operations = Operations(config, Health(PREDICTION_SERVICE), "0.0")
    watch_engine(engine, operations.metrics)
    found = engine.get_info()
    seen = SnapshotSeen(found.snapshot.id, found.snapshot.substrings, found.backend)
    operations.see(CatalogSeen({"tiny": seen}, {DEFAULT_ALIAS: "tiny"}))
    return operations


@contextmanager
def serving(engine: Engine, config: ServerConfig | None = None, protection: Protection | None = None) -> Iterator[str]:
    """Serve an engine on a free loopback port, from a thread of its own; yields the address."""
    with server_thread(engine, config, protection) as (address, _):
        yield address


@contextmanager
def server_thread(
    engine: Engine, config: ServerConfig | None = None, protection: Protection | None = None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Serve as `serving` does; yields the address, and a function that begins the end without waiting for it."""
    settings = config or ServerConfig(port=0, grace_s=2)
    with (
        operations_for(engine, settings) as operations,
        watched_thread(engine, settings, operations, protection) as served,
    ):
        yield served


@contextmanager
def serving_with(engine: Engine, config: ServerConfig, operations: Operations) -> Iterator[str]:
    """Serve as `serving` does, watched by operations that stay the test's."""
    with watched_thread(engine, config, operations) as (address, _):
        yield address


@contextmanager
def watched_thread(
    engine: Engine, config: ServerConfig, operations: Operations, protection: Protection | None = None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Serve as `server_thread` does, watched by operations that stay the test's."""

    async def make() -> Server:
        return Server(engine, config, operations, protection or Protection.open(engine.limits))

    with loop_thread() as loop:
        server = run_in(loop, make())
        try:
            yield run_in(loop, server.start()), lambda: asyncio.run_coroutine_threadsafe(server.stop(), loop)
        finally:
            run_in(loop, server.stop())

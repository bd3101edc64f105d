"""A server in a process of its own whose searches run until a line comes in on stdin: `slow_process.py SNAPSHOT`."""

import asyncio
import sys
import threading
from pathlib import Path

from serving import SlowPredictor, operations_for

from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_service.answering.engine import Engine
from ffnsearch_service.answering.opened import OpenSnapshot
from ffnsearch_service.config import LoggingSettings, MetricsSettings, ServerConfig
from ffnsearch_service.operations.logs import logging_to
from ffnsearch_service.security.protection import Protection
from ffnsearch_service.server import Server, serve


def main() -> None:
    """Print `ADDRESS METRICS_ADDRESS` once calls are taken, `closed` once the snapshot is."""
    slow = SlowPredictor(Datastore.open(Path(sys.argv[1]), check="sizes"))

    def release() -> None:
        sys.stdin.readline()
        slow.release.set()

    threading.Thread(target=release, daemon=True).start()
    config = ServerConfig(port=0, grace_s=15, metrics=MetricsSettings(port=0))
    with (
        logging_to(LoggingSettings("json")),
        Engine.of(OpenSnapshot(slow)) as engine,
        operations_for(engine, config) as operations,
    ):

        async def work() -> None:
            server = Server(engine, config, operations, Protection.open(config.limits))
            await serve(server, config, lambda address: print(address, operations.address, flush=True))

        asyncio.run(work())
    print("closed", flush=True)


if __name__ == "__main__":
    main()

"""How a test runs `ffnsearch serve` in a process of its own, kills it, and looks at it from outside."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from serving import WAIT_S
from vitals import Watched, free_port

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch.v1 import ffnsearch_pb2_grpc as pb_grpc
from ffnsearch_service.client.channel import open_channel

START_S = 3 * WAIT_S
"""How long a process may take to import all that it needs, on a machine that has much else to do."""
FORKER = Path(__file__).parent / "serve_forked.py"


PROMPTS = ("And only l", "the people", "O Romeo, R", "my most gr")


def request(snapshot: str = "", prompts: int = len(PROMPTS), **options: object) -> pb.PredictRequest:
    """A request whose answer has every integer that was summed, by default one small enough for the event loop."""
    texts = [PROMPTS[number % len(PROMPTS)] for number in range(prompts)]
    return pb.PredictRequest(
        prompts=[pb.Prompt(text=text) for text in texts], include_frequencies=True, snapshot=snapshot, **options
    )


def content(response: pb.PredictResponse) -> bytes:
    """All that an answer says, but how long it took and with how many others: the snapshot, and every result."""
    said = pb.PredictResponse(snapshot_id=response.snapshot_id, results=response.results)
    return said.SerializeToString(deterministic=True)


@contextmanager
def stub_of(address: str, *, retries: bool = False) -> Iterator[pb_grpc.PredictionServiceStub]:
    """Calls over a connection of its own; by default nothing is tried again."""
    with open_channel(address, {}, retries=retries) as channel:
        yield pb_grpc.PredictionServiceStub(channel)


def wait_for(condition: Callable[[], object], wait_s: float = WAIT_S) -> None:
    """Look until a condition holds; fails after `wait_s`."""
    ends_s = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < ends_s, "what is waited for has not come"
        time.sleep(0.005)


class ServerProcess(Watched):
    """One process of `ffnsearch serve`, whether it has come to take calls or not.

    metrics: where measurements are read. log: what it writes to stderr.
    """

    def __init__(self, out: int, told: int, log: Path, metrics: str) -> None:
        self.log = log
        self.metrics = metrics
        self._out = os.fdopen(out)
        self._told = os.fdopen(told)
        self.pid = int(self._told.readline())
        self._address: str | None = None
        self._status: int | None = None

    @property
    def address(self) -> str:
        """Where calls are taken; waits until they are."""
        if self._address is None:
            assert select.select([self._out], [], [], START_S)[0], "the server does not start"
            line = self._out.readline()
            assert line.startswith("serving "), self.log.read_text()
            self._address = line.split()[1].rstrip(":")
        return self._address

    def signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait for the end. The exit status, below 0 the signal."""
        if self._status is None:
            assert select.select([self._told], [], [], WAIT_S)[0], "the server does not end"
            self._status = int(self._told.readline())
        return self._status

    def kill(self) -> None:
        """End it with SIGKILL; it is gone afterwards."""
        self.signal(signal.SIGKILL)
        self.wait()

    def close(self) -> None:
        """Kill it where it still runs, and close its pipes."""
        self.kill()
        self._out.close()
        self._told.close()


class Servers:
    """Starts servers. They are forked from one process that has imported everything, so each takes half a second."""

    def __init__(self, orders: socket.socket, folder: Path) -> None:
        self._orders = orders
        self._folder = folder
        self._started: list[ServerProcess] = []

    @classmethod
    @contextmanager
    def open(cls, folder: Path) -> Iterator["Servers"]:
        """Start the process that forks; it ends, with all servers, in the end. folder: where logs go."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with (
            ours,
            subprocess.Popen(
                [sys.executable, FORKER, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                start_new_session=True,
            ) as forker,
        ):
            theirs.close()
            servers = cls(ours, folder)
            try:
                yield servers
            finally:
                for server in servers._started:
                    server.close()
                ours.close()
                forker.wait(WAIT_S)

    def start(self, *arguments: object, port: int = 0, **environment: str) -> ServerProcess:
        """Start `ffnsearch serve ARGUMENTS`, with measurements; does not wait until it takes calls."""
        (out_read, out), (told_read, told) = os.pipe(), os.pipe()
        metrics = free_port()
        said = ["serve", *map(str, arguments), "--port", str(port), "--set", f"metrics.port={metrics}"]
        order = json.dumps({"arguments": said, "environment": environment}).encode()
        with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".log", delete=False) as log:
            socket.send_fds(self._orders, [order], [out, log.fileno(), told])
        os.close(out)
        os.close(told)
        server = ServerProcess(out_read, told_read, Path(log.name), f"127.0.0.1:{metrics}")
        self._started.append(server)
        return server

    @contextmanager
    def serving(self, *arguments: object, **options: object) -> Iterator[ServerProcess]:
        """Start a server that takes calls, and kill it in the end."""
        server = self.start(*arguments, **options)
        try:
            assert server.address
            yield server
        finally:
            server.close()
            self._started.remove(server)

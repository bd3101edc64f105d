"""A client whose connection is over, or dead without a word: calls fail in one way, or go on over another one."""

import asyncio
import math
import selectors
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from scripted import Scripted, scripted_server
from serving import WAIT_S

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_service.client import AdminClient, AsyncClient, Client, channel
from ffnsearch_service.config import Limits
from ffnsearch_service.errors import CallCancelledError, DeadlineExceededError, RequestError


class Relay:
    """Passes bytes on between clients and a server, until connections are told to say nothing any more."""

    def __init__(self, server: str) -> None:
        host, port = server.rsplit(":", 1)
        self._server = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._silent: set[socket.socket] = set()
        self.connections = 0
        self._ends = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def silence(self) -> None:
        """Let everything that is connected now hang, in both directions, without closing it."""
        self._silent = {key.fileobj for key in self._selector.get_map().values()} - {self._listener}

    def close(self) -> None:
        self._ends = True
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()

    def _run(self) -> None:
        while not self._ends:
            for key, _ in self._selector.select(0.02):
                if key.fileobj is self._listener:
                    self._connect()
                elif key.fileobj not in self._silent:
                    self._pass_on(key.fileobj, key.data)

    def _connect(self) -> None:
        self.connections += 1
        one, other = self._listener.accept()[0], socket.create_connection(self._server)
        self._selector.register(one, selectors.EVENT_READ, other)
        self._selector.register(other, selectors.EVENT_READ, one)

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        data = one.recv(1 << 16)
        if data:
            other.sendall(data)
        else:
            self._selector.unregister(one)
            other.shutdown(socket.SHUT_WR)


@contextmanager
def relay(server: str) -> Iterator[Relay]:
    made = Relay(server)
    try:
        yield made
    finally:
        made.close()


def test_a_connection_that_hangs_is_given_up_and_the_call_made_over_another(monkeypatch):
    monkeypatch.setattr(channel, "KEEPALIVE_MS", 300)
    monkeypatch.setattr(channel, "PING_TIMEOUT_MS", 300)
    with (
        scripted_server(Scripted()) as address,
        relay(address) as between,
        Client(between.address, timeout_s=WAIT_S) as client,
    ):
        assert client.info().backend == "scripted"
        between.silence()
        assert client.info().backend == "scripted"
        assert between.connections == 2


@pytest.mark.parametrize(
    "call", [lambda client: client.info(), lambda client: client.wait_for_ready(1), lambda client: client.predict("a")]
)
def test_a_closed_client_says_so(call):
    with scripted_server(Scripted()) as address:
        client = Client(address)
        client.info()
        client.close()
        client.close()
        with pytest.raises(CallCancelledError, match="is closed: make another one") as caught:
            call(client)
    assert caught.value.reason == "CLIENT_CLOSED"


def test_a_call_under_way_says_so_too():
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(1) as thread:
        client = Client(f"127.0.0.1:{silent.getsockname()[1]}", timeout_s=WAIT_S)
        call = thread.submit(client.info)
        with silent.accept()[0]:
            client.close()
            with pytest.raises(CallCancelledError, match="is closed"):
                call.result(WAIT_S)


def test_a_closed_client_of_administrators_says_so():
    client = AdminClient("127.0.0.1:1")
    client.close()
    for call in (client.wait_for_ready, lambda: list(client.snapshots())):
        with pytest.raises(CallCancelledError, match="is closed"):
            call()


async def test_a_closed_asynchronous_client_says_so(address):
    client = AsyncClient(address)
    await client.info()
    await client.close()
    for call in (client.info, client.wait_for_ready):
        with pytest.raises(CallCancelledError, match="is closed"):
            await call()


async def test_calls_under_way_end_when_their_client_is_closed():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = AsyncClient(f"127.0.0.1:{silent.getsockname()[1]}", timeout_s=WAIT_S)
        calls = [asyncio.create_task(client.info()) for _ in range(2)]
        await asyncio.sleep(0.2)
        calls[1].cancel()  # by its caller: that stays what it is
        with pytest.raises(asyncio.CancelledError):
            await calls[1]
        await client.close()
        with pytest.raises(CallCancelledError, match="is closed"):
            await calls[0]


@pytest.mark.parametrize("timeout_s", [math.inf, 1e300, 7.5e9])
async def test_any_time_may_be_allowed(timeout_s):
    with scripted_server(Scripted()) as address:
        with Client(address, timeout_s=timeout_s) as client:
            assert client.info().backend == "scripted"
            assert client.info(timeout_s=timeout_s).backend == "scripted"
            client.wait_for_ready(timeout_s)
        async with AsyncClient(address, timeout_s=timeout_s) as client:
            assert (await client.info()).backend == "scripted"


def test_no_time_is_over_at_once_and_what_is_no_time_is_refused():
    with Client("127.0.0.1:1") as client:
        for timeout_s in (0, -1, -math.inf):
            with pytest.raises(DeadlineExceededError):
                client.info(timeout_s=timeout_s)
        with pytest.raises(RequestError, match="timeout_s is nan"):
            client.info(timeout_s=math.nan)


def test_a_response_may_be_as_large_as_its_server_allows():
    class Talkative(Scripted):
        def GetInfo(self, request, context):
            return pb.GetInfoResponse(backend="x" * (Limits().response_bytes_max + 1))

    with scripted_server(Talkative()) as address, Client(address, timeout_s=WAIT_S) as client:
        assert len(client.info().backend) > Limits().response_bytes_max

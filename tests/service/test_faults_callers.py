"""Callers who never read, who cancel everything, who come and go by the thousand: others are answered all the same."""

import asyncio
import contextlib
import socket
import threading
import time
from pathlib import Path

import grpc
import pytest
from processes import content, request, stub_of, wait_for
from raw_http2 import SETTINGS, Frame, raw_connection
from serving import WAIT_S

from ffnsearch.v1 import ffnsearch_pb2_grpc as pb_grpc

LIMITS = {"streams_max": 64, "keepalive_ms": 1000, "ping_timeout_ms": 1000, "calls_max": 512}
PREDICT = "/ffnsearch.v1.PredictionService/Predict"
CONNECTIONS = 10_000
AT_A_TIME = 250
CANCELLED = 4000
MIB = 1 << 20
ESTABLISHED = "01"


@pytest.fixture(scope="module")
def server(servers, tiny_snapshot):
    assignments = [argument for key, value in LIMITS.items() for argument in ("--set", f"limits.{key}={value}")]
    with servers.serving(tiny_snapshot, "--set", "logging.level=warning", *assignments) as started:
        yield started


@pytest.fixture
def others(server):
    """Somebody who calls all the while, and is answered rightly."""
    ended = threading.Event()
    problems = []
    answered = []
    with stub_of(server.address) as stub:
        right = content(stub.Predict(request(), timeout=WAIT_S))

        def call_on():
            while not ended.is_set():
                try:
                    if content(stub.Predict(request(), timeout=WAIT_S)) != right:
                        problems.append("a wrong answer")
                except grpc.RpcError as error:
                    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                        problems.append(error.code())
                answered.append(1)

        caller = threading.Thread(target=call_on)
        caller.start()
        try:
            yield lambda: len(answered)
        finally:
            ended.set()
            caller.join(WAIT_S)
        assert content(stub.Predict(request(), timeout=WAIT_S)) == right
    assert problems == []
    assert answered


def is_idle(server):
    return server.measured("ffnsearch_calls_in_flight") == server.measured("ffnsearch_queue_calls") == 0


def is_quiet(server):
    """Whether there is no more than one caller's call."""
    return server.measured("ffnsearch_calls_in_flight") <= 1


def has_connection(pid, port):
    """Whether the process still has its end of the connection from a port of ours."""
    tables = [Path(f"/proc/{pid}/net/{table}").read_text() for table in ("tcp", "tcp6")]
    lines = [line.split() for table in tables for line in table.splitlines()[1:]]
    return any(line[2].endswith(f":{port:04X}") and line[3] == ESTABLISHED for line in lines)


async def cancel_all(address):
    """Send calls over some connections, and cancel each at once, soon after, or once the engine has it."""
    channels = [grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(4)]
    stubs = [pb_grpc.PredictionServiceStub(channel) for channel in channels]
    asked = request(prompts=16)
    for _ in range(CANCELLED // 100):
        calls = [stubs[number % 4].Predict(asked, timeout=WAIT_S) for number in range(100)]
        for number, call in enumerate(calls):
            if number % 10 == 0:
                await asyncio.sleep(0)
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    for channel in channels:
        await channel.close()


def test_calls_that_are_all_cancelled_leave_nothing(server, others):
    begun = server.measured("ffnsearch_calls_total")
    before = others()
    asyncio.run(cancel_all(server.address))
    wait_for(lambda: others() > before + 10)
    assert server.measured("ffnsearch_calls_total") > begun


def test_after_all_callers_have_gone_nothing_waits(server):
    wait_for(lambda: is_idle(server))


def come_and_go(address, number):
    """Open connections, let them be in different states of beginning, and drop them all."""
    host, port = address.split(":")
    with contextlib.ExitStack() as opened:
        for place in range(AT_A_TIME):
            connection = opened.enter_context(socket.create_connection((host, int(port)), WAIT_S))
            if place % 3 == 1:
                connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + Frame(SETTINGS, 0, 0).encode())
            elif place % 3 == 2:
                connection.sendall(b"GET / HTTP/1.1\r\n\r\n")


def test_ten_thousand_connections_come_and_go(server, others):
    come_and_go(server.address, 0)  # the first ones make the server's own memory grow
    files, rss_bytes = server.files, server.rss_bytes
    for number in range(CONNECTIONS // AT_A_TIME):
        come_and_go(server.address, number)
        wait_for(lambda: server.files <= files + AT_A_TIME)
    before = others()
    wait_for(lambda: others() > before + 5)
    wait_for(lambda: server.files <= files + 8)
    assert server.rss_bytes < rss_bytes + 40 * MIB


def test_a_caller_who_never_reads_takes_bounded_memory_and_is_let_go(server, others):
    large = request(prompts=256, dense=True)
    with stub_of(server.address) as stub:
        response_bytes = stub.Predict(large, timeout=WAIT_S).ByteSize()
    body = large.SerializeToString()
    message = b"\0" + len(body).to_bytes(4, "big") + body
    rss_bytes, most_bytes = server.rss_bytes, 0
    with raw_connection(server.address) as connection:
        connection.greet()
        for number in range(LIMITS["streams_max"]):
            connection.call(PREDICT, 2 * number + 1, body=message)
        assert has_connection(server.pid, connection.port)
        ends_s = time.monotonic() + WAIT_S
        while has_connection(server.pid, connection.port):
            assert time.monotonic() < ends_s, "it is not let go"
            most_bytes = max(most_bytes, server.rss_bytes - rss_bytes)
    assert response_bytes < most_bytes < LIMITS["streams_max"] * response_bytes + 64 * MIB
    wait_for(lambda: is_quiet(server))

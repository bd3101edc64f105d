"""What callers leave unread is bounded in bytes: who reads nothing is refused, and costs the others nothing."""

import contextlib

import pytest
from processes import content, request, stub_of, wait_for
from raw_http2 import DATA, END_STREAM, HEADERS, RawConnection, raw_connection
from serving import WAIT_S

from ffnsearch_service.client import Client
from ffnsearch_service.config import Limits
from ffnsearch_service.errors import ResourceExhaustedError, UnreadError
from ffnsearch_service.outgoing import SHARES, Outgoing

PREDICT = "/ffnsearch.v1.PredictionService/Predict"
MIB = 1 << 20
UNREAD_BYTES_MAX = 2 * MIB
SHARE_BYTES = UNREAD_BYTES_MAX // SHARES
CALLS = 16
MORE_CALLS = 600
LARGE = request(prompts=64, dense=True)


def released(*holds):
    for release in holds:
        release(None)


def test_a_connection_may_leave_a_quarter_unread_and_one_response_more():
    outgoing = Outgoing(Limits(unread_bytes_max=400))
    first, second = outgoing.hold("a", bytes(100)), outgoing.hold("a", bytes(70))
    assert outgoing.unread_bytes == 170
    for refused in (lambda: outgoing.check("a"), lambda: outgoing.hold("a", b"more")):
        with pytest.raises(UnreadError, match=r"170 bytes .* on this connection .* more than 100: read the responses"):
            refused()
    outgoing.check("b")
    released(second)
    outgoing.check("a")
    released(first)
    assert outgoing.unread_bytes == 0


def test_all_connections_together_may_leave_the_whole_unread_and_one_response_more():
    outgoing = Outgoing(Limits(unread_bytes_max=400))
    holds = [outgoing.hold(peer, bytes(100)) for peer in "abcd"]
    holds.append(outgoing.hold("e", bytes(1)))
    for peer in ("a", "f"):
        with pytest.raises(UnreadError, match=r"401 bytes .* on all connections .* more than 400: read the responses"):
            outgoing.check(peer)
    released(holds.pop())
    outgoing.check("f")
    released(*holds)
    assert outgoing.unread_bytes == 0


@pytest.fixture(scope="module")
def server(servers, tiny_snapshot):
    limits = f"limits.unread_bytes_max={UNREAD_BYTES_MAX}"
    with servers.serving(tiny_snapshot, "--set", "logging.level=warning", "--set", limits) as started:
        yield started


@pytest.fixture(scope="module")
def response(server):
    """What `LARGE` is answered, and how long that is."""
    with stub_of(server.address) as stub:
        answer = stub.Predict(LARGE, timeout=WAIT_S)
    assert answer.ByteSize() < SHARE_BYTES < CALLS * answer.ByteSize() / 2
    return content(answer), answer.ByteSize()


def unread_bytes(server):
    return server.measured("ffnsearch_unread_bytes")


def is_settled(server):
    """Whether every call was answered or refused."""
    return server.measured("ffnsearch_calls_in_flight") == 0


def call(connection: RawConnection, *numbers: int) -> None:
    """Send `LARGE` on streams, without a window for what it is answered."""
    body = LARGE.SerializeToString()
    for number in numbers:
        connection.call(PREDICT, 2 * number + 1, body=b"\0" + len(body).to_bytes(4, "big") + body)


def fill(server, connection: RawConnection) -> None:
    """Leave as much unread as the server allows."""
    connection.greet()
    begun = server.measured("ffnsearch_calls_total")
    call(connection, *range(CALLS))
    wait_for(lambda: server.measured("ffnsearch_calls_total") == begun + CALLS and is_settled(server))


def refusals(frames):
    """Streams that were refused because of what is unread."""
    return {one.stream for one in frames if one.kind == HEADERS and b"read the responses" in one.payload}


def test_who_does_not_read_is_refused_and_the_others_are_answered(server, response):
    right, response_bytes = response
    with raw_connection(server.address) as connection, stub_of(server.address) as stub:
        fill(server, connection)
        assert SHARE_BYTES < unread_bytes(server) < SHARE_BYTES + response_bytes + 100
        connection.read(wait_s=0.1)
        rss_bytes = server.rss_bytes
        more = range(CALLS, CALLS + MORE_CALLS)  # each is refused before any work
        call(connection, *more)
        frames = connection.read(lambda frames: len(refusals(frames)) == MORE_CALLS)
        assert refusals(frames) == {2 * number + 1 for number in more}
        assert server.rss_bytes < rss_bytes + MORE_CALLS * response_bytes / 2
        assert content(stub.Predict(LARGE, timeout=WAIT_S)) == right
    wait_for(lambda: unread_bytes(server) == 0)


def test_who_reads_at_last_gets_what_was_answered_and_is_taken_again(server, response):
    with raw_connection(server.address) as connection:
        fill(server, connection)
        waiting_bytes = unread_bytes(server)
        frames = connection.read(wait_s=0.1)
        connection.open_window(*range(1, 2 * CALLS, 2), size=UNREAD_BYTES_MAX)
        frames += connection.read(lambda _: unread_bytes(server) == 0)
        frames += connection.read(wait_s=0.1)
        assert sum(len(one.payload) for one in frames if one.kind == DATA) >= waiting_bytes
        call(connection, CALLS)
        connection.open_window(2 * CALLS + 1, size=UNREAD_BYTES_MAX)
        frames = connection.read(lambda frames: any(one.flags & END_STREAM for one in frames))
        assert sum(len(one.payload) for one in frames if one.kind == DATA) > response[1] - 100


def test_at_the_limit_of_all_others_are_refused_until_somebody_leaves(server, response):
    with Client(server.address) as client, raw_connection(server.address) as leaving, contextlib.ExitStack() as staying:
        for connection in (
            leaving,
            *(staying.enter_context(raw_connection(server.address)) for _ in range(SHARES - 1)),
        ):
            fill(server, connection)
        with pytest.raises(ResourceExhaustedError, match="on all connections") as refused:
            client.info()
        assert (refused.value.reason, refused.value.retry_after_s) == ("RESPONSES_UNREAD", None)
        leaving.close()
        wait_for(lambda: unread_bytes(server) < UNREAD_BYTES_MAX)
        assert client.info().limits
    wait_for(lambda: unread_bytes(server) == 0)

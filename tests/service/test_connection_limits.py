"""What a connection may not do ends it or is refused: each limit that gRPC is given is one that it keeps."""

import time

import grpc
import pytest
from looping import WAIT_S
from protected import SERVICE, Methods, protected
from raw_http2 import (
    GOAWAY,
    HEADERS,
    MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE,
    PING,
    RST_STREAM,
    Frame,
    raw_connection,
)

from ffnsearch_service.config import Limits
from ffnsearch_service.security.protection import Protection
from ffnsearch_service.security.server_options import server_options

PING_FRAME = Frame(PING, 0, 0, b"12345678")


def served(methods=None, **limits):
    return protected(Protection.open(Limits(**limits)), methods)


def headers_of(frames):
    """All headers and trailers, as they travel."""
    return b"".join(frame.payload for frame in frames if frame.kind == HEADERS)


def ended_with(connection, why):
    """Whether the server says goodbye for this reason, and closes."""
    frames = connection.read()
    return connection.closed and why in [frame.payload[8:] for frame in frames if frame.kind == GOAWAY]


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_request_counts_with_what_it_is_decompressed(compression):
    with served(request_bytes_max=100_000) as address, grpc.insecure_channel(address) as channel:
        echo = channel.unary_unary(f"/{SERVICE}/Echo")
        assert echo(b"a" * 99_000, compression=compression, timeout=WAIT_S)
        with pytest.raises(grpc.RpcError) as caught:
            echo(b"a" * 10_000_000, compression=compression, timeout=WAIT_S)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_response_beyond_the_limit_is_refused():
    with served(response_bytes_max=1000) as address, grpc.insecure_channel(address) as channel:
        echo = channel.unary_unary(f"/{SERVICE}/Echo")
        with pytest.raises(grpc.RpcError) as caught:
            echo(b"a" * 1001, timeout=WAIT_S)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_streams_beyond_the_limit_are_refused_and_the_others_answered():
    with served(Methods(), streams_max=4) as address, raw_connection(address) as connection:
        assert connection.greet()[MAX_CONCURRENT_STREAMS] == 4
        for number in range(10):
            connection.call(f"/{SERVICE}/Silent", 1 + 2 * number)
        frames = connection.read(lambda frames: len({f.stream for f in frames if f.kind == RST_STREAM}) == 6)
        assert {f.stream for f in frames if f.kind == RST_STREAM} == {9, 11, 13, 15, 17, 19}
        assert not connection.closed


def test_calls_below_the_limit_are_all_answered():
    with served(streams_max=200) as address, grpc.insecure_channel(address) as channel:
        echo = channel.unary_unary(f"/{SERVICE}/Echo")
        for _ in range(5):
            calls = [echo.future(b"hello", timeout=WAIT_S) for _ in range(40)]
            assert {call.result() for call in calls} == {b"hello from "}


def test_streams_that_are_begun_and_reset_at_once_harm_nobody_else():
    with served() as address, raw_connection(address) as connection, grpc.insecure_channel(address) as channel:
        connection.greet()
        for number in range(5000):
            connection.call(f"/{SERVICE}/Silent", 1 + 2 * number)
            connection.send(Frame(RST_STREAM, 0, 1 + 2 * number, b"\0\0\0\x08"))
        assert channel.unary_unary(f"/{SERVICE}/Echo")(b"hello", timeout=WAIT_S) == b"hello from "


@pytest.mark.parametrize(("characters", "is_taken"), [(3000, True), (5000, False), (60_000, False)])
def test_metadata_beyond_the_limit_is_refused(characters, is_taken):
    with served(metadata_bytes_max=4096) as address, raw_connection(address) as connection:
        assert connection.greet()[MAX_HEADER_LIST_SIZE] == 4096
        connection.send(PING_FRAME)
        connection.read(lambda frames: PING in [frame.kind for frame in frames])  # the server has seen: we accept them
        connection.call(f"/{SERVICE}/Echo", 1, ("x-long", "a" * characters))
        headers = headers_of(connection.read(lambda frames: b"grpc-status" in headers_of(frames)))
        assert (b"grpc-status\x010" in headers) is is_taken
        assert (b"exceeds hard limit" in headers) is not is_taken


@pytest.mark.parametrize("greets", [False, True])
def test_who_does_not_accept_the_limits_is_let_go(greets):
    with served(handshake_ms_max=200) as address, raw_connection(address) as connection:
        began_s = time.monotonic()
        if greets:
            connection.greet(accept_settings=False)
        connection.read()
        assert connection.closed
        assert 0.1 < time.monotonic() - began_s < 4


def test_a_flood_of_pings_ends_the_connection():
    with served(ping_strikes_max=2, ping_interval_ms_min=10_000) as address, raw_connection(address) as connection:
        connection.greet()
        connection.send(*[PING_FRAME] * 10)
        assert ended_with(connection, b"too_many_pings")


def test_pings_at_the_allowed_rate_are_answered():
    with served(ping_strikes_max=1, ping_interval_ms_min=20) as address, raw_connection(address) as connection:
        connection.greet()
        for _ in range(6):
            time.sleep(0.04)
            connection.send(PING_FRAME)
        frames = connection.read(lambda frames: sum(frame.kind == PING for frame in frames) == 6)
        assert sum(frame.kind == PING for frame in frames) == 6
        assert not connection.closed


def test_a_client_that_answers_no_ping_is_gone():
    with served(keepalive_ms=1000, ping_timeout_ms=200) as address, raw_connection(address) as connection:
        connection.greet()
        assert ended_with(connection, b"ping_timeout")


def test_an_idle_connection_is_closed():
    with served(connection_idle_ms_max=300) as address, raw_connection(address) as connection:
        connection.greet()
        assert ended_with(connection, b"connection idle")


def test_an_old_connection_is_closed_and_its_streams_after_the_grace():
    limits = {"connection_age_ms_max": 300, "connection_age_grace_ms_max": 300}
    with served(**limits) as address, grpc.insecure_channel(address) as channel:
        stream = channel.unary_stream(f"/{SERVICE}/Silent")(b"", timeout=WAIT_S)
        assert next(stream) == b"only"
        began_s = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        assert time.monotonic() - began_s < 5
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert channel.unary_unary(f"/{SERVICE}/Echo")(b"hello", timeout=WAIT_S) == b"hello from "


def test_calls_on_connections_that_grow_old_are_all_answered():
    limits = {"connection_age_ms_max": 100, "connection_age_grace_ms_max": 2000}
    with served(**limits) as address, grpc.insecure_channel(address) as channel:
        echo = channel.unary_unary(f"/{SERVICE}/Echo")
        ends_s = time.monotonic() + 1
        while time.monotonic() < ends_s:
            assert echo(b"hello", timeout=WAIT_S) == b"hello from "


def test_every_option_comes_from_a_limit():
    options = dict(server_options(Limits()))
    assert len(options) == len(server_options(Limits()))
    doubled = {name: 2 * value for name, value in vars(Limits()).items()}
    changed = {name for name, value in server_options(Limits(**doubled)) if options[name] != value}
    assert options.keys() - changed == {"grpc.so_reuseport", "grpc.keepalive_permit_without_calls"}

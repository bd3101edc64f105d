"""A closed door refuses in words that a client acts on, and lets those who ask for health in."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from raw_http2 import END_STREAM, HEADERS, raw_connection

from ffnsearch_service.client.failures import service_error
from ffnsearch_service.door import Door
from ffnsearch_service.entrance import Entrance
from ffnsearch_service.operations.calls import CallWatch

ECHO = "/a.Service/Echo"


async def echo(data, context):
    return data


async def asked(ask, *, is_closed):
    """What is found by asking a server, whose address is given, while its door is open or closed."""
    door = Door()
    entrance = Entrance(door, CallWatch(lambda: None, lambda record, is_unary: None))
    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    entrance.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.Service", handlers),))
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), entrance)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((entrance,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        if is_closed:
            await door.close(lambda: 0, grace_s=5)
        return await asyncio.to_thread(ask, f"127.0.0.1:{port}")
    finally:
        await server.stop(0)


def call(address):
    with grpc.insecure_channel(address, [("grpc.enable_retries", 0)]) as channel:
        return channel.unary_unary(ECHO)(b"hello", timeout=60)


def health_of(address):
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest()
        return health_pb2_grpc.HealthStub(channel).Check(request, timeout=60).status


def headers_of(address):
    """The frames of headers that a call gets: initial metadata and trailers, or trailers alone."""
    with raw_connection(address) as connection:
        connection.greet()
        connection.call(ECHO, 1)
        frames = connection.read(lambda frames: any(one.kind == HEADERS and one.flags & END_STREAM for one in frames))
        return [one for one in frames if one.kind == HEADERS]


def test_an_open_door_lets_calls_in():
    assert asyncio.run(asked(call, is_closed=False)) == b"hello"
    assert len(asyncio.run(asked(headers_of, is_closed=False))) == 2


def test_a_closed_door_refuses_in_words_that_a_client_acts_on():
    with pytest.raises(grpc.RpcError) as caught:
        asyncio.run(asked(call, is_closed=True))
    error = service_error(caught.value, "here")
    assert (error.code, error.reason) == ("UNAVAILABLE", "SHUTTING_DOWN")


def test_no_initial_metadata_comes_before_a_refusal():
    assert len(asyncio.run(asked(headers_of, is_closed=True))) == 1  # after them gRPC would not try again


def test_health_is_told_behind_a_closed_door():
    assert asyncio.run(asked(health_of, is_closed=True)) == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(("calls", "grace_s", "looks"), [([2, 1, 0], 5, 3), ([1] * 1000, 0.05, None)])
def test_a_door_that_closes_waits_for_the_calls_it_let_in_but_not_beyond_the_grace(calls, grace_s, looks):
    left = iter(calls)
    seen = []

    def runs():
        seen.append(next(left))
        return seen[-1]

    asyncio.run(Door().close(runs, grace_s))
    assert len(seen) == looks if looks else len(seen) < 50

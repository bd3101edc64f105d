"""Health says what is so: of the server, of each service, of each snapshot and alias; to who asks and who watches."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ffnsearch_service.operations import health as module
from ffnsearch_service.operations.health import Health
from ffnsearch_service.operations.seen import CatalogSeen, SnapshotSeen

UNKNOWN, SERVING, NOT_SERVING = (
    health_pb2.HealthCheckResponse.SERVICE_UNKNOWN,
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
)
PREDICTION, ADMIN = "a.Prediction", "a.Admin"


def held(*names, closed=(), **aliases):
    """A catalog in which the snapshots of these names are open, and others are not."""
    return CatalogSeen({name: SnapshotSeen("id", 1, "tiles") for name in names}, aliases, frozenset(closed))


@pytest.fixture
def health():
    return Health(PREDICTION, [ADMIN])


@pytest.fixture
async def stub(health):
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield health_pb2_grpc.HealthStub(channel)
    await server.stop(0)


def asked(service):
    return health_pb2.HealthCheckRequest(service=service)


def test_nothing_is_serving_before_it_is_ready(health):
    health.see(held("a"))
    assert [health.status(service) for service in ("", PREDICTION, ADMIN, "snapshot/a")] == [NOT_SERVING] * 4
    assert not health.is_ready
    health.ready()
    assert [health.status(service) for service in ("", PREDICTION, ADMIN, "snapshot/a")] == [SERVING] * 4
    assert health.is_ready


async def test_an_end_that_comes_while_a_watcher_is_being_told_is_told_next(health):
    """The watch waits for its first message to be sent, and the status changes meanwhile."""
    health.ready()
    watch = health.Watch(asked(ADMIN), None)
    assert (await anext(watch)).status == SERVING
    end = asyncio.create_task(health.drain())
    await asyncio.sleep(0)
    assert (await anext(watch)).status == NOT_SERVING
    with pytest.raises(StopAsyncIteration):
        await anext(watch)
    await end


def test_predictions_need_a_snapshot_and_the_rest_does_not(health):
    health.ready()
    assert (health.status(""), health.status(PREDICTION), health.status(ADMIN)) == (SERVING, NOT_SERVING, SERVING)
    health.see(held("a"))
    assert health.status(PREDICTION) == SERVING


def test_snapshots_and_aliases_have_a_health_of_their_own(health):
    health.ready()
    health.see(held("a", default="b"))
    assert (health.status("snapshot/a"), health.status("snapshot/default")) == (SERVING, NOT_SERVING)
    health.see(held("a", "b", default="b"))
    assert health.status("snapshot/default") == SERVING
    health.see(held("a", default="b"))
    assert (health.status("snapshot/default"), health.status("snapshot/b")) == (NOT_SERVING, None)
    health.see(held("a"))
    assert [health.status(name) for name in ("snapshot/default", "a", "snapshot/", "elsewhere")] == [None] * 4


def test_a_snapshot_that_is_not_open_is_not_serving(health):
    health.ready()
    health.see(held(closed=["a"], default="a"))
    assert [health.status(f"snapshot/{name}") for name in ("a", "default")] == [NOT_SERVING] * 2


async def test_the_end_is_the_end(health):
    health.see(held("a"))
    health.ready()
    await health.drain()
    health.ready()
    health.see(held("a", "b"))
    assert [health.status(service) for service in ("", PREDICTION, "snapshot/a", "snapshot/b")] == [NOT_SERVING] * 4


async def test_check_answers_or_says_that_there_is_no_such_thing(health, stub):
    health.ready()
    assert (await stub.Check(asked(""))).status == SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(asked("snapshot/none"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_list_has_everything_that_check_answers(health, stub):
    health.ready()
    health.see(held("a", closed=["b"], default="a"))
    statuses = (await stub.List(health_pb2.HealthListRequest())).statuses
    names = ("", PREDICTION, ADMIN, "snapshot/a", "snapshot/b", "snapshot/default")
    assert {name: found.status for name, found in statuses.items()} == {name: health.status(name) for name in names}


async def test_watch_tells_every_change_once_and_ends_with_the_server(health, stub):
    watch = stub.Watch(asked("snapshot/a"))
    messages = aiter(watch)
    told = [(await anext(messages)).status]
    changes = (
        lambda: health.see(held("a")),
        health.ready,
        lambda: health.see(held("a", "b")),
        lambda: health.see(held("b")),
    )
    for change in changes:
        change()
        await asyncio.sleep(0.05)
    health.see(held("a", "b"))
    told += [(await anext(messages)).status for _ in range(4)]
    await health.drain()
    told += [message.status async for message in messages]
    assert told == [UNKNOWN, NOT_SERVING, SERVING, UNKNOWN, SERVING, NOT_SERVING]
    assert await watch.code() is grpc.StatusCode.OK


async def test_a_watcher_that_does_not_read_holds_up_nobody(health, stub, monkeypatch):
    watch = stub.Watch(asked(""))
    await asyncio.sleep(0.05)
    health.ready()
    await asyncio.wait_for(health.drain(), 2 * module.TOLD_S_MAX)
    watch.cancel()


async def test_watches_are_limited_and_come_back(health, stub, monkeypatch):
    monkeypatch.setattr(module, "WATCHES_MAX", 1)
    first = stub.Watch(asked(""))
    await first.read()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Watch(asked("")).read()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    first.cancel()
    async with asyncio.timeout(5):
        while health._watchers:
            await asyncio.sleep(0.01)
    assert (await stub.Watch(asked("")).read()).status == NOT_SERVING

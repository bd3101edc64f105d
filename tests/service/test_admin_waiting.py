"""Calls of the administration that take long: their callers may leave, and only so many may wait.

When the end begins they are answered, and builds stop; loads stop when their grace is over.
"""

import asyncio
import threading
import time
from contextlib import contextmanager

import grpc
import pytest
from admin_serving import WithoutEngine, make_site
from google.longrunning import operations_pb2, operations_pb2_grpc
from looping import WAIT_S, loop_thread, run_in
from processes import wait_for
from serving import operations_for

from ffnsearch.v1 import admin_pb2 as pb
from ffnsearch.v1 import admin_pb2_grpc as pb_grpc
from ffnsearch_service.admin import waiting
from ffnsearch_service.admin.administration import Administration
from ffnsearch_service.admin.servicer import LOADS_AT_A_TIME
from ffnsearch_service.builds.builds import Builds
from ffnsearch_service.catalog import Catalog
from ffnsearch_service.client import admin as admin_client
from ffnsearch_service.client.admin import AdminClient
from ffnsearch_service.config import Limits, ServerConfig
from ffnsearch_service.security.protection import Protection
from ffnsearch_service.server import Server


@pytest.fixture
def site(tmp_path, tiny_model):
    return make_site(tmp_path, tiny_model)


@pytest.fixture
def builds(site):
    made = Builds(site.folders, site.state / "operations", command=site.fake_command)
    made.start()
    yield made
    made.close()


class SlowOpener:
    """Opens the same snapshot for every folder once it may go on, unless a checkpoint says that it must not."""

    def __init__(self, snapshot):
        self.snapshot = snapshot
        self.began = []
        self.go_on = threading.Event()
        self.catalog = Catalog(self, size_of=lambda _: 1)

    def __call__(self, name, folder):
        self.began.append(name)
        while not self.go_on.is_set():
            self.catalog.checkpoint()
            time.sleep(0.002)
        return WithoutEngine.open(self.snapshot, check="sizes")


@contextmanager
def serving_to_the_end(engine, administration, **settings):
    """Serve with an administration; yields the server, a channel, and what begins the end and gives its future."""
    config = ServerConfig(port=0, **settings)
    with operations_for(engine, config) as operations, loop_thread() as loop:

        async def start():
            made = Server(engine, config, operations, Protection.open(config.limits), administration)
            return made, await made.start()

        server, address = run_in(loop, start())
        ends = []

        def end():
            ends.append(asyncio.run_coroutine_threadsafe(server.stop(), loop))
            return ends[0]

        with grpc.insecure_channel(address) as channel:
            try:
                yield server, channel, end
            finally:
                (ends[0] if ends else end()).result(WAIT_S)


def begin_build(channel, name="june"):
    return pb_grpc.AdminServiceStub(channel).BuildSnapshot(pb.BuildSnapshotRequest(name=name, corpus="novel.txt")).name


def wait_for_end(channel, name):
    stub = operations_pb2_grpc.OperationsStub(channel)
    return stub.WaitOperation.future(operations_pb2.WaitOperationRequest(name=name), timeout=WAIT_S)


def load(channel, name):
    stub = pb_grpc.AdminServiceStub(channel)
    return stub.LoadSnapshot.future(pb.LoadSnapshotRequest(name=name), timeout=WAIT_S)


def test_a_load_that_waits_for_its_turn_happens_though_its_caller_has_left(engine, site, tiny_snapshot):
    opener = SlowOpener(tiny_snapshot)
    with serving_to_the_end(engine, Administration(opener.catalog, site.folders), grace_s=2) as (server, channel, _):
        running = [load(channel, f"running-{number}") for number in range(LOADS_AT_A_TIME)]
        wait_for(lambda: len(opener.began) == LOADS_AT_A_TIME)
        left = load(channel, "left")
        wait_for(lambda: server._admin._loads._work_queue.qsize())
        left.cancel()
        stub = pb_grpc.AdminServiceStub(channel)
        for _ in range(2):  # the server has heard of what was cancelled before the first
            stub.ListSnapshots(pb.ListSnapshotsRequest())
        opener.go_on.set()
        assert [call.result(WAIT_S).snapshot.state for call in running] == [pb.SNAPSHOT_STATE_OPEN] * LOADS_AT_A_TIME
        wait_for(lambda: "left" in [view.name for view in opener.catalog.snapshots() if view.state == "OPEN"])
    opener.catalog.close()


def test_a_load_that_fails_is_listed_with_its_error_though_its_caller_has_left(engine, site, tmp_path):
    opener = SlowOpener(tmp_path)
    with serving_to_the_end(engine, Administration(opener.catalog, site.folders)) as (_, channel, _):
        stub, left = pb_grpc.AdminServiceStub(channel), load(channel, "left")
        wait_for(lambda: opener.began)
        left.cancel()
        opener.go_on.set()
        wait_for(lambda: opener.catalog.snapshot("left").state == "FAILED")
        found = stub.GetSnapshot(pb.GetSnapshotRequest(name="left")).snapshot
        assert (found.state, found.folder) == (pb.SNAPSHOT_STATE_FAILED, "left")
        assert found.error.startswith(f"{tmp_path.name} is no snapshot")
        assert stub.ListSnapshots(pb.ListSnapshotsRequest()).snapshots == [found]


def test_a_load_that_outlasts_the_grace_is_stopped(engine, site, tiny_snapshot):
    opener = SlowOpener(tiny_snapshot)
    with serving_to_the_end(engine, Administration(opener.catalog, site.folders), grace_s=0.2) as (_, channel, end):
        call = load(channel, "one")
        wait_for(lambda: opener.began)
        end().result(WAIT_S)
        assert [view.state for view in opener.catalog.snapshots()] == ["FAILED"]
        assert call.exception(WAIT_S) is not None


def test_a_load_has_its_grace_though_its_caller_has_left(engine, site, tiny_snapshot):
    opener = SlowOpener(tiny_snapshot)
    with serving_to_the_end(engine, Administration(opener.catalog, site.folders), grace_s=WAIT_S) as served:
        server, channel, end = served
        left = load(channel, "left")
        wait_for(lambda: opener.began)
        left.cancel()
        ended = end()
        wait_for(lambda: not server._door._is_open)
        time.sleep(0.2)  # longer than the door tells callers that it is closed
        assert not ended.done()
        opener.go_on.set()
        ended.result(WAIT_S)
        assert [view.state for view in opener.catalog.snapshots()] == ["OPEN"]
    opener.catalog.close()


def test_no_call_is_taken_at_the_end_though_builds_cannot_be_stopped_yet(engine, site, builds):
    administration = Administration(Catalog(lambda *_: None), site.folders, builds)
    with serving_to_the_end(engine, administration, grace_s=0.1) as (server, _, end), builds._lock:
        end()
        wait_for(lambda: not server._door._is_open)


def test_a_client_waits_by_asking_now_and_then_where_too_many_wait(engine, site, builds, monkeypatch):
    monkeypatch.setattr(admin_client, "POLL_S", 0.01)
    administration = Administration(Catalog(lambda *_: None), site.folders, builds)
    limits = Limits(waits_max=1)
    with serving_to_the_end(engine, administration, grace_s=2, limits=limits) as (server, channel, _):
        name = begin_build(channel)
        waiting_call = wait_for_end(channel, name)
        wait_for(lambda: server._admin._waits._waiting)
        looks = []

        def look(operation):
            looks.append(operation.done)
            if len(looks) == 3:
                site.let_go()

        monkeypatch.setattr(admin_client, "open_channel", lambda *_: channel)
        with AdminClient("127.0.0.1:1", timeout_s=WAIT_S) as client:
            assert client.wait(name, timeout_s=WAIT_S, on_progress=look).done
            assert waiting_call.result(WAIT_S).done
    assert looks[:3] == [False] * 3


def test_who_waits_for_a_build_is_told_how_far_it_is_when_the_end_begins_and_the_build_stops(engine, site, builds):
    administration = Administration(Catalog(lambda *_: None), site.folders, builds)
    with serving_to_the_end(engine, administration, grace_s=2) as (server, channel, end):
        name = begin_build(channel)
        call = wait_for_end(channel, name)
        wait_for(lambda: server._admin._waits._waiting)
        end()
        assert not call.result(WAIT_S).done
        wait_for(lambda: builds._builds[name.removeprefix("operations/")].process is None)
        assert builds.get(name.removeprefix("operations/")).record.state == "RUNNING"  # the next start goes on with it


def test_so_many_may_wait_and_no_more(engine, site, builds):
    administration = Administration(Catalog(lambda *_: None), site.folders, builds)
    limits = Limits(waits_max=2)
    with serving_to_the_end(engine, administration, grace_s=2, limits=limits) as (server, channel, _):
        name = begin_build(channel)
        calls = [wait_for_end(channel, name) for _ in range(2)]
        wait_for(lambda: len(server._admin._waits._waiting) == 2)
        refused = wait_for_end(channel, name).exception(WAIT_S)
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "2 callers wait" in refused.details()
        site.let_go()
        assert all(call.result(WAIT_S).done for call in calls)
        assert wait_for_end(channel, name).result(WAIT_S).done


async def test_those_who_wait_share_one_look(monkeypatch):
    monkeypatch.setattr(waiting, "LOOK_S", 0)
    looks = [{"a"}, {"a"}, set()]

    async def unfinished():
        return looks.pop(0)

    waits = waiting.Waits(unfinished, 50)
    await asyncio.gather(*(waits.until_ended("a", WAIT_S) for _ in range(50)))
    assert looks == []


async def test_a_look_says_nothing_of_an_operation_that_begins_meanwhile(monkeypatch):
    monkeypatch.setattr(waiting, "LOOK_S", 0)
    later = []

    async def unfinished():
        if not later:
            later.append(asyncio.create_task(waits.until_ended("b", WAIT_S)))
            await asyncio.sleep(0)
            return {"a"}
        assert not later[0].done()
        return {}

    waits = waiting.Waits(unfinished, 50)
    await waits.until_ended("a", WAIT_S)
    await later[0]


async def test_nobody_waits_beyond_the_time_allowed_or_the_end():
    async def unfinished():
        return {"a"}

    waits = waiting.Waits(unfinished, 50)
    await waits.until_ended("a", 0.001)
    waiter = asyncio.create_task(waits.until_ended("a", WAIT_S))
    await asyncio.sleep(0)
    waits.end()
    await waiter
    await waits.until_ended("a", WAIT_S)

"""SIGKILL at any moment, and a full disk: what was told holds after a restart, and nothing is left half done."""

import random
import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from admin_serving import make_site
from processes import content, request, stub_of, wait_for
from serving import WAIT_S
from vitals import free_port, hurry, is_running

from ffnsearch_service.client.admin import AdminClient
from ffnsearch_service.errors import UnavailableError

KILLS = 4
BUILD_S = 300.0
"""How long a build of a tiny corpus, at the lowest priority, may take on a machine that has much else to do."""
INODES = 12  # files and folders that fit on the full disk: fewer than a build makes


@pytest.fixture
def site(tmp_path, tiny_model, tiny_corpus, tiny_snapshot, other_snapshot):
    """Folders as an operator sets them up, with the snapshots `one` and `two`."""
    made = make_site(tmp_path, tiny_model, tiny_corpus.text[:1500])
    shutil.copytree(tiny_snapshot, made.folders.snapshots / "one")
    shutil.copytree(other_snapshot, made.folders.snapshots / "two")
    return made


def arguments(site, *snapshots):
    """Of `ffnsearch serve`, for a server that can be administered."""
    settings = {
        "admin.enabled": "true",
        "server.state_folder": site.state,
        "admin.snapshots_folder": site.folders.snapshots,
        "admin.corpora_folder": site.folders.corpora,
        "admin.models_folder": site.folders.models,
    }
    paths = [f"{name}={site.folders.snapshots / name}" for name in snapshots]
    return [*paths, *(part for key, value in settings.items() for part in ("--set", f"{key}={value}"))]


def answer(server, snapshot=""):
    with stub_of(server.address) as stub:
        return content(stub.Predict(request(snapshot), timeout=WAIT_S))


def test_a_server_killed_during_requests_answers_the_same_when_it_is_back(servers, site):
    port = free_port()
    with servers.serving(*arguments(site, "one"), port=port) as server, stub_of(server.address) as stub:
        right = answer(server)
        large = request(prompts=1000)
        calls = [stub.Predict.future(large, timeout=WAIT_S) for _ in range(4)]
        wait_for(lambda: server.measured("ffnsearch_queue_calls") > 0)
        server.kill()
        assert {call.exception(WAIT_S).code() for call in calls} == {grpc.StatusCode.UNAVAILABLE}
    with servers.serving(*arguments(site, "one"), port=port) as server:
        assert answer(server) == right


def test_a_server_killed_during_loads_and_moves_has_what_it_told_or_what_came_next(servers, site):
    moments = random.Random(5)
    told, sent, told_loaded, right = None, "one", set(), {}
    etags = set()
    for round in range(KILLS + 1):
        with (
            servers.serving(*arguments(site, "one", "two")) as server,
            AdminClient(server.address, timeout_s=WAIT_S) as admin,
            ThreadPoolExecutor(2) as threads,
        ):
            found = admin.alias("default")
            assert found == told or (found.etag not in etags and found.snapshot_name == sent)
            etags.add(found.etag)
            assert {snapshot.state for snapshot in admin.snapshots()} == {"OPEN"}
            right = right or {name: answer(server, name) for name in ("one", "two")}
            assert answer(server) == right[found.snapshot_name]
            loaded = {snapshot.name for snapshot in admin.snapshots()} - {"one", "two"}
            assert loaded >= told_loaded
            if round == KILLS:
                return

            def move(told=found):
                """Move the alias until the server is gone; as it was told to be, and where it was sent last."""
                while True:
                    sent = "two" if told.snapshot_name == "one" else "one"
                    try:
                        told = admin.move_alias("default", sent)
                    except UnavailableError:
                        return told, sent
                    etags.add(told.etag)

            def load(loaded=frozenset(loaded), round=round):
                """Load and unload until the server is gone; what it was told to have."""
                try:
                    return {*loaded, admin.load(f"more-{round}", "two").name}
                except UnavailableError:
                    return loaded

            moves, loads = threads.submit(move), threads.submit(load)
            time.sleep(moments.uniform(0, 0.3))  # the moment of the kill
            server.kill()
            (told, sent), told_loaded = moves.result(WAIT_S), loads.result(WAIT_S)


def children(pid):
    found = [task.read_text().split() for task in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for of_task in found for child in of_task]


def hurried_builds(server):
    """The processes of a server's builds. They yield to all others, which beside other tests takes minutes: not now."""
    wait_for(lambda: children(server.pid))
    processes = children(server.pid)
    for pid in processes:
        hurry(pid)
    return processes


def test_a_build_ends_with_its_server_and_goes_on_with_the_next_one(servers, site):
    with servers.serving(*arguments(site, "one")) as server, AdminClient(server.address, timeout_s=WAIT_S) as admin:
        begun = admin.build("built", "novel.txt", model="tiny", calibration_prompts=0, load=True)
        processes = hurried_builds(server)
        wait_for(lambda: admin.operation(begun.name).stage not in ("queued", "start"), BUILD_S)
        server.kill()
        wait_for(lambda: not any(map(is_running, processes)))
    with servers.serving(*arguments(site, "one")) as server, AdminClient(server.address, timeout_s=WAIT_S) as admin:
        hurried_builds(server)
        done = admin.wait(begun.name, timeout_s=BUILD_S)
        assert (done.error, done.attempts) == (None, 2)
        assert admin.snapshot("built").info["id"] == done.result.snapshot_id
        assert answer(server, "built")
        assert not list(site.folders.snapshots.glob("*.partial"))


@pytest.fixture
def small_disk(site):
    """Lets the folder of the snapshots lie on a disk with room for bytes, but not for as many files as a build has."""
    folder = site.folders.snapshots
    command = ["mount", "-t", "tmpfs", "-o", f"size=64m,nr_inodes={INODES}", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system can be mounted by root alone")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full_ends_the_build_and_nothing_else(servers, site, small_disk, tiny_snapshot):
    path = f"elsewhere={tiny_snapshot}"
    with servers.serving(path, *arguments(site)) as server, AdminClient(server.address, timeout_s=WAIT_S) as admin:
        right = answer(server)
        stopped = threading.Event()

        def call_on():
            while not stopped.is_set():
                assert answer(server) == right
                time.sleep(0.01)  # a caller that never pauses leaves the build little of two cores

        def build():
            begun = admin.build("built", "novel.txt", model="tiny", calibration_prompts=0, load=True)
            hurried_builds(server)
            return admin.wait(begun.name, timeout_s=BUILD_S)

        with ThreadPoolExecutor(1) as threads:
            caller = threads.submit(call_on)
            try:
                failed = build()
            finally:
                stopped.set()
            caller.result(WAIT_S)
        assert (failed.error.code, failed.error.reason) == ("RESOURCE_EXHAUSTED", "DISK_FULL")
        assert str(site.root) not in failed.error.message
        assert not (small_disk / "built").exists()
        assert [snapshot.name for snapshot in admin.snapshots()] == ["elsewhere"]
        subprocess.run(["mount", "-o", "remount,nr_inodes=1000", str(small_disk)], check=True)
        assert build().error is None
        assert answer(server, "built")
        assert [left.name for left in small_disk.iterdir()] == ["built"]

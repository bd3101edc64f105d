"""Builds that clients ask for: queued, cancelled, resumed, never twice at a time, never outside the allowed folders."""

import contextlib
import errno
import json
import os
import signal
import threading
import time

import pytest
from admin_serving import Site, make_site
from google.rpc import code_pb2
from serving import WAIT_S
from vitals import is_running

import stopping
from ffnsearch_indexer.store.work import build_folder
from ffnsearch_service.builds import process as processes
from ffnsearch_service.builds.builds import Builds
from ffnsearch_service.builds.record import BuildRecord, BuildSpec, read_records, write_record
from ffnsearch_service.catalog import FidelityGate
from ffnsearch_service.config import Limits
from ffnsearch_service.confined import Folders
from ffnsearch_service.errors import (
    AbsentError,
    ExhaustedError,
    PresentError,
    RequestError,
    ShuttingDownError,
    StateError,
)
from ffnsearch_service.pathless import without_paths


@pytest.fixture
def site(tmp_path, tiny_model, tiny_corpus):
    return make_site(tmp_path, tiny_model, tiny_corpus.text[:1500])


def spec(name="novel", **changes):
    wanted = {"corpus": "novel.txt", "model": "tiny", "window_tokens": 10, "split": "all", "calibration_prompts": 0}
    return BuildSpec(**{"name": name, **wanted, "load": False, "alias": "", **changes})


@contextlib.contextmanager
def builds_of(site, **options):
    made = Builds(site.folders, site.state / "operations", **{"command": site.fake_command, **options})
    made.start()
    try:
        yield made
    finally:
        made.close()


def wait_for(condition):
    ends_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < ends_s
        time.sleep(0.005)


def ended(builds, id):
    wait_for(lambda: builds.get(id).record.is_done)
    return builds.get(id).record


def cancelled(builds, id):
    """The id of a build that was cancelled, once it has ended."""
    builds.cancel(id)
    assert ended(builds, id).state == "CANCELLED"
    return id


def reason_of(kind, call, *arguments):
    with pytest.raises(kind) as caught:
        call(*arguments)
    return caught.value.reason


def starts(site):
    path = site.root / "starts"
    return len(path.read_text()) if path.exists() else 0


def test_a_build_tells_how_far_it_is_and_what_it_gave(site):
    opened = []
    with builds_of(site, open_built=opened.append) as builds:
        id = builds.create(spec(load=True)).record.id
        wait_for(lambda: builds.get(id).progress.done == 500)
        view = builds.get(id)
        assert (view.record.state, view.progress.stage, view.progress.fraction) == ("RUNNING", "keys", 0.5)
        site.let_go()
        record = ended(builds, id)
        assert (record.state, record.result.snapshot_id, record.result.substrings) == ("SUCCEEDED", "abc", 7)
        assert record.created_s <= record.started_s <= record.ended_s
        assert opened == [spec(load=True)]
        assert (builds.get(id).progress.stage, builds.get(id).progress.fraction) == ("done", 1.0)


def test_one_runs_and_the_others_wait_for_their_turn(site):
    with builds_of(site, limits=Limits(builds_queued_max=2)) as builds:
        first, second, third = (builds.create(spec(name)).record.id for name in ("a", "b", "c"))
        wait_for(lambda: starts(site) == 1)
        assert [view.record.state for view in builds.list()] == ["RUNNING", "QUEUED", "QUEUED"]
        assert reason_of(ExhaustedError, builds.create, spec("d")) == "TOO_MANY_BUILDS"
        builds.cancel(second)
        assert builds.get(second).record.error.reason == "CANCELLED"
        site.let_go()
        assert ended(builds, first).state == ended(builds, third).state == "SUCCEEDED"
        assert starts(site) == 2


def test_the_same_request_joins_and_another_of_that_name_is_refused(site):
    with builds_of(site) as builds:
        id = builds.create(spec()).record.id
        assert builds.create(spec()).record.id == id
        assert reason_of(PresentError, builds.create, spec(window_tokens=5)) == "BUILD_EXISTS"
        assert reason_of(StateError, builds.delete, id) == "OPERATION_RUNNING"
        site.let_go()
        ended(builds, id)
        assert reason_of(PresentError, builds.create, spec()) == "SNAPSHOT_EXISTS"
        builds.delete(id)
        assert reason_of(AbsentError, builds.get, id) == "OPERATION_NOT_FOUND"
        assert list((site.state / "operations").iterdir()) == []


def test_what_goes_wrong_is_told_in_a_line_without_paths(site):
    (site.root / "fail").touch()
    site.let_go()
    with builds_of(site) as builds:
        record = ended(builds, builds.create(spec()).record.id)
    assert (record.state, record.error.reason) == ("FAILED", "UNDECODABLE_CORPUS")
    assert record.error.message == "novel.txt is not UTF-8 text: convert it"


def test_a_build_that_did_not_succeed_tells_how_far_it_came_after_a_restart_too(site):
    with builds_of(site) as builds:
        running, queued = (builds.create(spec(name)).record.id for name in ("a", "b"))
        wait_for(lambda: builds.get(running).progress.done == 500)
        for id in (queued, running):
            cancelled(builds, id)
    with builds_of(site) as builds:
        views = [builds.get(id).progress for id in (running, queued)]
    assert [(progress.stage, progress.fraction) for progress in views] == [("keys", 0.5), ("queued", 0.0)]
    assert views[0].seconds_left is None


def test_a_record_from_before_progress_was_kept_is_read(site):
    site.let_go()
    with builds_of(site) as builds:
        id = builds.create(spec()).record.id
        ended(builds, id)
    path = site.state / "operations" / f"{id}.json"
    document = json.loads(path.read_text())
    del document["progress"]
    path.write_text(json.dumps(document))
    with builds_of(site) as builds:
        assert builds.get(id).progress.stage == "done"


def test_a_build_whose_process_is_killed_has_failed_and_the_same_request_tries_again(site):
    with builds_of(site) as builds:
        build = builds.create(spec()).record.id
        wait_for(lambda: starts(site) == 1)
        os.killpg(builds._builds[build].process._process.pid, signal.SIGKILL)
        record = ended(builds, build)
        assert (record.state, record.error.reason) == ("FAILED", "BUILD_CRASHED")
        assert "SIGKILL: its log in the server's state folder says more" in record.error.message
        site.let_go()
        assert ended(builds, builds.create(spec()).record.id).state == "SUCCEEDED"


def test_its_process_yields_to_the_service_and_reads_nothing(site):
    with builds_of(site) as builds:
        build = builds.create(spec()).record.id
        wait_for(lambda: starts(site) == 1)
        pid = builds._builds[build].process._process.pid
        assert os.getpriority(os.PRIO_PROCESS, pid) == 19
        assert os.getpgid(pid) == pid != os.getpgid(0)
        assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
        site.let_go()


def test_a_process_that_does_not_end_when_asked_is_killed(site, monkeypatch):
    monkeypatch.setattr(processes, "STOP_GRACE_S", 0.05)
    stubborn = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"

    def command(*_, **__):
        return [
            "/usr/bin/env",
            "python3",
            "-S",
            "-c",
            f"open({str(site.root / 'starts')!r}, 'w').write('x'); {stubborn}",
        ]

    with builds_of(site, command=command) as builds:
        id = builds.create(spec()).record.id
        wait_for(lambda: starts(site) == 1)
        builds.cancel(id)
        assert ended(builds, id).state == "CANCELLED"


def test_a_service_that_stops_goes_on_with_its_builds_when_it_starts_again(site):
    with builds_of(site) as builds:
        running, queued = (builds.create(spec(name)).record.id for name in ("a", "b"))
        wait_for(lambda: starts(site) == 1)
    assert [record.state for record in read_records(site.state / "operations")] == ["RUNNING", "QUEUED"]
    site.let_go()
    with builds_of(site) as builds:
        assert (ended(builds, running).state, ended(builds, running).attempts) == ("SUCCEEDED", 2)
        assert (ended(builds, queued).state, ended(builds, queued).attempts) == ("SUCCEEDED", 1)


def test_a_build_whose_load_is_stopped_by_the_end_is_left_for_the_next_start(site):
    loads, ends = threading.Event(), threading.Event()

    def load(_):
        loads.set()
        assert ends.wait(WAIT_S)
        raise ShuttingDownError

    site.let_go()
    with builds_of(site, open_built=load) as builds:
        id = builds.create(spec(load=True)).record.id
        assert loads.wait(WAIT_S)
        builds.stop()
        ends.set()
    (record,) = read_records(site.state / "operations")
    assert (record.id, record.state) == (id, "RUNNING")


def test_no_build_is_queued_once_the_end_has_begun(site):
    with builds_of(site) as builds:
        builds.stop()
        assert reason_of(ShuttingDownError, builds.create, spec()) == "SHUTTING_DOWN"


def test_a_cancel_that_was_answered_is_known_after_a_crash(site):
    with builds_of(site) as builds:
        running, waiting = (builds.create(spec(name)).record.id for name in ("a", "b"))
        wait_for(lambda: starts(site) == 1)
        builds._builds[running].process.stop = lambda: None  # as if the service ended before
        builds.cancel(running)
        remembered = {record.id: record for record in read_records(site.state / "operations")}
        site.let_go()
        ended(builds, waiting)
    (site.root / "starts").unlink()
    write_record(site.state / "operations", remembered[running])
    with builds_of(site) as builds:
        found = builds.get(running)
        assert (found.record.state, found.record.error.reason) == ("CANCELLED", "CANCELLED")
        assert found.progress.stage == "start"
    assert starts(site) == 0


def test_a_build_that_ran_before_a_restart_can_be_cancelled_while_it_waits_again(site):
    with builds_of(site, builds_max=2) as builds:
        ids = [builds.create(spec(name)).record.id for name in ("a", "b")]
        wait_for(lambda: starts(site) == 2)
    with builds_of(site) as builds:
        wait_for(lambda: starts(site) == 3)
        cancelled(builds, ids[1])
        site.let_go()
        assert ended(builds, ids[0]).state == "SUCCEEDED"
    assert starts(site) == 3


def test_a_full_disk_keeps_nobody_from_cancelling(site, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with builds_of(site) as builds:
        id = builds.create(spec()).record.id
        wait_for(lambda: starts(site) == 1)
        monkeypatch.setattr("ffnsearch_service.builds.builds.write_record", full)
        cancelled(builds, id)


def serve_builds(root, sender):
    """In a process of its own: begin a build, tell its process, and wait for the end."""
    site = Site(root)
    builds = Builds(site.folders, site.state / "operations", command=site.fake_command)
    builds.start()
    id = builds.create(spec()).record.id
    wait_for(lambda: starts(site) >= 1)
    sender.send((id, builds._builds[id].process._process.pid))
    time.sleep(60)


def test_a_build_ends_with_a_service_that_is_killed_and_is_taken_up_once(site):
    receiver, sender = stopping._context.Pipe(duplex=False)
    service = stopping._context.Process(target=serve_builds, args=(site.root, sender))
    service.start()
    id, pid = receiver.recv()
    service.kill()
    service.join()
    service.close()
    with builds_of(site) as builds:
        wait_for(lambda: not is_running(pid))
        assert builds.create(spec()).record.id == id  # the same request finds it
        site.let_go()
        assert (ended(builds, id).state, ended(builds, id).attempts) == ("SUCCEEDED", 2)
    assert starts(site) == 2


def test_a_record_that_cannot_be_read_stops_no_other_and_its_path_is_not_logged(site, caplog):
    with builds_of(site) as builds:
        id = builds.create(spec()).record.id
        site.let_go()
        ended(builds, id)
    (site.state / "operations" / "bad.json").write_text("{")
    for name, text in (("list", "[]"), ("text", '"abc"'), ("number", "1"), ("nothing", "null")):
        (site.state / "operations" / f"{name}.json").write_text(text)
    (site.state / "operations" / "folder.json").mkdir()
    with builds_of(site) as builds:
        assert [view.record.id for view in builds.list()] == [id]
    assert "folder.json cannot be read" in caplog.text
    assert str(site.root) not in caplog.text


def test_the_oldest_builds_are_forgotten(site):
    site.let_go()
    with builds_of(site, limits=Limits(operations_max=2)) as builds:
        ids = []
        for name in ("a", "b", "c"):
            ids.append(builds.create(spec(name)).record.id)
            ended(builds, ids[-1])
        assert [view.record.id for view in builds.list()] == ids[1:]
        assert ids == sorted(ids)


def test_a_full_disk_refuses_a_build_and_forgets_it(site, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with builds_of(site) as builds:
        monkeypatch.setattr("ffnsearch_service.builds.builds.write_record", full)
        assert reason_of(ExhaustedError, builds.create, spec()) == "DISK_FULL"
        assert builds.list() == []


def test_a_build_that_finds_the_disk_full_when_its_turn_comes_says_so(site, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with builds_of(site) as builds:
        first, second = (builds.create(spec(name)).record.id for name in ("a", "b"))
        wait_for(lambda: starts(site) == 1)
        monkeypatch.setattr("ffnsearch_service.builds.builds.write_record", full)
        site.let_go()
        assert ended(builds, first).state == "SUCCEEDED"
        error = ended(builds, second).error
        assert (error.code, error.reason) == (code_pb2.RESOURCE_EXHAUSTED, "DISK_FULL")


def test_a_build_that_fails_for_our_own_reasons_tells_where_the_log_says_more(site):
    def fail(_):
        raise RuntimeError(f"a bug in {site.root}")

    site.let_go()
    with builds_of(site, open_built=fail) as builds:
        error = ended(builds, builds.create(spec()).record.id).error
    assert (error.code, error.reason) == (code_pb2.INTERNAL, "INTERNAL")
    assert error.metadata["error_id"] in error.message
    assert "bug" not in error.message


def test_a_build_that_failed_leaves_nothing_once_it_is_deleted(site):
    (site.root / "fail").touch()
    site.let_go()
    with builds_of(site) as builds:
        id = builds.create(spec()).record.id
        ended(builds, id)
        work = build_folder(site.folders.snapshots / "novel")
        (work / "shards").mkdir(parents=True)
        builds.delete(id)
        assert not work.exists()


def test_nobody_waits_for_the_work_of_a_deleted_build_to_be_cleared_away(site, monkeypatch):
    work, found = build_folder(site.folders.snapshots / "novel"), []

    def clear(folder, **_):
        found.append((builds._lock.locked(), work.exists(), builds.list() if not builds._lock.locked() else None))
        raise KeyboardInterrupt  # as if the service were killed meanwhile

    with builds_of(site) as builds:
        id = cancelled(builds, builds.create(spec()).record.id)
        (work / "shards").mkdir(parents=True)
        with monkeypatch.context() as killed:
            killed.setattr("ffnsearch_service.builds.builds.shutil.rmtree", clear)
            with pytest.raises(KeyboardInterrupt):
                builds.delete(id)
        assert found == [(False, False, [])]
        assert list(site.folders.snapshots.iterdir())
    with builds_of(site):
        wait_for(lambda: not list(site.folders.snapshots.iterdir()))


def test_only_the_last_build_of_a_name_takes_its_work_along_when_it_is_deleted(site):
    with builds_of(site) as builds:
        older, newer = (cancelled(builds, builds.create(spec()).record.id) for _ in range(2))
        work = build_folder(site.folders.snapshots / "novel")
        work.mkdir()
        builds.delete(older)
        assert work.exists()
        builds.delete(newer)
        assert not work.exists()


def test_builds_stay_in_their_order_when_the_clock_steps_back(site, monkeypatch):
    with builds_of(site) as builds:
        first = builds.create(spec("a")).record.id
        monkeypatch.setattr(time, "time_ns", lambda: 1_000_000)
        ids = [first, *(builds.create(spec(name)).record.id for name in ("b", "c"))]
        assert [view.record.id for view in builds.list()] == ids == sorted(ids)
    with builds_of(site) as builds:
        ids.append(builds.create(spec("d")).record.id)
        assert [view.record.id for view in builds.list()] == ids == sorted(ids)


HOSTILE = [
    "",
    ".",
    "..",
    "/",
    "//",
    "/etc/passwd",
    "../state",
    "plays/../../state",
    "plays/..",
    "plays//one.txt",
    "plays/",
    "./novel.txt",
    ".hidden",
    "plays/.hidden",
    "novel.txt\0",
    "novel.txt\n",
    "-novel",
    "--help",
    "no vel",
    "C:\\novel",
    "plays\\one.txt",
    "~root",
    "$HOME",
    "*",
    "\u0430.txt",
    "novel\u202etxt",
    "a" * 129,
    "/".join("abcdefghi"),
    "link",
    "link/passwd",
    "linked/out.txt",
    "circle",
    "circle/one.txt",
    "linked",
    "shouted",
]
IN_CORPORA = ("link", "link/passwd", "linked/out.txt", "circle", "circle/one.txt", "linked", "shouted")


@pytest.fixture
def hostile_site(site):
    corpora = site.folders.corpora
    (site.root / "outside.txt").write_text("secret")
    (corpora / "link").symlink_to("/etc")
    (corpora / "circle").symlink_to("circle")
    (corpora / "linked").mkdir()
    (corpora / "linked" / "out.txt").symlink_to(site.root / "outside.txt")
    (corpora / "shouted").mkdir()
    (corpora / "shouted" / "OUT.TXT").symlink_to(site.root / "outside.txt")
    (corpora / ".hidden").write_text("hidden")
    return site


@pytest.mark.parametrize("name", HOSTILE)
def test_a_corpus_outside_the_allowed_folder_is_refused_with_one_reason(hostile_site, name):
    with pytest.raises(RequestError) as caught:
        hostile_site.folders.corpus(name, field="corpus")
    assert (caught.value.reason, caught.value.metadata["field"]) == ("PATH_NOT_ALLOWED", "corpus")
    assert str(hostile_site.root) not in caught.value.message


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in IN_CORPORA])
def test_models_and_snapshots_are_confined_too(hostile_site, name):
    assert reason_of(RequestError, lambda: hostile_site.folders.model(name, field="m")) == "PATH_NOT_ALLOWED"
    assert reason_of(RequestError, lambda: hostile_site.folders.snapshot(name, field="s")) == "PATH_NOT_ALLOWED"


def test_what_is_no_text_may_lead_anywhere(hostile_site):
    corpora = hostile_site.folders.corpora
    (corpora / "plays" / "LICENSE").symlink_to("/etc/passwd")
    assert hostile_site.folders.corpus("plays", field="corpus") == corpora / "plays"
    (corpora / "plays" / "elsewhere").symlink_to("/etc")
    assert reason_of(RequestError, lambda: hostile_site.folders.corpus("plays", field="c")) == "PATH_NOT_ALLOWED"


def test_what_is_allowed_is_found(hostile_site):
    folders = hostile_site.folders
    (folders.corpora / "inner").symlink_to("plays")
    assert folders.corpus("plays/one.txt", field="corpus").is_file()
    assert folders.corpus("inner", field="corpus").is_dir()
    assert folders.model("tiny", field="model").is_dir()
    assert folders.name_of(folders.snapshot("a/b.ffn", field="name")) == "a/b.ffn"
    assert folders.name_of(hostile_site.root) == ""
    assert reason_of(AbsentError, lambda: folders.corpus("none.txt", field="corpus")) == "CORPUS_NOT_FOUND"
    assert reason_of(AbsentError, lambda: folders.model("none", field="model")) == "MODEL_NOT_FOUND"
    with pytest.raises(StateError) as caught:
        Folders().model("tiny", field="model")
    assert (caught.value.reason, caught.value.metadata["field"]) == ("FOLDER_NOT_SET", "model")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/a/b/c.ffn exists already: choose", "c.ffn exists already: choose"),
        ("cannot write /a/b.partial/x.npy: No space", "cannot write x.npy: No space"),
        ("1 of 2, 3/4 and he/she\nstay", "1 of 2, 3/4 and he/she stay"),
        ("say 'ffnsearch info /srv/x'", "say 'ffnsearch info x'"),
    ],
)
def test_a_line_without_paths_keeps_the_last_part(text, told):
    assert without_paths(text) == told


def test_a_record_keeps_its_gate(tmp_path):
    gated = spec(evaluation_prompts=100, load=True, alias="next", fidelity_gate=FidelityGate("parity", 0.25))
    record = BuildRecord("1", gated, 5.0)
    write_record(tmp_path, record)
    assert read_records(tmp_path) == [record]

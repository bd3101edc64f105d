"""The catalog: a lease never sees a closed snapshot, an alias moves in one step, a restart finds what was there."""

import contextlib
import itertools
import json
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import stopping
from ffnsearch_indexer.errors import SnapshotError
from ffnsearch_service.catalog import Catalog, FidelityGate
from ffnsearch_service.catalog.state import CatalogState, Configured, Placed, Pointing, read_state, write_state
from ffnsearch_service.config import Limits
from ffnsearch_service.errors import (
    AbsentError,
    AdminError,
    ExhaustedError,
    LostUpdateError,
    PresentError,
    RequestError,
    ShuttingDownError,
    StateError,
)


class Fake:
    """An open snapshot that knows whether it is closed, and says which folder it is of."""

    def __init__(self, folder, fidelity=None):
        self.folder = folder
        self.manifest = SimpleNamespace(snapshot_id=folder.name, fidelity=fidelity, default_profile="balanced")
        self.backend = "exact"
        self.closings = 0

    def close(self):
        self.closings += 1


class Opener:
    """Opens fakes; refuses the folder `broken`, and waits with the folder `slow` until it may go on."""

    def __init__(self):
        self.opened = []
        self.fidelity = {}
        self.began, self.go_on = threading.Event(), threading.Event()

    def __call__(self, name, folder):
        if folder.name == "broken":
            raise SnapshotError(f"{folder} is no snapshot", reason="SNAPSHOT_NOT_FOUND")
        if folder.name == "slow":
            self.began.set()
            assert self.go_on.wait(20)
        self.opened.append(Fake(folder, self.fidelity.get(folder.name)))
        return self.opened[-1]


@pytest.fixture
def opener():
    return Opener()


@pytest.fixture
def catalog(opener, tmp_path):
    made = Catalog(opener, state_file=tmp_path / "catalog.json", size_of=lambda _: 10)
    yield made
    made.close()
    assert [fake.closings for fake in opener.opened] == [1] * len(opener.opened)


def again(opener, tmp_path, configured=None):
    """What a restart makes of the state file."""
    return again_at(tmp_path / "catalog.json", opener, configured)


def again_at(state_file, opener=None, configured=None):
    made = Catalog(opener or Opener(), state_file=state_file, size_of=lambda _: 10)
    return made, made.restore(configured)


def reason_of(kind, call, *arguments, **options):
    with pytest.raises(kind) as caught:
        call(*arguments, **options)
    return caught.value.reason


def test_a_request_finds_a_snapshot_by_name_and_by_alias(catalog):
    catalog.load("one", Path("/s/one"))
    catalog.move_alias("default", "one", allow_missing=True)
    for name in ("one", "default", ""):
        with catalog.lease(name) as snapshot:
            assert snapshot.folder == Path("/s/one")
    assert reason_of(AbsentError, catalog.lease("two").__enter__) == "SNAPSHOT_NOT_FOUND"


def test_a_request_in_flight_keeps_its_snapshot_when_the_alias_moves_and_the_name_goes(catalog, opener):
    for name in ("one", "two"):
        catalog.load(name, Path("/s") / name)
    catalog.move_alias("default", "one", allow_missing=True)
    with catalog.lease() as begun:
        catalog.move_alias("default", "two")
        catalog.unload("one")
        assert reason_of(AbsentError, catalog.snapshot, "one") == "SNAPSHOT_NOT_FOUND"
        with catalog.lease() as later:
            assert later.folder.name == "two"
        assert begun.closings == 0
        catalog.load("one", Path("/s/one"))  # the same name again, while the old one still answers
        assert catalog.snapshot("one").leases == 0
    assert begun.closings == 1


def test_what_an_alias_points_to_is_not_unloaded(catalog):
    catalog.load("one", Path("/s/one"))
    moved = catalog.move_alias("default", "one", allow_missing=True)
    assert reason_of(StateError, catalog.unload, "one") == "SNAPSHOT_IN_USE"
    catalog.delete_alias("default", moved.etag)
    catalog.unload("one", catalog.snapshot("one").etag)
    assert catalog.snapshots() == []


def test_an_etag_guards_against_lost_updates(catalog):
    for name in ("one", "two"):
        catalog.load(name, Path("/s") / name)
    first = catalog.move_alias("default", "one", allow_missing=True)
    second = catalog.move_alias("default", "two", etag=first.etag)
    assert reason_of(LostUpdateError, catalog.move_alias, "default", "one", etag=first.etag) == "ETAG_MISMATCH"
    assert reason_of(LostUpdateError, catalog.delete_alias, "default", first.etag) == "ETAG_MISMATCH"
    back = catalog.move_alias("default", "one", etag=second.etag)
    assert back.etag not in (first.etag, second.etag)  # there and back again is a change too
    etag = catalog.snapshot("two").etag
    catalog.unload("two")
    catalog.load("two", Path("/s/two"))
    assert reason_of(LostUpdateError, catalog.unload, "two", etag) == "ETAG_MISMATCH"
    assert catalog.alias("default") == back


def test_snapshots_and_aliases_share_their_names(catalog):
    catalog.load("one", Path("/s/one"))
    catalog.move_alias("live", "one", allow_missing=True)
    assert reason_of(PresentError, catalog.load, "one", Path("/s/two")) == "NAME_TAKEN"
    assert reason_of(PresentError, catalog.load, "live", Path("/s/two")) == "NAME_TAKEN"
    assert reason_of(PresentError, catalog.move_alias, "one", "one", allow_missing=True) == "NAME_TAKEN"
    assert reason_of(AbsentError, catalog.move_alias, "next", "live", allow_missing=True) == "SNAPSHOT_NOT_FOUND"
    assert reason_of(AbsentError, catalog.move_alias, "next", "one") == "ALIAS_NOT_FOUND"


@pytest.mark.parametrize("name", ["", "A", "1a", "-a", "a_b", "a b", "a/b", "..", "ä", "a\n", "a\0", "a" * 64])
def test_a_name_that_cannot_be_is_refused(catalog, name):
    assert reason_of(RequestError, catalog.load, name, Path("/s/one")) == "INVALID_NAME"
    assert reason_of(RequestError, catalog.move_alias, name, "one", allow_missing=True) == "INVALID_NAME"


def test_a_load_that_fails_is_listed_with_its_error_until_its_name_is_loaded_or_unloaded(catalog, tmp_path):
    for name in ("one", "two"):
        assert reason_of(SnapshotError, catalog.load, name, Path("/s/broken")) == "SNAPSHOT_NOT_FOUND"
    told = [(view.name, view.state, view.error) for view in catalog.snapshots()]
    assert told == [(name, "FAILED", "/s/broken is no snapshot") for name in ("one", "two")]
    assert reason_of(StateError, catalog.lease("one").__enter__) == "SNAPSHOT_NOT_OPEN"
    assert not (tmp_path / "catalog.json").exists()
    assert catalog.load("one", Path("/s/one")).state == "OPEN"
    catalog.unload("two")
    assert [view.name for view in catalog.snapshots()] == ["one"]


def test_loads_that_failed_are_forgotten_beyond_a_limit_and_what_a_restart_tries_again_is_not(opener, tmp_path):
    write_state(tmp_path / "catalog.json", CatalogState({"kept": Placed("/s/broken", "e")}))
    limits = Limits(failed_loads_max=2)
    catalog = Catalog(opener, state_file=tmp_path / "catalog.json", limits=limits, size_of=lambda _: 10)
    catalog.restore()
    for name in ("a", "b", "a", "c"):
        reason_of(SnapshotError, catalog.load, name, Path("/s/broken"))
    assert [view.name for view in catalog.snapshots()] == ["a", "c", "kept"]
    catalog.close()


def test_what_failed_for_our_own_reasons_is_told_by_the_log_alone(caplog):
    def fail(name, folder):
        raise RuntimeError(f"a bug in {folder}")

    catalog = Catalog(fail, size_of=lambda _: 10)
    with pytest.raises(RuntimeError):
        catalog.load("one", Path("/s/one"))
    assert catalog.snapshot("one").error == "an internal error: the server's log says more"
    assert "snapshot one cannot be opened" in caplog.text


def test_limits_bound_the_open_snapshots_and_their_bytes(opener):
    catalog = Catalog(opener, limits=Limits(snapshots_max=2, snapshots_bytes_max=25), size_of=lambda at: len(at.name))
    catalog.load("one", Path("/s/" + "a" * 20))
    assert reason_of(ExhaustedError, catalog.load, "two", Path("/s/" + "b" * 6)) == "SNAPSHOTS_TOO_LARGE"
    catalog.load("two", Path("/s/" + "b" * 5))
    assert reason_of(ExhaustedError, catalog.load, "three", Path("/s/c")) == "TOO_MANY_SNAPSHOTS"
    with catalog.lease("one"):
        catalog.unload("one")  # it is still open, so it still counts
        assert reason_of(ExhaustedError, catalog.load, "three", Path("/s/c")) == "TOO_MANY_SNAPSHOTS"
    catalog.load("three", Path("/s/" + "c" * 20))
    catalog.close()


def test_requests_and_moves_go_on_while_a_snapshot_is_loaded(catalog, opener):
    catalog.load("one", Path("/s/one"))
    thread = threading.Thread(target=catalog.load, args=("next", Path("/s/slow")))
    thread.start()
    assert opener.began.wait(20)
    assert [view.state for view in catalog.snapshots()] == ["LOADING", "OPEN"]
    catalog.move_alias("default", "one", allow_missing=True)
    with catalog.lease() as snapshot:
        assert snapshot.folder.name == "one"
    assert reason_of(StateError, catalog.lease("next").__enter__) == "SNAPSHOT_NOT_READY"
    assert reason_of(StateError, catalog.unload, "next") == "SNAPSHOT_LOADING"
    assert reason_of(StateError, catalog.move_alias, "default", "next") == "SNAPSHOT_NOT_OPEN"
    assert reason_of(PresentError, catalog.load, "next", Path("/s/one")) == "NAME_TAKEN"
    opener.go_on.set()
    thread.join(20)
    catalog.move_alias("default", "next")


def test_a_catalog_that_closes_during_a_load_leaks_nothing(opener):
    catalog = Catalog(opener, size_of=lambda _: 10)
    errors = []

    def load():
        try:
            catalog.load("next", Path("/s/slow"))
        except ShuttingDownError as error:
            errors.append(error.reason)

    thread = threading.Thread(target=load)
    thread.start()
    assert opener.began.wait(20)
    catalog.close()
    opener.go_on.set()
    thread.join(20)
    assert errors == ["SHUTTING_DOWN"]
    assert [fake.closings for fake in opener.opened] == [1]


def fidelity(mean, profile="balanced"):
    return {"held_out": {"profile": profile, "hellinger": {"mean": mean}}}


def test_a_gate_refuses_a_snapshot_that_is_too_far_from_its_model(catalog, opener):
    opener.fidelity = {"near": fidelity(0.1), "far": fidelity(0.3), "other": fidelity(0.1, "fast")}
    for name in ("near", "far", "other", "unknown"):
        catalog.load(name, Path("/s") / name)
    gate = FidelityGate("held_out", 0.1)
    moved = catalog.move_alias("default", "near", allow_missing=True, gate=gate)
    with pytest.raises(StateError) as caught:
        catalog.move_alias("default", "far", gate=gate)
    assert caught.value.reason == "FIDELITY_TOO_LOW"
    assert (caught.value.metadata["measured"], caught.value.metadata["bound"]) == ("0.3", "0.1")
    for name in ("other", "unknown"):
        assert reason_of(StateError, catalog.move_alias, "default", name, gate=gate) == "FIDELITY_NOT_MEASURED"
    parity = FidelityGate("parity", 1)
    assert reason_of(StateError, catalog.move_alias, "default", "near", gate=parity) == "FIDELITY_NOT_MEASURED"
    assert catalog.alias("default") == moved


@pytest.mark.parametrize(("protocol", "bound"), [("", 0.1), ("parities", 0.1), ("parity", -0.1), ("parity", 1.1)])
def test_a_gate_that_cannot_be_is_refused(protocol, bound):
    reason_of(RequestError, FidelityGate.of, protocol, bound, field="fidelity_gate")
    reason_of(RequestError, FidelityGate.of, "parity", float("nan"), field="fidelity_gate")


def test_a_restart_finds_what_was_loaded_and_where_aliases_pointed(catalog, tmp_path):
    for name in ("one", "two"):
        catalog.load(name, Path("/s") / name)
    catalog.move_alias("default", "two", allow_missing=True)
    second, failures = again(Opener(), tmp_path)
    assert failures == []
    assert second.aliases() == catalog.aliases()
    assert [(view.name, view.etag) for view in second.snapshots()] == [
        (view.name, view.etag) for view in catalog.snapshots()
    ]
    with second.lease() as snapshot:
        assert snapshot.folder == Path("/s/two")
    second.close()


def test_what_cannot_be_opened_again_is_told_and_stops_no_other(opener, tmp_path):
    placed = {name: Placed(f"/s/{name}", name) for name in ("broken", "whole")}
    write_state(tmp_path / "catalog.json", CatalogState(placed, {"default": Pointing("broken", "e")}))
    catalog, failures = again(opener, tmp_path)
    assert [(view.name, view.state) for view in failures] == [("broken", "FAILED")]
    assert "no snapshot" in failures[0].error
    with catalog.lease("whole"):
        pass
    assert reason_of(StateError, catalog.lease().__enter__) == "SNAPSHOT_NOT_OPEN"
    assert reason_of(SnapshotError, catalog.load, "broken", Path("/s/broken")) == "SNAPSHOT_NOT_FOUND"
    assert catalog.snapshot("broken").state == "FAILED"
    catalog.load("broken", Path("/s/mended"))
    with catalog.lease() as snapshot:
        assert snapshot.folder.name == "mended"
    catalog.close()


def test_a_name_that_failed_may_be_loaded_again_while_it_is_unloaded(opener, tmp_path, monkeypatch):
    state_file = tmp_path / "catalog.json"
    write_state(state_file, CatalogState({"one": Placed("/s/broken", "e")}))
    catalog, _ = again(opener, tmp_path)
    load = threading.Thread(target=catalog.load, args=("one", Path("/s/slow")))
    opener.go_on.set()

    def write_while_another_loads(*arguments):
        if load.ident is None:
            load.start()
            opener.began.wait(0.5)
        write_state(*arguments)

    monkeypatch.setattr("ffnsearch_service.catalog.catalog.write_state", write_while_another_loads)
    catalog.unload("one")
    load.join(20)
    assert [(view.name, view.state) for view in catalog.snapshots()] == [("one", "OPEN")]
    assert read_state(state_file).snapshots.keys() == {"one"}
    catalog.unload("one")
    assert [fake.closings for fake in opener.opened] == [1]
    catalog.close()


def test_what_the_configuration_changed_counts_and_nothing_else_of_it(opener, tmp_path):
    first = Configured({"one": "/s/one", "two": "/s/two"}, {"default": "one"})
    catalog, _ = again(opener, tmp_path, first)
    catalog.move_alias("default", "two")
    catalog.load("three", Path("/s/three"))
    catalog.close()
    unchanged, _ = again(opener, tmp_path, first)
    assert unchanged.alias("default").snapshot_name == "two"
    unchanged.unload("one")
    unchanged.close()
    still, _ = again(opener, tmp_path, first)
    assert [view.name for view in still.snapshots()] == ["three", "two"]
    still.close()
    changed, _ = again(opener, tmp_path, Configured({"two": "/s/newer"}, {"default": "three"}))
    assert [(view.name, str(view.folder)) for view in changed.snapshots()] == [
        ("three", "/s/three"),
        ("two", "/s/newer"),
    ]
    assert changed.alias("default").snapshot_name == "three"
    changed.close()


def test_an_alias_that_the_configuration_moves_brings_its_snapshot_back(opener, tmp_path):
    folders = {"may": "/s/may", "june": "/s/june"}
    catalog, _ = again(opener, tmp_path, Configured(folders, {"default": "may"}))
    catalog.unload("june")
    catalog.close()
    moved, _ = again(opener, tmp_path, Configured(folders, {"default": "june"}))
    with moved.lease() as snapshot:
        assert snapshot.folder.name == "june"
    moved.close()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2}', '{"version": 1, "snapshots": {"a": 1}}'])
def test_a_state_file_that_cannot_be_read_is_told_and_kept(opener, tmp_path, text):
    (tmp_path / "catalog.json").write_text(text)
    assert reason_of(StateError, again, opener, tmp_path) == "STATE_UNREADABLE"
    assert (tmp_path / "catalog.json").read_text() == text


def test_a_state_that_cannot_be_written_changes_nothing(catalog, tmp_path, monkeypatch):
    catalog.load("one", Path("/s/one"))

    def full(*_):
        raise OSError(28, "No space left on device", str(tmp_path))

    monkeypatch.setattr("ffnsearch_service.catalog.catalog.write_state", full)
    for call, arguments in (
        (catalog.load, ("two", Path("/s/two"))),
        (catalog.unload, ("one",)),
        (lambda: catalog.move_alias("default", "one", allow_missing=True), ()),
    ):
        with pytest.raises(ExhaustedError) as caught:
            call(*arguments)
        assert caught.value.reason == "DISK_FULL"
        assert str(tmp_path) not in caught.value.message
    assert [(view.name, view.state) for view in catalog.snapshots()] == [("one", "OPEN"), ("two", "FAILED")]
    assert catalog.aliases() == []


def come_and_go(state_file, sender):
    """In a process of its own: load, move and unload without end, and tell of each step that is done."""
    catalog, _ = again_at(state_file)
    for name in {"one", "two"} - {view.name for view in catalog.snapshots()}:
        catalog.load(name, Path("/s") / name)
    sender.send((0, ""))
    for turn in itertools.count(1):
        catalog.move_alias("default", ("one", "two")[turn % 2], allow_missing=True)
        catalog.load("x", Path(f"/s/{turn}"))
        sender.send((turn, ("one", "two")[turn % 2]))
        catalog.unload("x")


@pytest.mark.parametrize("delay_s", [0.0, 0.004, 0.013])
def test_a_process_killed_at_any_moment_leaves_what_it_had_told_or_the_step_after(tmp_path, delay_s):
    state_file = tmp_path / "catalog.json"
    receiver, sender = stopping._context.Pipe(duplex=False)
    process = stopping._context.Process(target=come_and_go, args=(state_file, sender))
    process.start()
    sender.close()
    turn, target = receiver.recv()
    time.sleep(delay_s)
    process.kill()
    with contextlib.suppress(EOFError):
        while True:
            turn, target = receiver.recv()
    process.join()
    receiver.close()
    process.close()
    catalog, failures = again_at(state_file)
    assert failures == []
    loaded = {view.name: view.folder.name for view in catalog.snapshots()}
    assert loaded.pop("x", str(turn)) in (str(turn), str(turn + 1))
    assert loaded == {"one": "one", "two": "two"}
    pointing = [view.snapshot_name for view in catalog.aliases()]
    assert pointing in ([target] if target else [], [("one", "two")[(turn + 1) % 2]])
    catalog.close()


def test_the_state_file_is_plain_json(catalog, tmp_path):
    catalog.load("one", Path("/s/one"))
    document = json.loads((tmp_path / "catalog.json").read_text())
    assert document["snapshots"]["one"]["folder"] == "/s/one"


def test_many_threads_lease_while_names_come_and_go(catalog, opener):
    for name in ("one", "two"):
        catalog.load(name, Path("/s") / name)
    catalog.move_alias("default", "one", allow_missing=True)
    ended, failures, answered = threading.Event(), [], [0]

    def ask():
        while not ended.is_set():
            try:
                with catalog.lease() as snapshot:
                    assert snapshot.closings == 0
                    answered[0] += 1
                    assert snapshot.closings == 0
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(15):
        here, there = ("one", "two") if turn % 2 == 0 else ("two", "one")
        catalog.move_alias("default", there)
        catalog.unload(here)
        catalog.load(here, Path("/s") / here)
    ended.set()
    for thread in threads:
        thread.join(20)
    assert failures == []
    assert answered[0] > 15


class CatalogMachine(RuleBasedStateMachine):
    """Loads, unloads, leases and moves in any order, beside a model of plain dictionaries."""

    NAMES = st.sampled_from(["a", "b", "c"])
    ALIASES = st.sampled_from(["x", "y", "c"])

    @initialize()
    def begin(self):
        self.opener = Opener()
        self.catalog = Catalog(self.opener, limits=Limits(snapshots_max=3), size_of=lambda _: 1)
        self.loaded, self.failed, self.aliases, self.leases = {}, set(), {}, []
        self.count = 0

    def live(self):
        """Fakes that must be open: named, or lent."""
        return {id(fake) for fake in self.loaded.values()} | {id(fake) for fake, _ in self.leases}

    @rule(name=NAMES)
    def load(self, name):
        self.count += 1
        if name in self.loaded or name in self.aliases:
            assert reason_of(PresentError, self.catalog.load, name, Path("/s/x")) == "NAME_TAKEN"
        elif len(self.live()) >= 3:
            assert reason_of(ExhaustedError, self.catalog.load, name, Path("/s/x")) == "TOO_MANY_SNAPSHOTS"
            self.failed.add(name)
        else:
            self.catalog.load(name, Path(f"/s/{self.count}"))
            self.loaded[name] = self.opener.opened[-1]
            self.failed.discard(name)

    @rule(name=NAMES)
    def load_what_is_broken(self, name):
        with pytest.raises((SnapshotError, AdminError)):
            self.catalog.load(name, Path("/s/broken"))
        if name not in self.loaded and name not in self.aliases:
            self.failed.add(name)

    @rule(name=NAMES)
    def unload(self, name):
        if name in self.failed:
            self.catalog.unload(name)
            self.failed.remove(name)
        elif name not in self.loaded:
            reason_of(AbsentError, self.catalog.unload, name)
        elif name in self.aliases.values():
            reason_of(StateError, self.catalog.unload, name)
        else:
            self.catalog.unload(name, self.catalog.snapshot(name).etag)
            del self.loaded[name]

    @rule(alias=ALIASES, name=NAMES)
    def move(self, alias, name):
        if alias in self.loaded or alias in self.failed:
            reason_of(PresentError, self.catalog.move_alias, alias, name, allow_missing=True)
        elif name in self.failed:
            reason_of(StateError, self.catalog.move_alias, alias, name, allow_missing=True)
        elif name not in self.loaded:
            reason_of(AbsentError, self.catalog.move_alias, alias, name, allow_missing=True)
        else:
            self.catalog.move_alias(alias, name, allow_missing=True)
            self.aliases[alias] = name

    @rule(alias=ALIASES)
    def delete(self, alias):
        if alias in self.aliases:
            self.catalog.delete_alias(alias)
            del self.aliases[alias]

    @rule(name=st.one_of(NAMES, ALIASES))
    def lease(self, name):
        target = self.aliases.get(name, name)
        if target not in self.loaded:
            reason_of(StateError if target in self.failed else AbsentError, self.catalog.lease(name).__enter__)
        else:
            stack = ExitStack()
            self.leases.append((stack.enter_context(self.catalog.lease(name)), stack))
            assert self.leases[-1][0] is self.loaded[target]

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def give_back(self, data):
        _, stack = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        stack.close()

    @invariant()
    def what_is_needed_is_open_and_nothing_else(self):
        live = self.live()
        assert [fake.closings for fake in self.opener.opened] == [
            int(id(fake) not in live) for fake in self.opener.opened
        ]

    @invariant()
    def the_catalog_tells_what_is_there(self):
        views = self.catalog.snapshots()
        assert {view.name: view.manifest.snapshot_id for view in views if view.state == "OPEN"} == {
            name: fake.manifest.snapshot_id for name, fake in self.loaded.items()
        }
        assert {view.name for view in views if view.state == "FAILED"} == self.failed
        assert {view.name: view.snapshot_name for view in self.catalog.aliases()} == self.aliases

    def teardown(self):
        if hasattr(self, "catalog"):
            self.catalog.close()
            for _, stack in self.leases:
                stack.close()
            assert all(fake.closings == 1 for fake in self.opener.opened)


CatalogMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
TestCatalogMachine = CatalogMachine.TestCase

"""The administration over the wire: snapshots by name, aliases, builds as operations, and nothing said of paths."""

import json
import re
import resource
import shutil
import signal
import threading
import time

import grpc
import pytest
from admin_serving import administering, datastore_catalog, make_site
from certificates import Authority
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from looping import WAIT_S
from vitals import hurry

from ffnsearch.v1 import admin_pb2 as pb
from ffnsearch.v1 import admin_pb2_grpc as pb_grpc
from ffnsearch_indexer.models.extraction import WINDOW_TOKENS_MAX
from ffnsearch_indexer.store.manifest import read_manifest
from ffnsearch_service.admin.administration import opener_of_built
from ffnsearch_service.builds.record import BuildSpec
from ffnsearch_service.catalog import FidelityGate
from ffnsearch_service.client.admin import AdminClient
from ffnsearch_service.config import Limits
from ffnsearch_service.errors import (
    CredentialsError,
    DeadlineExceededError,
    ExhaustedError,
    NotFoundError,
    PermissionDeniedError,
    PresentError,
    ServiceError,
    StateError,
    UnauthenticatedError,
)
from ffnsearch_service.security.protection import Protection
from ffnsearch_service.security.token_edits import add_token
from ffnsearch_service.security.tokens import new_secret, new_token
from tiny import revise

REAL_BUILD_S = 300.0
"""How long a build of a tiny corpus may take on a machine that has much else to do."""


@pytest.fixture
def site(tmp_path, tiny_model, tiny_corpus):
    return make_site(tmp_path, tiny_model, tiny_corpus.text[:1000])


@pytest.fixture
def two(site, tiny_snapshot):
    """The folders of two snapshots, of which `two` was measured."""
    for name in ("one", "two"):
        shutil.copytree(tiny_snapshot, site.folders.snapshots / name)
    manifest = read_manifest(site.folders.snapshots / "two")
    document = {
        "profile": manifest.default_profile,
        "prompts": 100,
        "hellinger": {"mean": 0.25, "ci95": [0.2, 0.3], "max": 0.9},
        "top1_agreement": 0.8,
        "no_support": 0.0,
        "noise_floor": None,
    }
    revise(site.folders.snapshots / "two", fidelity={"held_out": document})
    return site


@pytest.fixture
def client(two):
    catalog = datastore_catalog(two)
    catalog.restore()
    with administering(two, catalog, command=two.fake_command) as (opened, _):
        yield opened
    catalog.close()


def refusal(call, *arguments, **options):
    with pytest.raises(ServiceError) as caught:
        call(*arguments, **options)
    return caught.value.code, caught.value.reason


def test_a_snapshot_is_loaded_described_and_unloaded(client, two):
    loaded = client.load("one")
    manifest = read_manifest(two.folders.snapshots / "one")
    assert (loaded.name, loaded.state, loaded.folder, loaded.leases) == ("one", "OPEN", "one", 0)
    assert loaded.info["id"] == manifest.snapshot_id
    assert (loaded.size_bytes, loaded.model_sha256) == (manifest.total_bytes(), manifest.model_sha256)
    assert client.snapshot("one") == loaded
    again = client.load("other", "two")
    assert again.fidelity[0].hellinger_mean == 0.25
    assert list(client.snapshots()) == [loaded, again]
    client.unload("one", etag=loaded.etag)
    assert refusal(client.snapshot, "one") == ("NOT_FOUND", "SNAPSHOT_NOT_FOUND")


def test_what_is_not_there_is_named_by_its_field(client):
    client.load("one")
    for call in (client.snapshot, client.unload, client.alias, client.delete_alias, client.operation):
        with pytest.raises(NotFoundError) as caught:
            call("none")
        assert caught.value.field == "name"
    with pytest.raises(NotFoundError) as caught:
        client.move_alias("default", "none", allow_missing=True)
    assert (caught.value.reason, caught.value.field) == ("SNAPSHOT_NOT_FOUND", "snapshot_name")


def test_a_name_that_cannot_be_is_invalid_where_it_is_to_be_given_and_absent_elsewhere(client):
    for call, arguments in ((client.load, ()), (client.build, ("plays",)), (client.move_alias, ("one",))):
        assert refusal(call, "No", *arguments) == ("INVALID_ARGUMENT", "INVALID_NAME")
    for call in (client.snapshot, client.unload):
        assert refusal(call, "No") == ("NOT_FOUND", "SNAPSHOT_NOT_FOUND")
    for call in (client.alias, client.delete_alias):
        assert refusal(call, "No") == ("NOT_FOUND", "ALIAS_NOT_FOUND")


def test_a_refusal_names_the_field_that_was_sent(client):
    client.load("one")
    client.move_alias("default", "one", allow_missing=True)
    begun = client.build("built", "plays", model="tiny")
    for call, arguments, options, told in (
        (client.load, ("",), {}, ("INVALID_NAME", "name")),
        (client.load, ("../x",), {}, ("INVALID_NAME", "name")),
        (client.load, ("two", "../x"), {}, ("PATH_NOT_ALLOWED", "folder")),
        (client.load, ("none",), {}, ("SNAPSHOT_NOT_FOUND", "name")),
        (client.load, ("two", "none"), {}, ("SNAPSHOT_NOT_FOUND", "folder")),
        (client.load, ("default", "two"), {}, ("NAME_TAKEN", "name")),
        (client.move_alias, ("one", "one"), {}, ("NAME_TAKEN", "name")),
        (client.move_alias, ("default", "one"), {"etag": "x"}, ("ETAG_MISMATCH", "etag")),
        (client.unload, ("one",), {"etag": "x"}, ("ETAG_MISMATCH", "etag")),
        (client.build, ("june", "plays"), {"load": True, "alias": "one"}, ("NAME_TAKEN", "alias")),
        (client.build, ("two", "plays"), {}, ("SNAPSHOT_EXISTS", "name")),
        (client.build, ("built", "plays"), {}, ("BUILD_EXISTS", "name")),
    ):
        with pytest.raises(ServiceError) as caught:
            call(*arguments, **options)
        assert (caught.value.reason, caught.value.field) == told
    assert caught.value.metadata == {"operation": begun.name}


def test_an_alias_moves_and_is_deleted(client):
    for name in ("one", "two"):
        client.load(name)
    assert refusal(client.move_alias, "default", "one") == ("NOT_FOUND", "ALIAS_NOT_FOUND")
    first = client.move_alias("default", "one", allow_missing=True)
    assert client.snapshot("default").aliases == ("default",)
    second = client.move_alias("default", "two", etag=first.etag)
    assert (client.alias("default"), list(client.aliases())) == (second, [second])
    assert refusal(client.move_alias, "default", "one", etag=first.etag) == ("ABORTED", "ETAG_MISMATCH")
    assert refusal(client.unload, "two") == ("FAILED_PRECONDITION", "SNAPSHOT_IN_USE")
    assert refusal(client.unload, "one", etag="x") == ("ABORTED", "ETAG_MISMATCH")
    client.delete_alias("default", etag=second.etag)
    assert list(client.aliases()) == []


def test_an_etag_is_of_an_alias_that_is_there_and_changes_with_every_move(client):
    client.load("one")
    assert refusal(client.move_alias, "default", "one", etag="x") == ("NOT_FOUND", "ALIAS_NOT_FOUND")
    missing = {"etag": "x", "allow_missing": True}
    assert refusal(client.move_alias, "default", "one", **missing) == ("ABORTED", "ETAG_MISMATCH")
    first = client.move_alias("default", "one", allow_missing=True)
    assert client.move_alias("default", "one").etag != first.etag


def test_a_gate_keeps_an_alias_from_a_worse_snapshot(client):
    for name in ("one", "two"):
        client.load(name)
    client.move_alias("default", "two", allow_missing=True, gate=("held_out", 0.25))
    with pytest.raises(ServiceError) as caught:
        client.move_alias("default", "two", gate=("held_out", 0.2))
    assert (caught.value.code, caught.value.reason) == ("FAILED_PRECONDITION", "FIDELITY_TOO_LOW")
    assert (caught.value.metadata["measured"], caught.value.metadata["bound"]) == ("0.25", "0.2")
    unmeasured = ("FAILED_PRECONDITION", "FIDELITY_NOT_MEASURED")
    assert refusal(client.move_alias, "default", "one", gate=("held_out", 1.0)) == unmeasured
    assert refusal(client.move_alias, "default", "two", gate=("x", 1.0)) == ("INVALID_ARGUMENT", "UNKNOWN_PROTOCOL")
    out_of_range = ("INVALID_ARGUMENT", "BOUND_OUT_OF_RANGE")
    assert refusal(client.move_alias, "default", "two", gate=("parity", float("nan"))) == out_of_range


def test_what_cannot_be_loaded_is_refused_without_a_path(client, two):
    (two.folders.snapshots / "empty").mkdir()
    (two.folders.snapshots / "out").symlink_to(two.root)
    damaged = two.folders.snapshots / "two" / "corpus" / "tokens.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    expected = {
        ("empty", ""): ("FAILED_PRECONDITION", "SNAPSHOT_NOT_FOUND"),
        ("none", ""): ("FAILED_PRECONDITION", "SNAPSHOT_NOT_FOUND"),
        ("two", ""): ("FAILED_PRECONDITION", "DAMAGED_SNAPSHOT"),
        ("one", "../models"): ("INVALID_ARGUMENT", "PATH_NOT_ALLOWED"),
        ("one", "out/models"): ("INVALID_ARGUMENT", "PATH_NOT_ALLOWED"),
        ("One", "one"): ("INVALID_ARGUMENT", "INVALID_NAME"),
    }
    for arguments, told in expected.items():
        with pytest.raises(ServiceError) as caught:
            client.load(*arguments)
        assert (caught.value.code, caught.value.reason) == told
        assert str(two.root) not in str(caught.value)
        assert str(two.root) not in str(caught.value.metadata)
    listed = list(client.snapshots())
    assert [(found.name, found.state) for found in listed] == [(name, "FAILED") for name in ("empty", "none", "two")]
    assert str(two.root) not in str(listed)


def test_lists_are_paged_while_names_come_and_go(two):
    catalog = datastore_catalog(two, limits=Limits(snapshots_max=6))
    with administering(two, catalog, limits=Limits(page_size_default=2)) as (client, _):
        for name in ("a", "b", "c", "d", "e"):
            client.load(name, "one")
        listing = client.snapshots()
        seen = [next(listing).name, next(listing).name]
        client.unload("b")
        client.load("aa", "one")
        assert seen + [found.name for found in listing] == ["a", "b", "c", "d", "e"]
        with grpc.insecure_channel(client.address) as channel:
            stub = pb_grpc.AdminServiceStub(channel)
            tokens = ("\u00e9", "!!!!", "====", "YQ==!", "YQ", " ")
            refused = [pb.ListSnapshotsRequest(page_token=token) for token in tokens]
            for request in (pb.ListSnapshotsRequest(page_size=-1), *refused):
                with pytest.raises(grpc.RpcError) as caught:
                    stub.ListSnapshots(request)
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    catalog.close()


def test_two_who_move_an_alias_at_a_time_do_not_overwrite_each_other(client):
    for name in ("one", "two"):
        client.load(name)
    read = client.move_alias("default", "one", allow_missing=True)
    outcomes = []

    def move(name):
        try:
            outcomes.append(client.move_alias("default", name, etag=read.etag).snapshot_name)
        except ServiceError as error:
            outcomes.append(error.reason)

    threads = [threading.Thread(target=move, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert "ETAG_MISMATCH" in outcomes
    assert client.alias("default").snapshot_name in outcomes


def test_a_build_is_an_operation_that_is_listed_cancelled_and_deleted(client, two):
    begun = client.build("built", "novel.txt", model="tiny", calibration_prompts=0)
    assert (begun.snapshot_name, begun.corpus, begun.done) == ("built", "novel.txt", False)
    assert begun.name.startswith("operations/")
    with pytest.raises(DeadlineExceededError):
        client.wait(begun.name, timeout_s=0.1)
    queued = client.build("next", "plays")
    assert client.operation(queued.name).stage == "queued"
    assert [operation.name for operation in client.operations()] == [begun.name, queued.name]
    assert refusal(client.delete_operation, queued.name) == ("FAILED_PRECONDITION", "OPERATION_RUNNING")
    client.cancel(queued.name)
    assert client.wait(queued.name).error.code == "CANCELLED"
    client.cancel(queued.name)  # it has ended, which is no error
    again = client.build("next", "plays")
    assert again.name != queued.name
    client.cancel(again.name)
    client.delete_operation(again.name)
    client.delete_operation(queued.name)
    shown = []
    two.let_go()
    done = client.wait(begun.name, timeout_s=60, on_progress=shown.append)
    assert (done.done, done.error, done.result.snapshot_id) == (True, None, "abc")
    assert shown[-1] == done
    assert refusal(client.operation, queued.name) == ("NOT_FOUND", "OPERATION_NOT_FOUND")
    for name in ("", "operations", "operations/", "builds/x", f"operations/{begun.name}"):
        assert refusal(client.cancel, name) == ("NOT_FOUND", "OPERATION_NOT_FOUND")


def test_what_a_build_must_not_be_is_refused(client):
    refused = {
        ("A", "novel.txt"): ("INVALID_ARGUMENT", "INVALID_NAME"),
        ("built", "/etc/passwd"): ("INVALID_ARGUMENT", "PATH_NOT_ALLOWED"),
        ("built", "none.txt"): ("NOT_FOUND", "CORPUS_NOT_FOUND"),
        ("one", "novel.txt"): ("ALREADY_EXISTS", "SNAPSHOT_EXISTS"),
    }
    for (name, corpus), told in refused.items():
        assert refusal(client.build, name, corpus) == told
    options = {
        ("model", "none"): ("NOT_FOUND", "MODEL_NOT_FOUND"),
        ("model", "../models/tiny"): ("INVALID_ARGUMENT", "PATH_NOT_ALLOWED"),
        ("split", "half"): ("INVALID_ARGUMENT", "UNKNOWN_SPLIT"),
        ("window_tokens", -1): ("INVALID_ARGUMENT", "BUILD_OPTION_OUT_OF_RANGE"),
        ("window_tokens", WINDOW_TOKENS_MAX + 1): ("INVALID_ARGUMENT", "BUILD_OPTION_OUT_OF_RANGE"),
        ("calibration_prompts", 20_001): ("INVALID_ARGUMENT", "BUILD_OPTION_OUT_OF_RANGE"),
        ("evaluation_prompts", 20_001): ("INVALID_ARGUMENT", "BUILD_OPTION_OUT_OF_RANGE"),
        ("alias", "default"): ("INVALID_ARGUMENT", "ALIAS_WITHOUT_LOAD"),
        ("gate", ("parity", 0.2)): ("INVALID_ARGUMENT", "GATE_WITHOUT_ALIAS"),
        ("gate", ("nearness", 0.2)): ("INVALID_ARGUMENT", "UNKNOWN_PROTOCOL"),
        ("gate", ("parity", 1.2)): ("INVALID_ARGUMENT", "BOUND_OUT_OF_RANGE"),
    }
    for (option, value), told in options.items():
        assert refusal(client.build, "built", "novel.txt", **{option: value}) == told
    moving = {"load": True, "alias": "default", "gate": ("held_out", 0.2)}
    assert refusal(client.build, "built", "novel.txt", **moving) == ("INVALID_ARGUMENT", "GATE_WITHOUT_ALIAS")
    told = refusal(client.build, "built", "novel.txt", **moving, evaluation_prompts=100)
    assert told == ("INVALID_ARGUMENT", "PROTOCOL_NOT_ALLOWED")  # the whole text is indexed
    assert list(client.operations()) == []


def test_a_build_that_could_not_be_opened_or_get_its_alias_in_the_end_is_refused_at_once(client):
    client.load("one")
    client.load("other", "two")
    client.move_alias("default", "one", allow_missing=True)
    taken = ("ALREADY_EXISTS", "NAME_TAKEN")
    assert refusal(client.build, "june", "plays", load=True, alias="june") == ("INVALID_ARGUMENT", "ALIAS_IS_NAME")
    assert refusal(client.build, "june", "plays", load=True, alias="one") == taken
    assert refusal(client.build, "default", "plays", load=True) == taken
    assert refusal(client.build, "other", "plays", load=True) == taken
    assert list(client.operations()) == []
    assert client.build("other", "plays").done is False  # its folder is free, and nobody wants it to be open


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PresentError("taken", reason="NAME_TAKEN", name="june"), ("ALREADY_EXISTS", "NAME_TAKEN", {"name": "june"})),
        (
            StateError("too far", reason="FIDELITY_TOO_LOW", measured=0.3, bound=0.2),
            ("FAILED_PRECONDITION", "FIDELITY_TOO_LOW", {"measured": "0.3", "bound": "0.2"}),
        ),
        (ExhaustedError("full", reason="TOO_MANY_SNAPSHOTS"), ("RESOURCE_EXHAUSTED", "TOO_MANY_SNAPSHOTS", {})),
    ],
)
def test_a_build_that_cannot_be_opened_fails_as_the_load_would(two, error, told):
    def refuse(_):
        raise error

    catalog = datastore_catalog(two)
    with administering(two, catalog, command=two.fake_command) as (client, builds):
        builds._open_built = refuse
        two.let_go()
        name = client.build("june", "plays", load=True).name
        client.wait(name, timeout_s=60)
        builds.start()  # reads what a restart would
        failure = client.operation(name).error
        assert (failure.code, failure.reason, failure.metadata) == told
    catalog.close()


@pytest.mark.parametrize(
    ("protocol", "bound", "told"),
    [("held_out", 0.3, None), ("held_out", 0.2, "FIDELITY_TOO_LOW"), ("parity", 0.3, "FIDELITY_NOT_MEASURED")],
)
def test_a_gate_lets_the_alias_of_a_build_move_or_not(two, protocol, bound, told):
    catalog = datastore_catalog(two)
    spec = BuildSpec("two", "novel.txt", "tiny", 10, "all", 0, True, "next", 100, FidelityGate(protocol, bound))
    opened = opener_of_built(catalog, two.folders)
    if told is None:
        opened(spec)
    else:
        with pytest.raises(StateError) as caught:
            opened(spec)
        assert caught.value.reason == told
    assert [(view.name, view.state) for view in catalog.snapshots()] == [("two", "OPEN")]
    assert [view.name for view in catalog.aliases()] == ([] if told else ["next"])
    catalog.close()


def test_operations_refuse_what_they_cannot_do(client):
    with grpc.insecure_channel(client.address) as channel:
        stub = operations_pb2_grpc.OperationsStub(channel)
        assert list(stub.ListOperations(operations_pb2.ListOperationsRequest(name="operations")).operations) == []
        for request in (
            operations_pb2.ListOperationsRequest(name="others"),
            operations_pb2.ListOperationsRequest(filter="done"),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                stub.ListOperations(request)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        begun = client.build("built", "plays", model="tiny")
        at_once = operations_pb2.WaitOperationRequest(name=begun.name, timeout=Duration(seconds=-5))
        assert not stub.WaitOperation(at_once, timeout=WAIT_S).done


def test_a_real_build_outlives_a_full_disk_and_a_cancel_and_is_opened_in_the_end(site):
    catalog = datastore_catalog(site)
    with administering(site, catalog) as (client, builds):
        wanted = {"model": "tiny", "calibration_prompts": 0, "evaluation_prompts": 20, "load": True, "alias": "default"}
        wanted["gate"] = ("parity", 1.0)

        def begin():
            """Begin or go on; gives the operation's name and its process."""
            begun = client.build("built", "novel.txt", **wanted)
            id = begun.name.removeprefix("operations/")
            while (process := builds._builds[id].process) is None or process._process is None:
                time.sleep(0.002)
            hurry(process._process.pid)
            return begun.name, process._process.pid

        name, pid = begin()
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (30_000, 30_000))
        full = client.wait(name, timeout_s=REAL_BUILD_S)
        assert (full.error.code, full.error.reason) == ("RESOURCE_EXHAUSTED", "DISK_FULL")
        assert str(site.root) not in full.error.message
        name, _ = begin()
        client.cancel(name)
        assert client.wait(name, timeout_s=REAL_BUILD_S).error.code == "CANCELLED"
        assert list(client.snapshots()) == []
        name, _ = begin()
        done = client.wait(name, timeout_s=REAL_BUILD_S)
        assert done.error is None
        assert (done.attempts, done.stage, done.fraction) == (1, "done", 1.0)
        snapshot = client.snapshot("default")
        assert (snapshot.name, snapshot.info["id"]) == ("built", done.result.snapshot_id)
        assert done.result.substrings == snapshot.info["substrings"]
        assert [(found.protocol, found.prompts) for found in snapshot.fidelity] == [("parity", 20)]
    catalog.close()


@pytest.fixture
def protected(two, tmp_path):
    """An administration behind TLS and tokens: a client with the scope `admin`, the authority and the secrets."""
    authority, secrets, tokens_file = Authority(), {}, tmp_path / "tokens.toml"
    for scope in ("admin", "read"):
        secrets[scope] = new_secret()
        add_token(tokens_file, new_token(scope, [scope], secrets[scope]))
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    protection = Protection.open(Limits(), tokens_file=tokens_file, tls_files=authority.make().write(tmp_path))
    catalog = datastore_catalog(two)
    access = {"ca_file": tmp_path / "ca.pem", "token": secrets["admin"]}
    with administering(two, catalog, protection=protection, **access) as (opened, _):
        yield opened, tmp_path / "ca.pem", secrets
    catalog.close()


def test_an_administrator_calls_encrypted_and_with_a_token(protected):
    client, ca_file, secrets = protected
    client.wait_for_ready(20)
    assert client.load("one").name == "one"
    assert list(client.operations()) == []
    for token, error in ((secrets["read"], PermissionDeniedError), (None, UnauthenticatedError)):
        with AdminClient(client.address, ca_file=ca_file, token=token) as other, pytest.raises(error):
            list(other.snapshots())
    with pytest.raises(CredentialsError, match="unencrypted"):
        AdminClient("search.example:443", token=secrets["admin"])


def test_the_commands_call_encrypted_and_with_a_token(protected, run, tmp_path, monkeypatch):
    client, ca_file, secrets = protected
    file = tmp_path / "admin.token"
    file.write_text(secrets["admin"])
    file.chmod(0o600)
    code, out, _ = run("admin", "--ca-file", ca_file, "--token-file", file, client.address, "load", "one")
    assert (code, out[:10]) == (0, "loaded one")
    code, _, err = run("admin", "--ca-file", ca_file, client.address, "list")
    assert code == 2
    assert "no token" in err
    monkeypatch.setenv("FFNSEARCH_TOKEN", secrets["admin"])
    code, out, _ = run("admin", "--ca-file", ca_file, client.address, "list", "--json")
    assert (code, [one["name"] for one in json.loads(out)["snapshots"]]) == (0, ["one"])


def test_the_commands_of_an_administrator(client, two, run):
    def admin(*arguments):
        code, out, err = run("admin", client.address, *arguments)
        assert (code, err) == (0, "")
        return out

    assert "one" in admin("load", "one")
    assert json.loads(admin("load", "two", "--json"))["state"] == "OPEN"
    assert "default" in admin("alias", "default", "one", "--create")
    assert json.loads(admin("list", "--json"))["aliases"][0]["snapshot_name"] == "one"
    assert "default" in admin("list")
    admin("alias", "default", "two", "--gate", "held-out:0.3", "--etag", client.alias("default").etag)
    admin("unload", "one")
    two.let_go()
    assert json.loads(admin("build", "built", "--corpus", "novel.txt", "--json"))["result"]["snapshot_id"] == "abc"
    assert "operations/" in admin("build", "later", "--corpus", "plays", "--no-wait")
    (_, later) = json.loads(admin("operations", "--json"))
    admin("cancel", later["name"])
    client.wait(later["name"], timeout_s=60)
    assert "built" in admin("operations")
    assert json.loads(admin("operations", "--delete", later["name"], "--json")) == {"deleted": later["name"]}
    assert len(json.loads(admin("operations", "--json"))) == 1
    assert json.loads(admin("alias", "default", "--delete", "--json")) == {"deleted": "default"}


def test_a_command_that_is_refused_says_why_in_a_line(client, run):
    for arguments in (
        ("unload", "none"),
        ("load", "none"),
        ("alias", "default"),
        ("alias", "default", "none"),
        ("alias", "default", "one", "--gate", "held_out"),
        ("cancel", "operations/none"),
        ("build", "built", "--corpus", "../x"),
    ):
        code, out, err = run("admin", client.address, *arguments)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1


def test_a_build_that_fails_ends_its_command_with_status_2(client, two, run):
    (two.root / "fail").touch()
    two.let_go()
    code, _, err = run("admin", client.address, "build", "built", "--corpus", "novel.txt")
    assert code == 2
    assert err.endswith("error: novel.txt is not UTF-8 text: convert it\n")


def test_ctrl_c_leaves_the_build_and_says_how_to_follow_it(client, run, monkeypatch):
    monkeypatch.setattr(
        "ffnsearch_service.client.admin.AdminClient.wait", lambda *_, **__: signal.raise_signal(signal.SIGINT)
    )
    code, _, err = run("admin", client.address, "build", "built", "--corpus", "novel.txt")
    assert code == 130
    assert re.search(r"(operations/\w+) goes on: the same command follows it again.*`cancel \1` stops it", err)

"""The command line prints what was asked for, and one line for what cannot be done."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from dataclasses import replace
from importlib import metadata

import grpc
import pytest
from scripted import Scripted, scripted_server
from serving import WAIT_S

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_indexer.answer.profile import one_step
from ffnsearch_indexer.store.layout import keys_file
from ffnsearch_indexer.store.manifest import read_manifest
from ffnsearch_service.answering.replies import snapshot_message
from ffnsearch_service.client import Client, evidence
from ffnsearch_service.client.admin import AdminClient
from ffnsearch_service.client.local import LocalClient
from ffnsearch_service.client.reading import scalars
from ffnsearch_service.client.results import ClassList, SuffixClass, TokenCount
from ffnsearch_service.show import answers as show
from ffnsearch_service.show.info import print_info
from ffnsearch_service.show.tables import Table, print_table
from ffnsearch_service.show.terminal import quoted, visible

PLAIN_ERROR = re.compile(r"error: \S.*\n")


def test_predict_prints_both_distributions_and_the_matches(run, tiny_snapshot):
    code, out, err = run("predict", tiny_snapshot, "the people", "--top-n", 4)
    assert (code, err) == (0, "")
    assert re.search(r"model +approximation", out)
    assert re.search(r"block +threshold +weight +neighbors +mass", out)
    assert "Hellinger distance 0." in out
    assert "profile even" in out


def test_predict_gives_json_from_a_directory_and_from_a_server(run, tiny_snapshot, address):
    documents = []
    for target in (tiny_snapshot, address):
        code, out, err = run("predict", target, "the people", "no", "--json", "--exclude-self")
        assert (code, err) == (0, "")
        documents.append(json.loads(out))
        assert set(documents[-1].pop("timings")) >= {"model_ns", "search_ns", "total_ns"}
    assert documents[0] == documents[1]
    assert documents[0].keys() == {
        "snapshot_id",
        "profile_name",
        "profile_kind",
        "backend",
        "approximate",
        "batch_prompts",
        "recall",
        "results",
    }
    assert documents[0]["results"][0].keys() == {
        "status",
        "error",
        "distribution",
        "model",
        "hellinger",
        "expected_hellinger",
        "support",
        "used_tokens",
        "short_prompt",
        "self_id",
        "blocks",
        "queries",
    }


def test_predict_takes_thresholds_and_weights(run, address):
    options = ("--threshold", 0.5, "--weight", 1, "--threshold", 0.6, "--weight", 0)
    code, out, _ = run("predict", address, "the people", "--json", *options)
    steps = [block[0] for block in json.loads(out)["results"][0]["blocks"]]
    assert code == 0
    assert [(step["threshold"], step["weight"]) for step in steps] == [(0.5, 1.0), (0.6, 0.0)]


def test_predict_prints_the_expected_distance_next_to_the_measured_one(run, calibrated_address):
    code, out, err = run("predict", calibrated_address, "the people")
    assert (code, err) == (0, "")
    assert re.search(r"Hellinger distance 0\.\d{4} .*\nexpected           0\.[631]000 ", out)
    assert re.search(r"block +steps +thresholds +neighbors +mass\n +0 +3 +0\.5 to 0\.95 ", out)


def test_predict_explains_a_sum_in_shares(run, calibrated_snapshot):
    code, out, err = run("predict", calibrated_snapshot, "the people", "--profile", "added", "--explain", "--top-n", 3)
    assert (code, err) == (0, "")
    assert re.search(r"Shares of the blocks.*\n\n.*\nblock 0( +\d+\.\d\d%){3}\nblock 1( +\d+\.\d\d%){3}\ntogether", out)
    assert "nats" not in out


def test_predict_explains_a_product_in_nats(run, calibrated_address):
    code, out, err = run("predict", calibrated_address, "the people", "--explain", "--top-n", 20)
    assert (code, err) == (0, "")
    nats = r"( +[+-]\d+\.\d\d){7}\n"
    assert re.search(rf"in nats.*\n\n.*\nblock 0{nats}block 1{nats}prior{nats}together{nats}", out)


def test_predict_explains_nothing_where_no_token_is_listed(run, calibrated_address):
    code, out, err = run("predict", calibrated_address, "the people", "--explain", "--min-prob", 1)
    assert (code, err) == (0, "")
    assert "nats" not in out


def test_predict_gives_contributions_as_json(run, calibrated_address):
    code, out, _ = run("predict", calibrated_address, "the people", "--explain", "--json")
    token = json.loads(out)["results"][0]["distribution"]["tokens"][0]
    assert code == 0
    assert len(token["block_contributions"]) == 2
    assert token["prior_contribution"] is not None


def test_predict_takes_a_profile_from_a_file_as_info_prints_it(run, calibrated_address, tmp_path):
    _, out, _ = run("info", calibrated_address, "--json")
    for name, document in json.loads(out)["profiles"].items():
        (tmp_path / "mine.json").write_text(json.dumps(document))
        _, by_name, _ = run("predict", calibrated_address, "the people", "--profile", name, "--json")
        code, by_file, err = run(
            "predict", calibrated_address, "the people", "--profile-file", tmp_path / "mine.json", "--json"
        )
        assert (code, err) == (0, "")
        assert json.loads(by_file)["profile_name"] == ""
        assert json.loads(by_file)["results"] == json.loads(by_name)["results"]


def test_a_bad_prompt_among_good_ones_is_told_after_their_answers(run, address):
    code, out, err = run("predict", address, "the people", "caf\u00e9")
    assert code == 2
    assert '"the people"' in out
    assert PLAIN_ERROR.fullmatch(err)
    assert "U+00E9" in err


def test_without_support_it_says_so(run, address):
    thresholds = ("--threshold", 1, "--weight", 1) * 2
    code, out, err = run("predict", address, "the people", "--exclude-self", *thresholds)
    assert (code, err) == (0, "")
    assert "no support" in out


def test_neighbors_prints_the_evidence(run, tiny_snapshot, address):
    code, out, err = run("neighbors", tiny_snapshot, "the people", "--block", 1, "--limit", 3)
    assert (code, err) == (0, "")
    assert "the best 3 of them" in out
    assert '"the people"' in out
    code, out, _ = run("neighbors", address, "the people", "--block", 1, "--threshold", 0.8, "--limit", 5, "--json")
    document = json.loads(out)
    assert (code, document["threshold"], len(document["neighbors"])) == (0, 0.8, 5)
    assert document["total_neighbors"] > 5
    assert document["neighbors"][0].keys() >= {"id", "text", "score", "next_tokens", "places", "total_places"}


def test_neighbors_come_page_by_page(run, tiny_snapshot, address, monkeypatch):
    monkeypatch.setattr(evidence, "_PAGE_NEIGHBORS_MAX", 4)
    asked = ("neighbors", address, "the people", "--block", 1, "--threshold", 0.8, "--limit", 10)
    whole = json.loads(run(*asked, "--json")[1])["neighbors"]
    code, out, err = run(*asked, "--jsonl")
    assert (code, err) == (0, "")
    assert [json.loads(line) for line in out.splitlines()] == whole
    assert len(whole) == 10
    code, out, _ = run(*asked)
    assert "the best 10 of them:\n\n" in out
    assert [len(table.splitlines()) for table in out.split("\n\n")] == [1, 5, 5, 3]


@pytest.mark.parametrize("options", [[], ["--jsonl"]])
def test_neighbors_are_printed_as_they_arrive(run, address, monkeypatch, capsys, options):
    all_pages, printed = evidence.best_pages, []

    def watched(*asked, **options):
        for page in all_pages(*asked, **options):
            yield page
            printed.append(capsys.readouterr().out)

    monkeypatch.setattr(evidence, "_PAGE_NEIGHBORS_MAX", 4)
    monkeypatch.setattr(evidence, "best_pages", watched)
    assert run("neighbors", address, "the people", "--block", 1, "--limit", 8, *options) == (0, "", "")
    assert len(printed) == 2
    assert all(printed)


def test_neighbors_show_as_much_of_their_places_as_is_asked_for(run, address):
    asked = ("neighbors", address, "the people", "--block", 1, "--limit", 30, "--json")
    code, out, _ = run(*asked, "--context-tokens", 3, "--places-max", 1)
    places = [neighbor["places"] for neighbor in json.loads(out)["neighbors"]]
    assert code == 0
    assert {len(of_one) for of_one in places} == {1}
    assert max(len(place["before"]) for (place,) in places) == 3
    assert not any(neighbor["places"] for neighbor in json.loads(run(*asked, "--places-max", 0)[1])["neighbors"])


def test_neighbors_prints_classes(run, tiny_snapshot, address):
    options = ("the people", "--block", 1, "--threshold", 0.8, "--classes")
    code, out, err = run("neighbors", tiny_snapshot, *options)
    assert (code, err) == (0, "")
    assert re.match(r"block 1, score above 0\.8: [\d,]+ substrings, \d+ of them \(\d+\.\d%\) in \d+ suffix class", out)
    assert re.search(r"\nneighbors +members +share +suffix +best score +followed by\n", out)
    assert re.search(r"\n +\d+ +\d+ +\d+\.\d% +…\S+ +\d\.\d{6} +\S+ \d+%", out)
    code, out, _ = run("neighbors", address, *options, "--limit", 2, "--min-share", 0.25, "--json")
    document = json.loads(out)
    assert (code, document["block"], document["min_share"], len(document["classes"])) == (0, 1, 0.25, 2)
    assert document["covered_neighbors"] == sum(one["neighbors"] for one in document["classes"])
    assert document["classes"][0].keys() == {
        "text",
        "tokens",
        "neighbors",
        "members",
        "best_score",
        "mass",
        "next_tokens",
    }


def test_neighbors_says_where_there_are_no_classes(run, tiny_snapshot):
    code, out, _ = run("neighbors", tiny_snapshot, "the people", "--block", 1, "--threshold", 0.9995, "--classes")
    assert (code, out.count("\n")) == (0, 1)
    assert "list them without --classes" in out
    code, out, _ = run("neighbors", tiny_snapshot, "zzzzzzzzzz", "--block", 1, "--threshold", 1, "--classes")
    assert (code, out) == (0, "block 1, score above 1: 0 substrings\n")


def test_a_suffix_is_legible(capsys):
    token = TokenCount(1, " ", 3)
    found = SuffixClass("\n l", (0, 1, 50), neighbors=3, members=4, best_score=0.5, mass=4, next_tokens=(token,))
    show.print_classes(ClassList(2, (found,), 6, 3, 0.25, 0.5, "snapshot"))
    assert capsys.readouterr().out == (
        "block 2, score above 0.25: 6 substrings, 3 of them (50.0%) in 1 suffix class:\n\n"
        "neighbors  members  share  suffix  best score  followed by\n"
        "        3        4  75.0%  …\\n␠l   0.500000    ␠ 75%\n"
    )


def test_info_prints_what_is_there(run, tiny_snapshot, address):
    code, out, err = run("info", tiny_snapshot)
    assert (code, err) == (0, "")
    assert re.search(r"corpus_name +tiny", out)
    assert re.search(r"\nforward_pass +compiled, on a CPU\n", out)
    assert "even (default)" in out
    assert "fidelity: not measured" in out
    code, out, _ = run("info", address, "--json")
    assert (code, json.loads(out)["snapshot"]["window_tokens"]) == (0, 10)
    assert json.loads(out)["snapshot"]["forward_pass"] == "compiled, on a CPU"


def test_json_looks_the_same_from_every_command(run, tiny_snapshot):
    for command in (("info", tiny_snapshot), ("verify", tiny_snapshot), ("bench", tiny_snapshot, "--batch", 1)):
        code, out, _ = run(*command, "--json")
        assert (code, out) == (0, json.dumps(json.loads(out), indent=2) + "\n")


def test_info_looks_at_sizes_alone(run, tiny_copy):
    keys = tiny_copy / keys_file(0)
    content = bytearray(keys.read_bytes())
    content[-1] ^= 1
    keys.write_bytes(content)
    assert run("info", tiny_copy)[0] == 0
    assert "was altered" in run("predict", tiny_copy, "the people")[2]
    keys.write_bytes(content[:-1])
    code, out, err = run("info", tiny_copy)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: .* bytes, the manifest says .*\n", err)


def test_info_of_a_snapshot_that_does_not_say_how_it_was_computed(tiny_snapshot, capsys):
    silent = snapshot_message(replace(read_manifest(tiny_snapshot), written_by={}))
    with LocalClient.open(tiny_snapshot, check="sizes") as client:
        print_info(replace(client.info(), snapshot=scalars(silent)))
    assert re.search(r"\nforward_pass +unknown\n", capsys.readouterr().out)


def test_info_prints_profiles_of_both_kinds_and_the_fidelity(run, calibrated_snapshot):
    code, out, err = run("info", calibrated_snapshot)
    assert (code, err) == (0, "")
    assert re.search(r"\nadded +sum +made up, mass power 0\.5, expected distance 0\.2000 to 0\.7000\n", out)
    assert re.search(
        r"\nmultiplied \(default\) +product +made up, prior weight 0\.7, 65 token biases, expected distance", out
    )
    assert re.search(r"\nadded +0 +0\.6: 0\.5, 0\.9: 2\n", out)
    assert re.search(r"\nmultiplied +1 +0\.7: 0\.8, 0\.9: -0\.2\n", out)
    assert re.search(r"\nfidelity +leave-one-out +held-out\nprofile +added +multiplied\nprompts +20,000 +2,000\n", out)
    assert re.search(r"\nmean Hellinger distance +0\.1500 +0\.2500\n95 % interval +0\.1400 to 0\.1700 +0\.24", out)
    assert re.search(r"\nlargest +0\.4500 +0\.5500\nnoise floor +0\.0700 +not measured\nsame top token +80\.0%", out)
    assert re.search(r"\nno support +1\.5% +1\.5%\n", out)


def test_every_refusal_is_one_line_and_status_2(run, tiny_snapshot, address, tmp_path, engine):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy_port = taken.getsockname()[1]
        nothing, one_block = tmp_path / "nothing.json", tmp_path / "one.json"
        nothing.write_text("{}")
        nothing_at_all, two_lines = tmp_path / "nothing", tmp_path / "two"
        nothing_at_all.touch()
        two_lines.write_text("a\nb\n")
        one_block.write_text(json.dumps(one_step("", [0.5], [1.0]).to_json()))
        cases = {
            ("predict", tmp_path / "missing", "a"): "no snapshot",
            ("predict", tmp_path, "a"): "manifest.json",
            ("info", tmp_path): "manifest.json",
            ("serve", tmp_path / "missing", "--port", 0): "no snapshot",
            ("serve", tiny_snapshot, "--port", busy_port): f"127.0.0.1:{busy_port}.*in use",
            ("serve", tiny_snapshot, "--host", "0.0.0.0"): "--insecure-public",
            ("serve", tiny_snapshot, "--port", 0, "--backend", "magic"): "magic",
            ("predict", address, "caf\u00e9"): "character 3",
            ("predict", tiny_snapshot, "caf\u00e9"): "character 3",
            ("predict", address, ""): "empty",
            ("predict", address, "\udce9"): "prompts",
            ("predict", address, "a", "--profile", "\udce9"): "--profile is no UTF-8",
            ("predict", "n" * 300, "a"): "no snapshot",
            ("predict", f"http://{address}", "a"): "no snapshot",
            ("predict", "127.0.0.1:99999", "a"): "port 99999 of 127.0.0.1:99999 does not exist",
            ("predict", address, "a", "--device", "cuda"): "--device is for a snapshot directory",
            ("neighbors", address, "a", "--block", 0, "--backend", "exact"): "--backend is for a snapshot directory",
            ("predict", address, "a", "--queries"): "add --json or --jsonl",
            ("neighbors", address, "--block", 0): "give a prompt, or --prompt-file",
            ("neighbors", address, "a", "--block", 0, "--prompt-file", nothing): "one of the two",
            ("neighbors", address, "--block", 0, "--prompt-file", nothing_at_all): "has no prompt",
            ("neighbors", address, "--block", 0, "--prompt-file", two_lines): "has more than one prompt",
            ("neighbors", address, "--block", 0, "--prompt-file", tmp_path / "missing"): "cannot be read",
            ("predict", address, "a", "--skip-verify"): "--skip-verify is for a snapshot directory",
            ("serve", tiny_snapshot, "--port", 0, "--json"): "--json is for --check",
            ("admin", address, "load", "\udce9"): "name is no UTF-8",
            (
                "admin",
                address,
                "build",
                "x",
                "--corpus",
                "y",
                "--window-tokens",
                3_000_000_000,
            ): "--window-tokens: 3000000000 ",
            ("predict", address, "a", "--profile", "fine"): "even",
            ("predict", address, "a", "--top-n", 10**22): "--top-n: 10000000000000000000000 is",
            (
                "predict",
                address,
                "a",
                "--threshold",
                "0",
                "--weight",
                "inf",
            ): "--threshold and --weight: the weight is inf",
            ("predict", address, "a", "--threshold", "0.5"): "--threshold and --weight: 1 thresholds",
            ("predict", address, "a", "--threshold", "0.5", "--weight", "1"): "2",
            ("predict", address, "a", "--profile", "even", "--weight", "1"): "--profile .*--weight",
            ("predict", address, "a", "--profile", "", "--profile-file", nothing): "--profile .*--profile-file",
            ("predict", address, "a", "--profile-file", nothing, "--threshold", "1"): "--profile-file .*--threshold",
            ("predict", address, "a", "--profile-file", tmp_path / "none.json"): "none.json cannot be read",
            ("predict", address, "a", "--profile-file", nothing): "nothing.json.*kind",
            ("predict", address, "a", "--profile-file", one_block): "1 blocks, the model 2",
            ("neighbors", address, "a", "--block", 9): "--block: .*blocks 0 to 1",
            ("neighbors", tiny_snapshot, "a", "--block", 9): "--block: .*blocks 0 to 1",
            ("neighbors", address, "a", "--block", 0, "--classes", "--min-share", "0"): "--min-share: ",
            ("neighbors", address, "a", "--block", 0, "--min-share", "0.5"): "--classes",
            ("neighbors", address, "a", "--block", 0, "--json", "--jsonl"): "--json .*--jsonl .*choose one",
            ("neighbors", address, "a", "--block", 0, "--classes", "--jsonl"): "--jsonl is for a list of neighbors",
            ("neighbors", address, "a", "--block", 0, "--classes", "--places-max", 0): "--places-max is for a list",
            ("neighbors", address, "a", "--block", 0, "--context-tokens", 10**10): "--context-tokens: 10000000000 is",
            ("info", "127.0.0.1:1", "--timeout-s", 5): "UNAVAILABLE",
        }
        for arguments, expected in cases.items():
            code, out, err = run(*arguments)
            assert (code, out) == (2, ""), arguments
            assert PLAIN_ERROR.fullmatch(err), arguments
            assert re.search(expected, err), arguments


@pytest.mark.parametrize(
    "options",
    ["--min-prob 7", "--min-prob nan", "--threshold 2", "--threshold nan", "--weight -1", "--top-n 0", "--top-n many"],
)
def test_an_option_out_of_its_range_is_named(run, options):
    code, out, err = run("predict", "127.0.0.1:1", "a", *options.split())
    assert (code, out) == (2, "")
    assert re.search(r"Invalid value for '(--min-prob|--threshold|--weight|--top-n)': ", err)


def test_tokens_are_visible():
    assert [visible(token) for token in ("\n", " ", "a", "\\", "\t", "\x00")] == [
        "\\n",
        "␠",
        "a",
        "\\\\",
        "\\t",
        "\\x00",
    ]
    assert quoted("a b\n") == '"a b\\n"'
    assert show.bar(1.0) == "█" * show.BAR_CHARACTERS
    assert show.bar(0.0) == ""


HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b2J\r\u202e"


class Hostile(Scripted):
    """Says what a terminal would obey, wherever it can say something."""

    def GetInfo(self, request, context):
        return pb.GetInfoResponse(backend=HOSTILE, server_version=HOSTILE)

    def Predict(self, request, context):
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, HOSTILE)


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_terminal_obeys_no_server(run, monkeypatch, is_terminal):
    monkeypatch.setattr(sys.stdout.__class__, "isatty", lambda self: is_terminal, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    with scripted_server(Hostile()) as address:
        for arguments in (("info", address), ("predict", address, "a")):
            _, out, err = run(*arguments)
            for told in (out, err):
                plain = re.sub(r"\x1b\[[\d;]*m", "", told)  # the colours of a terminal are our own
                assert all(character.isprintable() or character == "\n" for character in plain), told
            assert "\\x1b[2J" in out + err


@pytest.mark.parametrize("arguments", ["info {snapshot} --json", "predict --help", "predict {snapshot} abcdefghij"])
def test_a_full_disk_is_told_in_one_line(tiny_snapshot, arguments):
    command = [sys.executable, "-m", "ffnsearch_service.cli", *arguments.format(snapshot=tiny_snapshot).split()]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (
        2,
        "error: no space is left where the output goes: free some, or let it go elsewhere\n",
    )


def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path):
    limited = f"ulimit -f 1; exec {shlex.quote(sys.executable)} -m ffnsearch_service.cli predict --help > out"
    limited = f"unset PYTHONUNBUFFERED; {limited}"  # without a buffer, Python does not see that a write was cut
    ended = subprocess.run(["sh", "-c", limited], cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (
        2,
        "error: no space is left where the output goes: free some, or let it go elsewhere\n",
    )


def test_a_disk_that_is_full_elsewhere_is_told_with_its_file():
    code = (
        "import errno; from ffnsearch_service import cli\n"
        "def fill(): raise OSError(errno.EDQUOT, 'Disk quota exceeded', '/var/index')\n"
        "cli.make_app = fill\n"
        "cli.main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (
        2,
        "error: no space is left for /var/index: free some, or let it go elsewhere\n",
    )


@pytest.mark.parametrize("arguments", ["info {snapshot} --json", "--version", "serve --print-config"])
def test_a_reader_that_wants_no_more_is_nothing_to_complain_of(tiny_snapshot, arguments):
    command = [sys.executable, "-m", "ffnsearch_service.cli", *arguments.format(snapshot=tiny_snapshot).split()]
    unread, written = os.pipe()
    os.close(unread)
    try:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        ended = subprocess.run(command, stdout=written, stderr=subprocess.PIPE, env=environment)
    finally:
        os.close(written)
    assert (ended.returncode, ended.stderr) == (1, b"")


@pytest.mark.parametrize("columns", [20, 40, 60, 200])
def test_a_narrow_terminal_loses_nothing(capsys, monkeypatch, columns):
    monkeypatch.setattr(sys.stdout.__class__, "isatty", lambda self: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    words = ["03d14ee91865256a", "12.625", "0.10 (0.07)", "what is told of it, in some words"]
    print_table(Table(("etag", "p99", "late", "detail"), [words], right=frozenset({1})))
    printed = "".join(capsys.readouterr().out.split())
    assert all(word.replace(" ", "") in printed for word in words[:3])
    assert set("".join(words[3].split())) <= set(printed)


def test_a_terminal_gets_bars(run, calibrated_address, monkeypatch):
    monkeypatch.setattr(sys.stdout.__class__, "isatty", lambda self: True, raising=False)
    code, out, _ = run("predict", calibrated_address, "the people", "--explain")
    assert code == 0
    assert "█" in out
    assert "block 1" in out
    code, out, _ = run("info", calibrated_address)
    assert code == 0
    assert "0.7: 0.8, 0.9: -0.2" in out


def test_help_lists_the_subcommands(run):
    code, out, _ = run("--help")
    assert code == 0
    assert {"train", "build", "verify", "info", "serve", "predict", "neighbors", "demo"} <= set(out.split())


def test_the_version_is_told(run):
    code, out, _ = run("--version")
    assert code == 0
    assert out == f"ffnsearch {metadata.version('ffnsearch')}\n"


def test_help_shows_examples(run):
    for command in ("serve", "predict", "neighbors", "info", "demo"):
        code, out, _ = run(command, "--help")
        assert code == 0
        assert f"  ffnsearch {command}" in out


def test_the_threads_of_serve_are_limited_before_anything_has_counted_them(tiny_snapshot):
    code = (
        "from ffnsearch_service.cli import starting\n"
        f"loaded = starting.gather([{str(tiny_snapshot)!r}], None, {{'server.threads': 1}}, [])\n"
        "starting.limit_threads(loaded.config.threads)\n"
        "import ffnsearch_service.hosting, numba, torch\n"
        "print(torch.get_num_threads(), numba.get_num_threads())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "1 1\n"


def test_a_server_without_a_default_snapshot_waits_for_its_administrator():
    command = [sys.executable, "-m", "ffnsearch_service.cli", "serve", "--port", "0", "--set", "admin.enabled=true"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        line = process.stdout.readline()
        with AdminClient(line.split()[1].removesuffix(":"), timeout_s=WAIT_S) as client:
            assert list(client.snapshots()) == []
        process.terminate()
    assert process.returncode == 0
    assert line.endswith(
        "there is no snapshot 'default': list what is loaded, or load it; see: ffnsearch admin --help\n"
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_nothing_to_fail_for(closed):
    command = f"{shlex.quote(sys.executable)} -m ffnsearch_service.cli --version {closed}"
    assert subprocess.run(["sh", "-c", command]).returncode == 0


def test_serve_limits_its_threads_and_takes_another_backend(tiny_snapshot):
    options = ["--port", "0", "--threads", "1", "--backend", "faiss", "--skip-verify"]
    command = [sys.executable, "-m", "ffnsearch_service.cli", "serve", str(tiny_snapshot), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "LC_ALL": "C"}) as process:
        line = process.stdout.readline()
        with Client(line.split()[1].removesuffix(":"), timeout_s=WAIT_S) as client:
            assert client.predict("the people").backend == "faiss"
        process.terminate()
    assert process.returncode == 0
    assert "backend faiss" in line

"""The command line prints what was asked for, and one line for what cannot be done."""

import json
import os
import re
import socket
import subprocess
import sys

import pytest
from serving import WAIT_S

from ffnsearch_service import cli, show
from ffnsearch_service.client import Client

PLAIN_ERROR = re.compile(r"error: \S.*\n")


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process; gives its exit status, stdout and stderr."""

    def run_here(*arguments):
        monkeypatch.setattr(sys, "argv", ["ffnsearch", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return run_here


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
    assert documents[0].keys() == {"snapshot_id", "profile_name", "backend", "approximate", "results"}
    assert documents[0]["results"][0].keys() == {
        "status",
        "error",
        "distribution",
        "model",
        "hellinger",
        "used_tokens",
        "short_prompt",
        "self_id",
        "blocks",
    }


def test_predict_takes_thresholds_and_weights(run, address):
    options = ("--threshold", 0.5, "--weight", 1, "--threshold", 0.6, "--weight", 0)
    code, out, _ = run("predict", address, "the people", "--json", *options)
    steps = [block[0] for block in json.loads(out)["results"][0]["blocks"]]
    assert code == 0
    assert [(step["threshold"], step["weight"]) for step in steps] == [(0.5, 1.0), (0.6, 0.0)]


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


def test_info_prints_what_is_there(run, tiny_snapshot, address):
    code, out, err = run("info", tiny_snapshot)
    assert (code, err) == (0, "")
    assert re.search(r"corpus_name +tiny", out)
    assert "even (default)" in out
    code, out, _ = run("info", address, "--json")
    assert (code, json.loads(out)["snapshot"]["window_tokens"]) == (0, 10)


def test_every_refusal_is_one_line_and_status_2(run, tiny_snapshot, address, tmp_path, engine):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy_port = taken.getsockname()[1]
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
            ("predict", address, "a", "--profile", "fine"): "even",
            ("predict", address, "a", "--min-prob", "nan"): "min_prob",
            ("predict", address, "a", "--threshold", "0.5"): "thresholds",
            ("predict", address, "a", "--threshold", "2", "--weight", "1"): "cosine",
            ("predict", address, "a", "--threshold", "0.5", "--weight", "1"): "2",
            ("predict", address, "a", "--profile", "even", "--weight", "1"): "--profile",
            ("neighbors", address, "a", "--block", 9): "blocks 0 to 1",
            ("neighbors", address, "a", "--block", 0, "--threshold", "nan"): "threshold",
            ("info", "127.0.0.1:1", "--timeout-s", 5): "UNAVAILABLE",
        }
        for arguments, expected in cases.items():
            code, out, err = run(*arguments)
            assert (code, out) == (2, ""), arguments
            assert PLAIN_ERROR.fullmatch(err), arguments
            assert re.search(expected, err), arguments


def test_tokens_are_visible():
    assert [show.visible(token) for token in ("\n", " ", "a", "\\", "\t", "\x00")] == [
        "\\n",
        "␠",
        "a",
        "\\\\",
        "\\t",
        "\\x00",
    ]
    assert show.quoted("a b\n") == '"a b\\n"'
    assert show.bar(1.0) == "█" * show.BAR_CHARACTERS
    assert show.bar(0.0) == ""


def test_a_terminal_gets_bars(run, address, monkeypatch):
    monkeypatch.setattr(show.sys.stdout.__class__, "isatty", lambda self: True, raising=False)
    code, out, _ = run("predict", address, "the people")
    assert code == 0
    assert "█" in out


def test_help_lists_the_subcommands(run):
    code, out, _ = run("--help")
    assert code == 0
    assert {"train", "build", "verify", "info", "serve", "predict", "neighbors", "demo"} <= set(out.split())


def test_help_shows_examples(run):
    for command in ("serve", "predict", "neighbors", "info", "demo"):
        code, out, _ = run(command, "--help")
        assert code == 0
        assert f"  ffnsearch {command}" in out


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

"""The command evaluate: a table or JSON, kept in the manifest; one line with status 2 for what cannot be done."""

import json
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ffnsearch_indexer.answer.predictor import Predictor
from ffnsearch_indexer.build.pipeline import build
from ffnsearch_indexer.build.request import BuildRequest
from ffnsearch_indexer.console import ProgressDisplay
from ffnsearch_indexer.corpora.corpus import Corpus
from ffnsearch_indexer.fidelity import fitting
from ffnsearch_indexer.store.manifest import read_manifest
from refusals import check_refusals
from tiny import files_of, make_model, save_model

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(splits: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(splits, tmp_path / "copy"))


def test_a_table_says_how_near_each_answer_is(run: Run, folder: Path) -> None:
    code, out, err = run("evaluate", folder / "all", "--prompts", 20, "--sister", folder / "sister")
    assert (code, err) == (0, "")
    first, blank, headings, *rows = out.splitlines()
    assert re.match(
        r"parity: Hellinger distance to the model on 20 prompts of text, \d+ in the model's training text, \d+ s$",
        first,
    )
    assert (blank, headings.split()) == (
        "",
        ["mean", "95", "%", "std", "max", "below", "0.2", "top-1", "no", "support"],
    )
    names = [
        "profile even *",
        "block 0 alone",
        "block 1 alone",
        "own next tokens",
        "unigram",
        "back-off n-gram",
        "smoothed n-gram",
        "sister 0",
    ]
    assert len(rows) == len(names)
    for row, name in zip(rows, names, strict=True):
        assert row.startswith(name)
        assert re.search(r"0\.\d{4}  0\.\d{4} to \d\.\d{4}  \d\.\d{4}  \d\.\d{4} +\d+\.\d% +\d+\.\d% +\d+\.\d%$", row)
    assert sum("(best)" in row for row in rows) == 1


@pytest.mark.parametrize(
    ("split", "options", "keys"),
    [
        ("all", (), ["parity"]),
        ("train", (), ["leave_one_out", "held_out"]),
        ("train", ("--protocol", "held-out"), ["held_out"]),
        ("train", ("--protocol", "held-out", "--protocol", "leave-one-out"), ["leave_one_out", "held_out"]),
    ],
)
def test_json_says_all_and_is_kept_in_the_manifest(
    split: str, options: tuple[str, ...], keys: list[str], run: Run, folder: Path
) -> None:
    code, out, err = run("evaluate", folder / split, "--prompts", 20, "--json", *options)
    documents = json.loads(out)
    assert (code, err) == (0, "")
    assert list(documents) == keys
    for key, document in documents.items():
        assert (document["protocol"], document["corpus"], document["prompts"]) == (key, "text", 20)
        assert (document["seed"], document["profile"], list(document["profiles"])) == (1337, "even", ["even"])
        assert 0 < document["hellinger"]["mean"] < 1
        assert document["hellinger"] == document["profiles"]["even"]["hellinger"]
    assert read_manifest(folder / split).fidelity == documents
    assert run("verify", folder / split)[0] == 0
    assert sorted(path.name for path in folder.iterdir()) == ["all", "model", "sister", "train"]


def test_without_a_protocol_held_out_is_left_away_where_it_has_no_prompts_and_that_is_said(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    build(
        BuildRequest(Corpus("repeats", "ab" * 99), folder / "model", folder / "repeats", window_tokens=5, split="train")
    )
    (tmp_path / "repeats.txt").write_text("ab" * 99)
    for options, reason, training in (
        (
            (),
            "held-out takes prompts that the model was not trained on",
            "not known to be what the model was trained on",
        ),
        (("--trained-on", tmp_path / "repeats.txt"), "the last tenth of the corpus", "1 in the model's training text"),
    ):
        code, out, err = run("evaluate", folder / "repeats", "--prompts", 1, *options)
        assert (code, err.count("\n")) == (0, 1)
        assert err.startswith(f"held-out is not measured: {reason}")
        assert "choose --protocol leave-one-out" in err
        assert out.startswith(f"leave-one-out: Hellinger distance to the model on 1 prompt of repeats, {training}, ")
    assert (read_manifest(folder / "repeats").fidelity or {}).keys() == {"leave_one_out"}


def test_a_later_measurement_stands_beside_an_earlier_one(run: Run, folder: Path) -> None:
    snapshot = folder / "train"
    for protocol in ("held-out", "leave-one-out"):
        assert run("evaluate", snapshot, "--prompts", 10, "--protocol", protocol)[0] == 0
    assert run("evaluate", snapshot, "--prompts", 20, "--seed", 5, "--protocol", "held-out")[0] == 0
    fidelity = read_manifest(snapshot).fidelity
    assert fidelity is not None
    assert {key: (of["prompts"], of["seed"]) for key, of in fidelity.items()} == {
        "held_out": (20, 5),
        "leave_one_out": (10, 1337),
    }


def test_a_snapshot_may_be_left_as_it_is(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files_of(folder)
    options = ("--prompts", 10, "--no-save", "--backend", "faiss", "--skip-verify", "--profile", "even")
    monkeypatch.chdir(folder / "all")
    assert run("evaluate", ".", *options)[0] == 0
    assert files_of(folder) == before


def test_what_an_approximate_search_finds_is_not_kept(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "ITERATIONS", 1)
    assert run("index", folder / "all", "--faiss", "ivf")[0] == 0
    before = files_of(folder)
    for command in ("evaluate", "calibrate"):
        arguments = (command, folder / "all", "--prompts", 60, "--backend", "faiss-ivf")
        code, out, err = run(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "faiss-ivf is approximate" in err
        assert run(*arguments, "--no-save")[0] == 0
    assert files_of(folder) == before


def test_a_measurement_that_is_interrupted_says_how_it_goes_on_and_does(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("evaluate", folder / "train", "--prompts", 10)

    def interrupt_at(interrupted_stage: str, interrupted_done: int) -> None:
        def show(_: ProgressDisplay, stage: str, done: int, *__: object) -> None:
            if (stage, done) == (interrupted_stage, interrupted_done):
                signal.raise_signal(signal.SIGINT)

        patch.setattr(ProgressDisplay, "__call__", show)

    with monkeypatch.context() as patch:
        interrupt_at("leave-one-out", 0)
        assert run(*arguments) == (130, "", "stopped: nothing was written\n")
        interrupt_at("held-out", 10)
        code, out, err = run(*arguments)
    assert (code, out) == (130, "")
    works = [f"{folder / 'train'}.evaluate-{protocol}" for protocol in ("leave-one-out", "held-out")]
    assert err == f"stopped: what is done is in {' and '.join(works)}; the same command continues it\n"
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "search", None)
        assert run(*arguments)[0] == 0, "all was there already"
    assert sorted(path.name for path in folder.iterdir()) == ["all", "model", "sister", "train"]


def test_every_refusal_is_one_line_and_status_2_and_leaves_nothing(run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("abc?" * 9)
    (tmp_path / "repeats.txt").write_text("ab" * 99)
    save_model(tmp_path / "stranger", make_model(vocabulary_size=3, d_model=8), "xyz")
    build(
        BuildRequest(Corpus("repeats", "ab" * 99), folder / "model", folder / "repeats", window_tokens=5, split="train")
    )
    whole, train = folder / "all", folder / "train"
    refusals = {
        (tmp_path / "nothing",): "is no snapshot",
        (tmp_path / "other.txt",): "is no snapshot",
        (whole, "--protocol", "held-out"): "build one with --split train",
        (train, "--protocol", "parity"): "build one with --split all",
        (train, "--protocol", "held-out", "--protocol", "parity"): "build one with --split all",
        (
            folder / "repeats",
            "--protocol",
            "held-out",
        ): "this one was trained on 'text', another text than repeats: name",
        (
            folder / "repeats",
            "--protocol",
            "held-out",
            "--trained-on",
            tmp_path / "repeats.txt",
        ): "no window of 5 tokens",
        (whole, "--profile", "article"): "no profile 'article'; it has even",
        (whole, "--sister", tmp_path): "no model can be loaded",
        (whole, "--sister", tmp_path / "stranger"): "another vocabulary",
        (whole, "--trained-on", tmp_path / "nothing"): "no corpus at",
        (whole, "--trained-on", tmp_path / "other.txt"): "'?' (U+003F) at character 3 of the corpus other",
        (whole, "--backend", "abacus"): "abacus",
    }
    check_refusals(lambda *arguments: run("evaluate", *arguments, "--prompts", 10), refusals, folder)
    assert run("evaluate", whole, "--prompts", 0)[0] == 2
    assert run("evaluate", whole, "--protocol", "guessing")[0] == 2

"""The commands build, verify and train: what they print, and one line with status 2 for what cannot be done."""

import inspect
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ffnsearch_indexer.build.plan import BuildPlan
from ffnsearch_indexer.cli.training import train
from ffnsearch_indexer.console import ProgressDisplay
from ffnsearch_indexer.corpora.corpus import Corpus
from ffnsearch_indexer.fidelity import fitting
from ffnsearch_indexer.models.training import TrainingSettings
from ffnsearch_indexer.models.transformer import TransformerConfig
from ffnsearch_indexer.store.manifest import read_manifest
from refusals import check_refusals
from tiny import files_of, make_model, random_text, record_training, revise, save_model

ALPHABET = "abc\n"
TEXT = random_text(1, 600, ALPHABET)
MODEL_SIZES = ("--blocks", 1, "--heads", 1, "--d-model", 8, "--context-tokens", 8)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the calibration after a build be a short one."""
    monkeypatch.setattr(fitting, "ITERATIONS", 10)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was trained on the corpus, by its record."""
    folder = tmp_path_factory.mktemp("model") / "m"
    save_model(folder, make_model(vocabulary_size=4, d_model=8), ALPHABET)
    record_training(folder, Corpus("text", TEXT))
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def interrupt_at(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let somebody press Ctrl-C when a stage is told of."""

    def show(_: ProgressDisplay, shown: str, *__: object) -> None:
        if shown == stage:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ProgressDisplay, "__call__", show)


def test_build_says_what_it_takes_and_what_it_made(run: Run, corpus: Path, model: Path, tmp_path: Path) -> None:
    code, out, err = run("build", "--corpus", corpus, "--model", model, "--out", tmp_path / "out")
    assert code == 0
    assert re.search(r"^[\d,]+ substrings with [\d,]+ distinct prefixes\nabout .* seconds .*, .* memory, .* disk", err)
    assert out.startswith(f"built {tmp_path / 'out'}: ")
    assert f"next: ffnsearch info {tmp_path / 'out'}" in out


def test_what_comes_next_can_be_typed_as_it_stands(run: Run, corpus: Path, tmp_path: Path) -> None:
    my_corpus = corpus.rename(tmp_path / "my text.txt")
    out = tmp_path / "my model"
    _, printed, _ = run("train", "--corpus", my_corpus, "--out", out, "--iterations", 1, *MODEL_SIZES)
    program, *arguments = shlex.split(printed.splitlines()[-1].removeprefix("next: "))
    assert (program, arguments[0]) == ("ffnsearch", "build")
    code, printed, _ = run(*arguments, "--window-tokens", 8)
    assert (code, f"'{out}.ffn'" in printed.splitlines()[-1]) == (0, True)


def test_a_build_ends_with_a_calibration_unless_told_otherwise_and_says_which(
    run: Run, corpus: Path, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "short.txt").write_text(TEXT[:130])
    calibrated = {"even", "one-step", "sum", "fast", "balanced", "best"}
    for name, text, options, profiles, default, told in (
        ("calibrated", corpus, (), calibrated, "balanced", None),
        ("plain", corpus, ("--calibration-prompts", 0), {"even"}, "even", None),
        ("few", corpus, ("--calibration-prompts", 49), {"even"}, "even", "not calibrated: 49 prompts, it takes 50"),
        ("short", tmp_path / "short.txt", (), {"even"}, "even", "not calibrated: 40 prompts, it takes 50"),
    ):
        arguments = ("build", "--corpus", text, "--model", model, "--out", tmp_path / name, *options)
        estimated = run(*arguments, "--estimate")[1]
        code, out, err = run(*arguments, "--json")
        for announced in (estimated, err):
            assert ("and what a calibration takes" in announced) is (name == "calibrated")
        assert [line for line in err.splitlines() if "not calibrated" in line] == ([told] if told else [])
        manifest = read_manifest(tmp_path / name)
        assert (code, json.loads(out)["snapshot_id"]) == (0, manifest.snapshot_id)
        assert (manifest.profiles.keys(), manifest.default_profile) == (profiles, default)


@pytest.mark.parametrize(
    ("stage", "left"),
    [
        ("fit one-step", "but not calibrated"),
        ("faiss-flat", "but lacks indexes of faiss'"),
        ("parity", "but not measured"),
    ],
)
def test_what_follows_a_build_may_be_interrupted_and_goes_on_as_it_is_said(
    stage: str, left: str, run: Run, corpus: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    what_follows = ("--calibration-prompts", 60, "--faiss", "flat", "--evaluation-prompts", 20)
    arguments = ("build", "--corpus", corpus, "--model", model, "--out", out, *what_follows)
    with monkeypatch.context() as patched:
        interrupt_at(stage, patched)
        code, printed, err = run(*arguments)
    assert (code, printed) == (130, "")
    assert err.endswith(f"stopped: {out} is whole, {left}; the same command with --resume continues it\n")
    assert run("verify", out)[0] == 0
    assert run(*arguments, "--resume")[0] == 0
    manifest = read_manifest(out)
    assert {key: of["prompts"] for key, of in manifest.fidelity.items()} == {"calibration": 60, "parity": 20}
    assert "faiss-flat" in manifest.parts
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "text.txt"]


def test_an_interrupted_calibration_is_taken_up_by_a_build_that_resumes(
    run: Run, corpus: Path, model: Path, tmp_path: Path
) -> None:
    arguments = ("build", "--corpus", corpus, "--model", model, "--out", tmp_path / "out", "--json")
    assert run(*arguments, "--calibration-prompts", 0)[0] == 0
    assert run(*arguments)[0] == 2
    code, out, _ = run(*arguments, "--resume")
    manifest = read_manifest(tmp_path / "out")
    assert (code, json.loads(out)["snapshot_id"]) == (0, manifest.snapshot_id)
    assert manifest.default_profile == "balanced"
    assert run(*arguments, "--resume")[0] == 0  # nothing is left to do
    assert read_manifest(tmp_path / "out") == manifest


@pytest.mark.parametrize(("split", "measured"), [("all", {"parity"}), ("train", {"leave_one_out", "held_out"})])
def test_a_build_measures_its_default_profile_where_it_is_asked_to(
    run: Run, corpus: Path, model: Path, tmp_path: Path, split: str, measured: set[str]
) -> None:
    arguments = ("build", "--corpus", corpus, "--model", model, "--out", tmp_path / "out", "--split", split, "--json")
    assert run(*arguments)[0] == 0
    before = read_manifest(tmp_path / "out")
    assert not measured & before.fidelity.keys()
    assert run(*arguments, "--resume", "--evaluation-prompts", 20)[0] == 0
    after = read_manifest(tmp_path / "out")
    assert after.fidelity.keys() == before.fidelity.keys() | measured
    for key in measured:
        document = after.fidelity[key]
        assert (document["profile"], document["prompts"]) == (after.default_profile, 20)
        assert document["profiles"].keys() == {after.default_profile}
    assert run(*arguments, "--resume", "--evaluation-prompts", 30)[0] == 0  # nothing is left to do
    assert read_manifest(tmp_path / "out") == after


def test_a_build_leaves_held_out_away_where_it_has_no_prompts_and_says_so(
    run: Run, corpus: Path, model: Path, tmp_path: Path
) -> None:
    stranger = save_model(tmp_path / "stranger", make_model(vocabulary_size=4, d_model=8), ALPHABET)
    (tmp_path / "repeats.txt").write_text("ab" * 99)
    for text, folder, reason in (
        (corpus, stranger, "what this one was trained on is not known"),
        (tmp_path / "repeats.txt", model, "this one was trained on 'text', another text than repeats"),
    ):
        out = tmp_path / f"{text.stem}.ffn"
        arguments = ("build", "--corpus", text, "--model", folder, "--out", out, "--split", "train", "--resume")
        for _ in range(2):
            code, _, err = run(*arguments, "--calibration-prompts", 0, "--evaluation-prompts", 20)
            assert code == 0
            assert (
                f"\nheld-out is not measured: held-out takes prompts that the model was not trained on, and {reason}: "
                in f"\n{err}"
            )
        assert read_manifest(out).fidelity.keys() == {"leave_one_out"}


def test_a_build_that_resumes_adds_what_an_earlier_version_did_not_keep(
    run: Run, corpus: Path, model: Path, tmp_path: Path
) -> None:
    arguments = ("build", "--corpus", corpus, "--model", model, "--out", tmp_path / "out", "--calibration-prompts", 0)
    run(*arguments)
    assert read_manifest(tmp_path / "out").is_of_training_text
    revise(tmp_path / "out", trained_on=None)
    code, _, _ = run(*arguments, "--resume")
    assert code == 0
    assert read_manifest(tmp_path / "out").is_of_training_text


def test_a_build_does_not_resume_a_snapshot_of_anything_else(
    run: Run, corpus: Path, model: Path, tmp_path: Path
) -> None:
    arguments = ("build", "--corpus", corpus, "--model", model, "--out", tmp_path / "out", "--calibration-prompts", 0)
    assert run(*arguments)[0] == 0
    (tmp_path / "other.txt").write_text("abc" * 99)
    save_model(tmp_path / "other", make_model(vocabulary_size=4, d_model=8, seed=2), ALPHABET)
    save_model(tmp_path / "renamed", make_model(vocabulary_size=4, d_model=8), ALPHABET[::-1])
    refusals = {
        ("--corpus", tmp_path / "other.txt"): "another corpus: ",
        ("--model", tmp_path / "other"): "another model: ",
        ("--model", tmp_path / "renamed"): "another tokenizer: ",
        ("--split", "train"): "another split: ",
        ("--window-tokens", 6): "another window tokens: ",
        ("--precision", "float16"): "another precision: ",
    }
    check_refusals(lambda *options: run(*arguments, "--resume", *options), refusals, tmp_path)


def test_a_program_can_follow_a_build(run: Run, corpus: Path, model: Path, tmp_path: Path) -> None:
    events = tmp_path / "events"
    arguments = ("build", "--corpus", corpus, "--model", model, "--out", tmp_path / "out", "--progress-json", events)
    assert run(*arguments)[0] == 0
    told = [json.loads(line) for line in events.read_text().splitlines()]
    assert {"substrings", "keys", "blocks", "counts", "tiles", "checksums, MB"} < {event["stage"] for event in told}
    assert all(0 <= event["done"] <= event["total"] for event in told)
    events.unlink()
    assert run(*arguments)[0] == 2
    (event,) = [json.loads(line) for line in events.read_text().splitlines()]
    assert event["error"]["reason"] == "OUTPUT_EXISTS"
    code, _, err = run(*arguments[:-1], tmp_path / "no" / "events")
    assert (code, err.count("\n")) == (2, 1)


def test_build_and_verify_give_json(run: Run, corpus: Path, model: Path, tmp_path: Path) -> None:
    options = ("--model", model, "--out", tmp_path / "out", "--split", "train", "--window-tokens", 6)
    code, out, _ = run("build", "--corpus", corpus, *options, "--json")
    built = json.loads(out)
    assert code == 0
    assert built.keys() == {"snapshot", "snapshot_id", "substrings", "seconds"}
    code, out, err = run("verify", tmp_path / "out", "--json")
    verified = json.loads(out)
    assert (code, err) == (0, "")
    assert verified.keys() == {"snapshot", "snapshot_id", "files", "bytes", "seconds"}
    assert verified["snapshot_id"] == built["snapshot_id"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["split"], manifest["window_tokens"]) == ("train", 6)


def test_verify_says_that_a_snapshot_is_whole(run: Run, tiny_snapshot: Path) -> None:
    code, out, err = run("verify", tiny_snapshot)
    assert (code, err) == (0, "")
    assert out.startswith(f"{tiny_snapshot} is whole: 37 files, ")


def test_opening_a_snapshot_tells_how_much_of_it_is_read(
    run: Run, tiny_snapshot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(ProgressDisplay, "__call__", lambda self, stage, *_: told.append(stage))
    assert run("verify", tiny_snapshot)[0] == 0
    assert told[0] == "verify, MB"
    told.clear()
    assert run("predict", tiny_snapshot, "a" * 8)[0] == 0
    assert told[0] == "verify, MB"
    told.clear()
    assert run("predict", tiny_snapshot, "a" * 8, "--skip-verify")[0] == 0
    assert not told


def test_an_estimate_writes_nothing(run: Run, corpus: Path, model: Path, tmp_path: Path) -> None:
    before = files_of(tmp_path)
    arguments = ("build", "--corpus", corpus, "--model", model, "--out", tmp_path / "deep" / "out", "--estimate")
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert "distinct prefixes" in out
    code, out, err = run(*arguments, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out).keys() == BuildPlan.__dataclass_fields__.keys()
    assert files_of(tmp_path) == before
    assert not (tmp_path / "deep").exists()


def test_train_makes_a_model_that_can_be_built_with(run: Run, corpus: Path, tmp_path: Path) -> None:
    code, out, err = run("train", "--corpus", corpus, "--out", tmp_path / "m", "--iterations", 3, *MODEL_SIZES)
    assert (code, err) == (0, "")
    assert re.match(r"trained .*: loss \d\.\d+ in training, \d\.\d+ in validation\nnext: ffnsearch build ", out)
    vocabulary = tmp_path / "m" / "tokenizer.json"
    options = ("--vocabulary", vocabulary, "--iterations", 3, "--json")
    code, out, _ = run("train", "--corpus", corpus, "--out", tmp_path / "m2", *options, *MODEL_SIZES)
    assert json.loads(out).keys() == {"model", "train_loss", "validation_loss", "seconds"}
    build = ("build", "--corpus", corpus, "--model", tmp_path / "m", "--out", tmp_path / "out", "--window-tokens", 8)
    assert run(*build)[0] == 0


def test_a_start_brings_its_own_sizes_and_characters(run: Run, corpus: Path, tmp_path: Path) -> None:
    start = save_model(tmp_path / "start", make_model(vocabulary_size=4, d_model=8), ALPHABET)
    arguments = ("train", "--corpus", corpus, "--out", tmp_path / "m", "--start", start, "--iterations", 1)
    refusals = {
        (*arguments, option, value): f"{option} and --start exclude each other"
        for option, value in (*zip(MODEL_SIZES[::2], MODEL_SIZES[1::2], strict=True), ("--vocabulary", start / "v"))
    }
    check_refusals(run, refusals, tmp_path)
    assert run(*arguments, "--dropout", 0.5)[0] == 0
    assert json.loads((tmp_path / "m" / "training.json").read_text())["config"]["dropout"] == 0.5


def test_the_defaults_of_train_are_those_of_settings_and_model(run: Run) -> None:
    config, settings = vars(TransformerConfig()), vars(TrainingSettings())
    defaults = {name: option.default for name, option in inspect.signature(train).parameters.items()}
    for name in ("seed", "iterations", "batch_windows", "rate_peak"):
        assert defaults[name] == settings[name], name
    assert defaults["dropout"] == config["dropout"]
    shown = " ".join(run("train", "--help")[1].split())
    for name in ("blocks", "heads", "d_model", "context_tokens"):
        assert re.search(rf"--{name.replace('_', '-')} [^-]*\[default: \({config[name]}, or", shown), name


def test_a_build_that_is_interrupted_says_how_it_goes_on_and_does(
    run: Run, corpus: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("build", "--corpus", corpus, "--model", model, "--out", tmp_path / "out")
    with monkeypatch.context() as patch:
        interrupt_at("blocks", patch)
        code, out, err = run(*arguments)
    assert (code, out) == (130, "")
    assert err.splitlines()[2:] == [
        f"stopped: what is done is in {tmp_path / 'out'}.partial; the same command continues it"
    ]
    assert not (tmp_path / "out").exists()
    code, _, err = run(*arguments)
    assert code == 0
    assert "1 of 1 shards are there already" in err
    assert run("verify", tmp_path / "out")[0] == 0


def test_a_build_that_is_interrupted_before_the_work_leaves_nothing(
    run: Run, corpus: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at("substrings", monkeypatch)
    code, out, err = run("build", "--corpus", corpus, "--model", model, "--out", tmp_path / "out")
    assert (code, out) == (130, "")
    assert err == "stopped: nothing was written\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt"]


def test_a_training_that_is_interrupted_says_how_it_goes_on_and_does(
    run: Run, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = {1: f"what is done is in {tmp_path / 'm'}; the same command continues it", 3: "nothing was written"}
    for iterations, expected in left.items():
        arguments = ("train", "--corpus", corpus, "--out", tmp_path / "m", "--iterations", iterations, *MODEL_SIZES)
        with monkeypatch.context() as patch:
            interrupt_at("train", patch)
            code, out, err = run(*arguments)
        assert (code, out, err) == (130, "", f"stopped: {expected}\n")
        assert run(*arguments)[0] == 0
        shutil.rmtree(tmp_path / "m")


def test_every_refusal_is_one_line_and_status_2_and_leaves_nothing(
    run: Run, corpus: Path, model: Path, tiny_snapshot: Path, tmp_path: Path
) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("abc")
    (tmp_path / "other.txt").write_text("a?b" * 99)
    (tmp_path / "no texts").mkdir()

    def build(source: object, *options: object, out: object = tmp_path / "out") -> tuple[object, ...]:
        return ("build", "--corpus", source, "--model", model, "--out", out, *options)

    def train(source: object, *options: object, out: object = tmp_path / "m") -> tuple[object, ...]:
        return ("train", "--corpus", source, "--out", out, *MODEL_SIZES, "--iterations", 1, *options)

    refusals = {
        build(tmp_path / "nothing"): "no corpus at",
        build(tmp_path / "no texts"): "no .txt file",
        build(tmp_path / "empty.txt"): "is empty",
        build(tmp_path / "latin.txt"): "offset 3",
        build(tmp_path / "short.txt"): "fewer than one window of 10",
        build(tmp_path / "other.txt"): "'?' (U+003F) at character 1",
        build(corpus, "--window-tokens", 33): "allow 1 to 32",
        build(corpus, "--model", tmp_path): "no model can be loaded",
        build(corpus, "--model", tmp_path, "--estimate"): "no model can be loaded",
        build(corpus, out=tmp_path): "exists already",
        build(corpus, out="."): "exists already",
        build(corpus, out=corpus / "out"): "cannot write",
        build(corpus, out=tmp_path / ("o" * 300)): "cannot write",
        build(corpus, "--resume", out=tmp_path / ("o" * 300)): "cannot write",
        train(tmp_path / "nothing"): "no corpus at",
        train(tmp_path / "short.txt"): "training needs more than 80",
        train(corpus, "--heads", 3): "not divisible",
        train(corpus, "--dropout", 1): "dropout",
        train(corpus, "--rate-peak", 0): "rate_peak",
        train(corpus, "--device", "abacus"): "abacus",
        train(corpus, "--vocabulary", corpus): "not a tokenizer",
        train(tmp_path / "other.txt", "--vocabulary", model / "tokenizer.json"): "'?' (U+003F)",
        train(corpus, out=tmp_path): "not empty",
        ("verify", tmp_path): "is no snapshot",
        ("verify", corpus): "is no snapshot",
    }
    check_refusals(run, refusals, tmp_path)


@pytest.mark.parametrize("command", [("train", "--corpus", "shakespeare", "--out"), ("calibrate",), ("evaluate",)])
def test_a_seed_that_a_library_does_not_take_is_refused(
    command: tuple[str, ...], run: Run, tiny_snapshot: Path
) -> None:
    code, out, err = run(*command, tiny_snapshot, "--seed", 2**63)
    assert (code, out) == (2, "")
    assert "--seed" in err
    assert f"{tiny_snapshot.name}.calibrate" not in os.listdir(tiny_snapshot.parent)


def test_the_largest_seed_trains_and_calibrates(run: Run, corpus: Path, tiny_copy: Path, tmp_path: Path) -> None:
    seed = ("--seed", 2**63 - 1)
    assert run("train", "--corpus", corpus, "--out", tmp_path / "m", "--iterations", 1, *seed, *MODEL_SIZES)[0] == 0
    assert run("calibrate", tiny_copy, "--prompts", 60, *seed)[0] == 0


def test_a_damaged_snapshot_does_not_verify(run: Run, corpus: Path, model: Path, tmp_path: Path) -> None:
    run("build", "--corpus", corpus, "--model", model, "--out", tmp_path / "out")
    path = tmp_path / "out" / "keys" / "block-0.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    code, out, err = run("verify", tmp_path / "out")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: keys/block-0\.npy in .* was altered: .*\n", err)


def test_a_full_disk_is_one_line_and_status_2_and_a_later_run_completes(
    run: Run, corpus: Path, model: Path, tmp_path: Path
) -> None:
    arguments = ("build", "--corpus", corpus, "--model", model, "--out", tmp_path / "out")
    ended = subprocess.run(
        [sys.executable, "-m", "ffnsearch_service.cli", *map(str, arguments)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(r"error: cannot write .*; make room .*\n", ended.stderr.splitlines(keepends=True)[-1])
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "out").exists()
    assert run(*arguments)[0] == 0
    assert run("verify", tmp_path / "out")[0] == 0

"""Training learns, can be stopped at any iteration without a trace in the result, and refuses what it cannot do."""

import json
import math
import random
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import stopping
from ffnsearch_indexer.corpora.corpus import Corpus
from ffnsearch_indexer.corpora.tokenizer import Tokenizer
from ffnsearch_indexer.errors import CorpusError, ModelError, OutputError, TokenError
from ffnsearch_indexer.models.training import CHECKPOINT_FILE, TrainingRecord, TrainingSettings, train
from ffnsearch_indexer.models.transformer import Transformer, TransformerConfig
from stopping import KILLED, Stop, TrainJob
from tiny import files_of

TEXT = "To be, or not to be, that is the question.\n" * 12
CORPUS = Corpus("text", TEXT)
TOKENIZER = Tokenizer.of_text(TEXT)
CONFIG = TransformerConfig(TOKENIZER.vocabulary_size, blocks=1, heads=2, d_model=16, context_tokens=8)
SETTINGS = TrainingSettings(
    iterations=12,
    batch_windows=4,
    rate_peak=1e-2,
    warmup_iterations=3,
    checkpoint_iterations=5,
    evaluation_iterations=4,
    evaluation_windows=4,
)
KILLS = 3


def run(out: Path, settings: TrainingSettings = SETTINGS, **options: object) -> TrainingRecord:
    return train(CORPUS, TOKENIZER, CONFIG, settings, out, **options)


def stop_after(iteration: int, out: Path) -> None:
    """Train in this process until somebody stops it after an iteration."""

    def interrupt(_: str, done: int, __: int, ___: str) -> None:
        if done == iteration:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(out, progress=interrupt)


def what_counts(record: TrainingRecord) -> dict[str, object]:
    """A record without what differs from run to run."""
    return {name: value for name, value in asdict(record).items() if name not in ("seconds", "machine")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, object]]:
    """Weights and record of a run that nobody stopped."""
    out = tmp_path_factory.mktemp("whole") / "m"
    record = run(out)
    return (out / "model.safetensors").read_bytes(), what_counts(record)


def test_a_run_leaves_the_model_its_record_and_a_curve_and_no_checkpoint(tmp_path: Path) -> None:
    record = run(tmp_path / "m")
    assert sorted(files_of(tmp_path / "m")) == [
        "config.json",
        "curve.png",
        "model.safetensors",
        "tokenizer.json",
        "training.json",
    ]
    weights = load_file(tmp_path / "m" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert Transformer.load(tmp_path / "m").config == CONFIG
    assert Tokenizer.load(tmp_path / "m" / "tokenizer.json") == TOKENIZER
    assert (tmp_path / "m" / "curve.png").read_bytes().startswith(b"\x89PNG")
    document = json.loads((tmp_path / "m" / "training.json").read_text())
    assert document == json.loads(json.dumps(asdict(record)))
    assert document["iteration"] == [4, 8, 12]
    assert document["corpus_sha256"] == CORPUS.sha256


@pytest.mark.parametrize("iteration", [1, 4, 5, 6, 10, 12])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    iteration: int, whole: tuple[bytes, dict[str, object]], tmp_path: Path
) -> None:
    stop_after(iteration, tmp_path / "m")
    record = run(tmp_path / "m")
    assert ((tmp_path / "m" / "model.safetensors").read_bytes(), what_counts(record)) == whole


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainJob, stopping.Ended]:
    """A run in a process of its own that nobody killed."""
    job = TrainJob(TEXT, tmp_path_factory.mktemp("never") / "m", CONFIG, SETTINGS)
    return job, stopping.run(job)


@pytest.mark.parametrize("kill", range(KILLS))
def test_a_run_that_was_killed_goes_on_to_the_same_weights(
    kill: int, never_killed: tuple[TrainJob, stopping.Ended], tmp_path: Path
) -> None:
    job, ended = never_killed
    operations = ended.operations - 2  # but those that let go of the folder: its model is whole then
    before = 1 + int(operations * (kill + random.Random(kill).random()) / KILLS)
    killed = replace(job, out=tmp_path / "m")
    assert stopping.run(killed, Stop(before)).exit_status == KILLED
    again = stopping.run(killed)
    assert again.error is None, f"killed before operation {before} of {ended.operations}"
    assert what_counts(again.result) == what_counts(ended.result)
    assert files_of(killed.out)["model.safetensors"] == files_of(job.out)["model.safetensors"]
    assert files_of(killed.out).keys() == files_of(job.out).keys()


def test_the_seed_decides(whole: tuple[bytes, dict[str, object]], tmp_path: Path) -> None:
    torch.rand(3)
    run(tmp_path / "same")
    run(tmp_path / "other", replace(SETTINGS, seed=2))
    assert (tmp_path / "same" / "model.safetensors").read_bytes() == whole[0]
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != whole[0]


def test_a_run_with_other_settings_is_not_continued(tmp_path: Path) -> None:
    stop_after(6, tmp_path / "m")
    before = files_of(tmp_path)
    others = {
        "settings": (CORPUS, TOKENIZER, CONFIG, replace(SETTINGS, seed=2)),
        "config": (CORPUS, TOKENIZER, replace(CONFIG, dropout=0.2), SETTINGS),
        "corpus": (Corpus("text", TEXT + "To"), TOKENIZER, CONFIG, SETTINGS),
        "tokenizer": (CORPUS, Tokenizer(TOKENIZER.characters[::-1]), CONFIG, SETTINGS),
    }
    for different, arguments in others.items():
        with pytest.raises(OutputError) as caught:
            train(*arguments, tmp_path / "m")
        assert f"another {different}" in caught.value.message
        assert files_of(tmp_path) == before


def test_a_folder_that_is_not_empty_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("")
    before = files_of(tmp_path)
    for name in ("m", "file"):
        with pytest.raises(OutputError) as caught:
            run(tmp_path / name)
        assert str(tmp_path / name) in caught.value.message
    assert files_of(tmp_path) == before


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    run(tmp_path / "m")
    with pytest.raises(OutputError) as caught:
        run(tmp_path / "m")
    assert caught.value.reason == "OUTPUT_EXISTS"


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut"])
def test_a_checkpoint_that_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT_FILE).write_bytes(content)
    with pytest.raises(OutputError) as caught:
        run(tmp_path)
    assert CHECKPOINT_FILE in caught.value.message


def test_a_disk_without_room_ends_the_run_in_order_and_a_later_one_completes_it(
    whole: tuple[bytes, dict[str, object]], tmp_path: Path
) -> None:
    job = TrainJob(TEXT, tmp_path / "m", CONFIG, SETTINGS)
    for file_bytes_max in (1_000, 20_000):
        error = stopping.run(job, Stop(file_bytes_max=file_bytes_max)).error
        assert isinstance(error, OutputError)
        assert error.reason == "DISK_FULL"
    assert stopping.run(job).error is None
    assert len(files_of(job.out)["model.safetensors"]) == len(whole[0])


@pytest.mark.parametrize("characters", [0, 8, 80])
def test_a_text_too_short_for_a_window_in_both_parts_is_refused(characters: int, tmp_path: Path) -> None:
    with pytest.raises(CorpusError) as caught:
        train(Corpus("short", TEXT[:characters]), TOKENIZER, CONFIG, SETTINGS, tmp_path / "m")
    assert caught.value.reason == "CORPUS_TOO_SHORT"
    assert not (tmp_path / "m").exists()


def test_a_text_just_long_enough_is_taken(tmp_path: Path) -> None:
    train(Corpus("short", TEXT[:81]), TOKENIZER, CONFIG, SETTINGS, tmp_path / "m")


def test_a_character_outside_the_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenError):
        train(Corpus("text", TEXT + "?"), TOKENIZER, CONFIG, SETTINGS, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for device in ("cuda:99", "abacus", "meta"):
        with pytest.raises(ModelError) as caught:
            run(tmp_path / "m", device=device)
        assert caught.value.reason == "DEVICE_UNAVAILABLE"
        assert device in caught.value.message
    assert not (tmp_path / "m").exists()


def test_auto_is_the_device_that_this_machine_has(
    whole: tuple[bytes, dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ffnsearch_indexer.hardware.gpu.cuda_problem", lambda: "there is no GPU")
    run(tmp_path / "m", device="auto")
    assert files_of(tmp_path / "m")["model.safetensors"] == whole[0]
    monkeypatch.setattr("ffnsearch_indexer.hardware.gpu.cuda_problem", lambda: None)
    monkeypatch.setattr("ffnsearch_indexer.models.training._machine", lambda device: pytest.fail(f"took {device}"))
    with pytest.raises(pytest.fail.Exception, match="took cuda"):
        run(tmp_path / "other", device="auto")


@pytest.mark.parametrize("allocate", [np.empty, torch.empty])
def test_more_than_memory_holds_is_refused_and_leaves_nothing(
    allocate: Callable[[int], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Transformer, "forward", lambda *_: allocate(1 << 58))
    with pytest.raises(ModelError) as caught:
        run(tmp_path / "m")
    assert caught.value.reason == "OUT_OF_MEMORY"
    assert not (tmp_path / "m").exists()


def test_of_two_runs_at_once_the_second_is_refused_and_the_first_ends_well(
    whole: tuple[bytes, dict[str, object]], tmp_path: Path
) -> None:
    refused = []

    def run_again(*_: object) -> None:
        with pytest.raises(OutputError) as caught:
            run(tmp_path / "m")
        refused.append(caught.value.reason)

    record = run(tmp_path / "m", progress=run_again)
    assert refused == ["OUTPUT_BUSY"] * SETTINGS.iterations
    assert ((tmp_path / "m" / "model.safetensors").read_bytes(), what_counts(record)) == whole


def test_a_loss_that_is_no_number_ends_the_run_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        run(tmp_path / "m", replace(SETTINGS, rate_peak=1e30))
    assert (caught.value.reason, "rate_peak" in caught.value.message) == ("NOT_FINITE", True)
    assert not (tmp_path / "m" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"iterations": 0},
        {"batch_windows": 0},
        {"checkpoint_iterations": 0},
        {"evaluation_iterations": 0},
        {"evaluation_windows": 0},
        {"rate_peak": 1e-6},
        {"rate_peak": math.inf},
        {"rate_peak": math.nan},
        {"rate_final": 0.0},
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ModelError):
        TrainingSettings(**change)


def test_the_loss_falls_to_nearly_nothing_where_the_text_repeats_itself(tmp_path: Path) -> None:
    settings = replace(SETTINGS, iterations=100, batch_windows=16, rate_peak=2e-2, evaluation_iterations=50)
    record = run(tmp_path / "m", settings)
    assert record.train_loss[0] > record.train_loss[-1]
    assert record.final_validation_loss < 0.6 < math.log(TOKENIZER.vocabulary_size)
    assert math.isclose(record.final_train_loss, record.final_validation_loss, abs_tol=0.2)


def test_the_rate_rises_to_its_peak_and_falls_to_its_end() -> None:
    settings = TrainingSettings(iterations=1000, warmup_iterations=100)
    rates = [settings.rate(iteration) for iteration in range(1000)]
    peak = rates.index(max(rates))
    assert rates[0] == pytest.approx(settings.rate_peak / 100)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 80 <= peak <= 100
    assert max(rates) == pytest.approx(settings.rate_peak, rel=0.05)
    assert settings.rate(1000) == pytest.approx(settings.rate_final)


def test_without_warmup_the_rate_starts_at_its_peak() -> None:
    assert TrainingSettings(warmup_iterations=0).rate(0) == TrainingSettings().rate_peak


def test_a_model_is_trained_further_and_its_record_says_from_where(tmp_path):
    first = run(tmp_path / "first")
    second = run(tmp_path / "second", replace(SETTINGS, seed=2), start=tmp_path / "first")
    assert second.started_from == Transformer.load(tmp_path / "first").sha256()
    assert [earlier["settings"]["seed"] for earlier in second.earlier] == [SETTINGS.seed]
    assert second.final_train_loss < first.final_train_loss
    third = run(tmp_path / "third", replace(SETTINGS, seed=3), start=tmp_path / "second")
    assert [earlier["settings"]["seed"] for earlier in third.earlier] == [1, 2]


def test_training_further_is_continued_after_a_stop_with_the_same_result(tmp_path):
    run(tmp_path / "first")
    settings = replace(SETTINGS, seed=2)
    options = {"settings": settings, "start": tmp_path / "first"}
    run(tmp_path / "whole", **options)

    def interrupt(_: str, done: int, __: int, ___: str) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", progress=interrupt, **options)
    run(tmp_path / "stopped", **options)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert files_of(tmp_path / "stopped")[name] == files_of(tmp_path / "whole")[name]


def test_a_checkpoint_of_another_start_is_refused(tmp_path):
    run(tmp_path / "first")
    stop_after(6, tmp_path / "stopped")
    with pytest.raises(OutputError, match="started from"):
        run(tmp_path / "stopped", start=tmp_path / "first")


@pytest.mark.parametrize(
    "record",
    ["no", "[]", "1", "null", "{}", '{"earlier": 1}', '{"earlier": ["no"]}', "with iteration [1]", "with settings {}"],
)
def test_a_start_whose_record_is_none_is_refused_before_the_work(record: str, tmp_path: Path) -> None:
    run(tmp_path / "first")
    path = tmp_path / "first" / "training.json"
    if record.startswith("with"):
        _, name, value = record.split()
        record = json.dumps(json.loads(path.read_text()) | {name: json.loads(value)})
    path.write_text(record)
    with pytest.raises(ModelError, match="cannot be read as a training record"):
        run(tmp_path / "second", start=tmp_path / "first")
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize("name", ["$a^$", "\udcff"])
def test_a_corpus_of_any_name_has_a_curve(name: str, tmp_path: Path) -> None:
    train(Corpus(name, TEXT), TOKENIZER, CONFIG, SETTINGS, tmp_path / "m")
    assert (tmp_path / "m" / "curve.png").exists()


def test_a_start_of_other_sizes_is_refused(tmp_path):
    run(tmp_path / "first")
    wider = replace(CONFIG, d_model=32)
    with pytest.raises(ModelError, match="other sizes"):
        train(CORPUS, TOKENIZER, wider, SETTINGS, tmp_path / "second", start=tmp_path / "first")
    assert not (tmp_path / "second").exists()

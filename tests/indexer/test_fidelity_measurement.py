"""A measurement searches once for all profiles, goes on where it was stopped, and is refused before it begins."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measuring import ALPHABET, EVEN, PROFILES, PROMPTS, TEXT, WINDOW, evaluate, measure

import stopping
from ffnsearch_indexer.answer.predictor import Predictor
from ffnsearch_indexer.answer.profile import ProductProfile, ProductStep, choose_profiles, one_step
from ffnsearch_indexer.build.pipeline import build
from ffnsearch_indexer.build.request import BuildRequest
from ffnsearch_indexer.corpora.corpus import Corpus
from ffnsearch_indexer.errors import ChangedError, FidelityError, ModelError, OutputError, ProfileError, TokenError
from ffnsearch_indexer.fidelity import chunks, comparison
from ffnsearch_indexer.fidelity.evaluate import measurement_folder, prepare
from ffnsearch_indexer.fidelity.evaluation import Evaluation
from ffnsearch_indexer.fidelity.protocols import Protocol
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_indexer.store.manifest import Manifest, read_manifest, revise_manifest
from tiny import files_of, make_model, record_training, save_model


def test_sisters_are_told_with_what_their_records_say(
    predictors: dict[str, Predictor], measurable: Path, tmp_path: Path
) -> None:
    model = make_model(vocabulary_size=4, d_model=8, context_tokens=WINDOW, seed=9)
    sisters = [measurable / "sister", save_model(tmp_path / "without", model, ALPHABET)]
    sister, without = measure(predictors, Protocol.PARITY, sisters=sisters).document["sisters"]
    assert (without["train_loss"], without["validation_loss"], without["seed"]) == (None, None, None)
    assert (sister["train_loss"], sister["validation_loss"], sister["seed"]) == (1.5, 1.75, 2)
    assert sister["hellinger"]["mean"] > 0


def test_one_search_for_all_profiles_measures_each_as_if_alone(predictors: dict[str, Predictor]) -> None:
    together = measure(predictors, Protocol.PARITY)
    for profile in PROFILES:
        alone = evaluate(predictors["all"], Protocol.PARITY, [profile], prompts=PROMPTS)
        for mine, theirs in zip(
            alone.measures["profiles", profile.name], together.measures["profiles", profile.name], strict=True
        ):
            assert np.array_equal(mine, theirs, equal_nan=True)


def test_the_training_text_may_be_another_corpus(predictors: dict[str, Predictor]) -> None:
    other = Corpus("other", TEXT[300:] + ALPHABET * 20)
    document = measure(predictors, Protocol.PARITY, trained_on=other).document
    prompts = measure(predictors, Protocol.PARITY).texts
    training = other.text[: other.train_tokens()]
    assert document["trained_on"] == "other"
    assert document["in_training"]["count"] == sum(prompt in training for prompt in prompts)
    assert 0 < document["in_training"]["count"] < PROMPTS


def test_where_the_training_text_is_not_known_no_prompt_is_said_to_be_in_it(measurable: Path, tmp_path: Path) -> None:
    stranger = save_model(tmp_path / "model", make_model(vocabulary_size=4, d_model=8), ALPHABET)
    corpus = Corpus("text", TEXT)
    for name, text in (("unknown", None), ("another", Corpus("other", ALPHABET * 20)), ("same", corpus)):
        if text:
            record_training(stranger, text)
        build(BuildRequest(corpus, stranger, tmp_path / name, window_tokens=WINDOW, split="train"))
        with Datastore.open(tmp_path / name) as datastore:
            predictor = Predictor(datastore)
            document = evaluate(predictor, Protocol.LEAVE_ONE_OUT, [EVEN], prompts=PROMPTS).document
            parts = [document[part] for part in ("trained_on", "in_training", "not_in_training")]
            if text is corpus:
                assert None not in parts
                continue
            assert parts == [None] * 3
            with pytest.raises(FidelityError, match=r"--trained-on, or choose --protocol leave-one-out$") as caught:
                prepare(predictor, Protocol.HELD_OUT, [EVEN])
            assert caught.value.reason == "TRAINING_TEXT_UNKNOWN"
            told = evaluate(predictor, Protocol.HELD_OUT, [EVEN], prompts=PROMPTS, trained_on=corpus).document
            assert (told["trained_on"], told["in_training"]["count"]) == ("text", 0)


def without_time(evaluation: Evaluation) -> dict[str, Any]:
    return evaluation.document | {"seconds": None}


@pytest.mark.parametrize("protocol", Protocol)
def test_the_result_does_not_depend_on_chunks_or_interruptions(
    protocol: Protocol, predictors: dict[str, Predictor], measurable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(measurable)
    whole = without_time(measure(predictors, protocol))
    monkeypatch.setattr(chunks, "CHUNK_PROMPTS", 8)

    def interrupt(stage: str, done: int, total: int) -> None:
        if done == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(predictors, protocol, progress=interrupt)
    work = measurement_folder(measurable / protocol.indexed_split, protocol)
    assert sorted(path.name for path in work.iterdir()) == ["chunk-00000.npz", "chunk-00001.npz", "work.json"]
    assert without_time(measure(predictors, protocol)) == whole
    assert files_of(measurable) == before, "nothing is left behind"


@dataclass(frozen=True)
class EvaluateJob:
    """A measurement in a process of its own, in chunks of 8 prompts; it returns the document."""

    out: Path

    def run(self, tell: Any) -> dict[str, Any]:
        chunks.CHUNK_PROMPTS = 8
        with Datastore.open(self.out) as datastore:
            evaluation = evaluate(
                Predictor(datastore),
                Protocol.LEAVE_ONE_OUT,
                choose_profiles(datastore.manifest.profiles),
                prompts=PROMPTS,
                save=True,
                progress=tell,
            )
        return without_time(evaluation)


def test_a_measurement_that_is_killed_or_lacks_room_goes_on_and_gives_the_same(
    measurable: Path, tmp_path: Path
) -> None:
    snapshot = Path(shutil.copytree(measurable / "train", tmp_path / "copy.ffn"))
    job = EvaluateJob(snapshot)
    for before in (7, 15):
        assert stopping.run(job, stopping.Stop(before)).exit_status == stopping.KILLED
        assert read_manifest(snapshot).fidelity is None
        assert measurement_folder(snapshot, Protocol.LEAVE_ONE_OUT).exists()
    full_disk = stopping.run(job, stopping.Stop(file_bytes_max=2_000))
    assert isinstance(full_disk.error, OutputError)
    assert re.match(r"cannot write .*; make room .* the same command continues it$", full_disk.error.message)
    ended = stopping.run(job)
    assert ended.error is None
    with Datastore.open(measurable / "train") as datastore:
        whole = evaluate(
            Predictor(datastore), Protocol.LEAVE_ONE_OUT, choose_profiles(datastore.manifest.profiles), prompts=PROMPTS
        )
    assert ended.result == without_time(whole)
    saved = read_manifest(snapshot).fidelity
    assert saved is not None
    assert saved.keys() == {"leave_one_out"}
    assert saved["leave_one_out"] | {"seconds": None} == ended.result
    assert [path.name for path in tmp_path.iterdir()] == ["copy.ffn"]


def test_unfinished_work_with_other_prompts_is_not_mixed_in(predictors: dict[str, Predictor], measurable: Path) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(predictors, Protocol.PARITY, progress=interrupt)
    with pytest.raises(OutputError, match="another set of prompts") as caught:
        measure(predictors, Protocol.PARITY, seed=2)
    assert caught.value.reason == "OUTPUT_EXISTS"
    measure(predictors, Protocol.PARITY)
    assert not measurement_folder(measurable / "all", Protocol.PARITY).exists()


NGRAM = ProductProfile("n-gram", ((ProductStep(-0.2, 1.0, prior_mass=1.0), ProductStep(0.2, 1.0, prior_mass=1.0)),))


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: replace(
            manifest, profiles=manifest.profiles | {"even": one_step("even", (0.5, 0.5), (1, 1)).to_json()}
        ),
        lambda manifest: replace(manifest, fidelity={"calibration": {"ngram": {"profile": NGRAM.to_json()}}}),
    ],
    ids=["a profile", "the fitted n-gram"],
)
def test_figures_of_what_a_calibration_changed_meanwhile_are_not_kept(
    change: Callable[[Manifest], Manifest], measurable: Path, tmp_path: Path
) -> None:
    """Not of any protocol of one command: what it has done is of no use to the next."""
    snapshot = Path(shutil.copytree(measurable / "train", tmp_path / "copy.ffn"))
    with Datastore.open(snapshot) as datastore:
        predictor, profiles = Predictor(datastore), choose_profiles(datastore.manifest.profiles)
        first, second = (prepare(predictor, of, profiles) for of in (Protocol.LEAVE_ONE_OUT, Protocol.HELD_OUT))

        def both() -> None:
            with first.run(save=True):
                revise_manifest(snapshot, change)
                with second.run(save=True):
                    pytest.fail("it is refused")

        with pytest.raises(ChangedError, match="calibrated while it was measured, so nothing is kept: measure again"):
            both()
        assert "held_out" not in (read_manifest(snapshot).fidelity or {})
        assert [path.name for path in tmp_path.iterdir()] == ["copy.ffn"]
    with Datastore.open(snapshot) as datastore:
        again = evaluate(
            Predictor(datastore), Protocol.HELD_OUT, choose_profiles(datastore.manifest.profiles), save=True
        )
    assert ("fitted_ngram" in again.document["baselines"]) is ("calibration" in read_manifest(snapshot).fidelity)
    assert "held_out" in (read_manifest(snapshot).fidelity or {})


def test_unfinished_work_with_other_answers_is_not_mixed_in(
    predictors: dict[str, Predictor], measurable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as that of a version that compares with another baseline."""

    def interrupt(stage: str, done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.delitem(comparison.LABELS, "smoothed_ngram")
        with pytest.raises(KeyboardInterrupt):
            measure(predictors, Protocol.PARITY, progress=interrupt)
    with pytest.raises(OutputError, match="another set of answers"):
        measure(predictors, Protocol.PARITY)
    shutil.rmtree(measurement_folder(measurable / "all", Protocol.PARITY))


def test_what_cannot_be_measured_is_refused_before_the_work(
    predictors: dict[str, Predictor], measurable: Path, tmp_path: Path
) -> None:
    other = save_model(tmp_path / "other", make_model(vocabulary_size=3, d_model=8), "xyz")
    short = save_model(
        tmp_path / "short", make_model(vocabulary_size=4, d_model=8, context_tokens=WINDOW - 1), ALPHABET
    )
    before = files_of(measurable)
    for error, reason, protocol, options in (
        (FidelityError, "PROTOCOL_NOT_ALLOWED", Protocol.PARITY, {"on": "train"}),
        (FidelityError, "PROTOCOL_NOT_ALLOWED", Protocol.LEAVE_ONE_OUT, {"on": "all"}),
        (FidelityError, "PROTOCOL_NOT_ALLOWED", Protocol.HELD_OUT, {"on": "all"}),
        (ModelError, "OTHER_TOKENIZER", Protocol.PARITY, {"sisters": [other]}),
        (ModelError, "INVALID_MODEL", Protocol.PARITY, {"sisters": [short]}),
        (ModelError, "SAME_MODEL", Protocol.PARITY, {"sisters": [measurable / "model"]}),
        (ModelError, "SAME_MODEL", Protocol.PARITY, {"sisters": 2 * [measurable / "sister"]}),
        (ModelError, "INVALID_MODEL", Protocol.PARITY, {"sisters": [tmp_path]}),
        (TokenError, "UNKNOWN_CHARACTER", Protocol.PARITY, {"trained_on": Corpus("x", "abcx" * 9)}),
        (ProfileError, "WRONG_BLOCK_COUNT", Protocol.PARITY, {"profiles": [one_step("x", (0.5,), (1,))]}),
    ):
        predictor = predictors[str(options.pop("on", protocol.indexed_split))]
        with pytest.raises(error) as caught:
            evaluate(predictor, protocol, **{"profiles": PROFILES} | options)
        assert caught.value.reason == reason
        assert "\n" not in caught.value.message
    with pytest.raises(ProfileError, match="it has even, steps"):
        choose_profiles(read_manifest(measurable / "all").profiles, ["even", "none"])
    assert files_of(measurable) == before

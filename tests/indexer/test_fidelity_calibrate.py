"""A calibration gives a snapshot nearer profiles, on prompts that no evaluation looks at; killed, it goes on."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measuring import evaluate
from test_snapshot import rewrite_manifest

from ffnsearch_indexer.answer.prediction import support
from ffnsearch_indexer.answer.predictor import Predictor
from ffnsearch_indexer.answer.profile import ARTICLE, Profile, choose_profiles
from ffnsearch_indexer.errors import FidelityError, OutputError
from ffnsearch_indexer.fidelity import calibrate as calibrating
from ffnsearch_indexer.fidelity import fitting
from ffnsearch_indexer.fidelity.bands import bytes_of_prompt, collect
from ffnsearch_indexer.fidelity.calibrate import Calibration, calibrate, calibration_folder
from ffnsearch_indexer.fidelity.chunks import work_in
from ffnsearch_indexer.fidelity.expectation import LOW_GROUP_PROMPTS
from ffnsearch_indexer.fidelity.protocols import Protocol
from ffnsearch_indexer.fidelity.selection import calibration_ids, choose_positions
from ffnsearch_indexer.progress import silent
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_indexer.store.manifest import read_manifest
from tiny import revise

NAMES = {"one-step", "sum", "fast", "balanced", "best"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "ITERATIONS", 60)


@pytest.fixture
def predictor(tiny_copy: Path) -> Iterator[Predictor]:
    with Datastore.open(tiny_copy, check="sizes") as datastore:
        yield Predictor(datastore)


def without_times(found: Calibration) -> dict[str, Any]:
    document = json.loads(json.dumps(found.document))
    return {**document, "seconds": None}


def test_the_profiles_are_the_snapshots_own_from_then_on(tiny_copy: Path, predictor: Predictor) -> None:
    before = read_manifest(tiny_copy)
    revise(tiny_copy, fidelity={"parity": {"of": "earlier profiles"}})
    found = calibrate(predictor, prompts=200, save=True)
    after = read_manifest(tiny_copy)
    assert after.snapshot_id != before.snapshot_id
    assert after.files == before.files
    assert after.profiles.keys() == before.profiles.keys() | NAMES
    assert after.default_profile == "balanced"
    assert after.fidelity == {"calibration": json.loads(json.dumps(found.document))}
    assert {name: Profile.from_json(after.profiles[name]) for name in NAMES} == found.profiles
    assert not calibration_folder(tiny_copy).exists()
    with Datastore.open(tiny_copy) as reopened:
        assert reopened.manifest == after


def test_what_is_found_is_nearer_than_what_was_there(tiny_copy: Path, predictor: Predictor) -> None:
    calibrate(predictor, prompts=400, save=True)
    profiles = choose_profiles(read_manifest(tiny_copy).profiles)
    document = evaluate(predictor, Protocol.PARITY, profiles, prompts=200).document
    means = {name: measures["hellinger"]["mean"] for name, measures in document["profiles"].items()}
    assert means["best"] < means["one-step"] < means["even"]
    assert means["balanced"] <= means["fast"] + 0.01


def test_no_prompt_is_shared_with_an_evaluation(predictor: Predictor) -> None:
    datastore = predictor.datastore
    calibrated = datastore.substring_tokens()[calibration_ids(datastore.manifest.substrings, 10**9)]
    evaluated = datastore.windows[choose_positions(datastore, Protocol.PARITY, 10**9)]
    assert not {tuple(prompt) for prompt in calibrated} & {tuple(prompt) for prompt in evaluated}
    assert len(calibrated) + len(evaluated) == datastore.manifest.substrings


def test_the_figures_are_those_of_prompts_that_nothing_was_fitted_to(predictor: Predictor) -> None:
    found = calibrate(predictor, prompts=200)
    ids = calibration_ids(predictor.datastore.manifest.substrings, 200)[: found.document["judged_prompts"]]
    prompts = list(predictor.datastore.substring_tokens()[ids])
    for rung in found.document["ladder"]:
        for name in rung["profiles"]:
            answers = predictor.predict(prompts, found.profiles[name]).answers
            assert np.mean([answer.hellinger for answer in answers]) == pytest.approx(rung["hellinger"], abs=1e-9)


def test_an_ngram_is_fitted_to_the_same_prompts_and_measured_beside_the_profiles(
    tiny_copy: Path, predictor: Predictor
) -> None:
    found = calibrate(predictor, prompts=400, save=True).document["ngram"]
    positions = predictor.datastore.first_positions[calibration_ids(predictor.datastore.manifest.substrings, 400)]
    assert not set(positions) & set(choose_positions(predictor.datastore, Protocol.PARITY, 200))
    with Datastore.open(tiny_copy, check="sizes") as datastore:
        profiles = choose_profiles(datastore.manifest.profiles, ["balanced"])
        baselines = evaluate(Predictor(datastore), Protocol.PARITY, profiles, prompts=200).document["baselines"]
    fitted = baselines["fitted_ngram"]["hellinger"]["mean"]
    assert fitted == pytest.approx(found["hellinger"], abs=0.05), "no farther from prompts that it has not seen"
    assert fitted < min(baselines[name]["hellinger"]["mean"] for name in ("unigram", "backoff_ngram", "smoothed_ngram"))
    low, high = found["ci95"]
    assert low < found["hellinger"] < high


def test_the_expected_distance_is_that_of_prompts_with_similar_support(predictor: Predictor) -> None:
    found = calibrate(predictor, prompts=400)
    ids = calibration_ids(predictor.datastore.manifest.substrings, 400)[: found.document["judged_prompts"]]
    prompts = list(predictor.datastore.substring_tokens()[ids])
    for profile in found.profiles.values():
        expectation = profile.expectation
        assert expectation is not None
        by_group: dict[float, list[float]] = {}
        searched = predictor.search(prompts, profile.thresholds_by_block)
        freqs = [sums.freq for sums in searched.sums]
        for answer, of_prompt in zip(predictor.predict(prompts, profile).answers, support(freqs), strict=True):
            expected = expectation.at(float(of_prompt))
            by_group.setdefault(expected, []).append(answer.hellinger)
        assert len(by_group) == len(expectation.support) > 1
        for expected, distances in by_group.items():
            assert np.mean(distances) == pytest.approx(expected, abs=1e-9)
            assert len(distances) > LOW_GROUP_PROMPTS / 2  # some have the same support
        lowest, *higher = (len(by_group[distance]) for distance in expectation.distance)
        assert lowest <= min(higher)


def test_a_killed_calibration_goes_on_with_the_same_result(
    tiny_copy: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = calibrate(predictor, prompts=60)
    monkeypatch.setattr(fitting, "choose_one_step", lambda bands: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        calibrate(predictor, prompts=60, save=True)
    assert list(calibration_folder(tiny_copy).glob("chunk-*"))
    monkeypatch.undo()
    monkeypatch.setattr(fitting, "ITERATIONS", 60)
    sizes: list[int] = []
    search = Predictor.search

    def counted(self: Predictor, prompts: Any, *rest: Any, **named: Any) -> Any:
        sizes.append(len(prompts))
        return search(self, prompts, *rest, **named)

    monkeypatch.setattr(Predictor, "search", counted)
    again = calibrate(predictor, prompts=60)
    assert 60 not in sizes, "what was searched is not searched again"
    assert without_times(again) == without_times(whole)
    assert again.profiles == whole.profiles


@pytest.mark.parametrize("other", ["backend", "snapshot"])
def test_what_another_search_found_is_not_continued(
    other: str, tiny_copy: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(fitting, "choose_one_step", lambda bands: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            calibrate(predictor, prompts=60)
    if other == "snapshot":
        files = read_manifest(tiny_copy).files
        rewrite_manifest(tiny_copy, files=files | {"keys/block-0.npy": replace(files["keys/block-0.npy"], sha256="0")})
    with Datastore.open(tiny_copy, check="sizes") as datastore:
        another = Predictor(datastore, backend="exact" if other == "backend" else "auto")
        with pytest.raises(OutputError, match=f"unfinished work with another {other}"):
            calibrate(another, prompts=60)
    calibrate(predictor, prompts=60)


def test_other_work_in_the_folder_is_refused(tiny_copy: Path, predictor: Predictor, run: Any) -> None:
    folder = calibration_folder(tiny_copy)
    folder.mkdir()
    (folder / "work.json").write_text('{"split": "train"}')
    (folder / "chunk-00000.npz").write_bytes(b"")
    code, out, err = run("calibrate", tiny_copy, "--prompts", 60)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "unfinished work" in err


def test_no_more_prompts_are_taken_than_fit_into_memory(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrating, "BYTES_MAX", 61 * bytes_of_prompt(predictor.datastore.manifest) - 1)
    assert calibrate(predictor, prompts=200).document["prompts"] == 60


def test_what_is_found_takes_the_memory_that_it_is_said_to_and_parts_of_it_none(
    predictor: Predictor, tmp_path: Path
) -> None:
    prompts = predictor.datastore.substring_tokens()[:20]
    with work_in(tmp_path / "work", {}):
        bands = collect(predictor, prompts, tmp_path / "work", exclude_self=False, progress=silent)
    arrays = (bands.freq, bands.neighbors, bands.model)
    assert sum(array.nbytes for array in arrays) == 20 * bytes_of_prompt(predictor.datastore.manifest)
    part = bands.take(slice(5, None))
    assert all(map(np.may_share_memory, (part.freq, part.neighbors, part.model), arrays))


def test_too_few_prompts_are_refused(predictor: Predictor) -> None:
    with pytest.raises(FidelityError) as refused:
        calibrate(predictor, prompts=49)
    assert refused.value.reason == "TOO_FEW_PROMPTS"


def test_the_command_prints_what_was_tried_and_leaves_the_snapshot_alone_if_asked(tiny_copy: Path, run: Any) -> None:
    before = read_manifest(tiny_copy)
    code, out, _ = run("calibrate", tiny_copy, "--prompts", 60, "--no-save")
    assert code == 0
    assert "one-step" in out
    assert "balanced *" in out
    assert read_manifest(tiny_copy) == before
    code, out, _ = run("calibrate", tiny_copy, "--prompts", 60, "--json")
    assert code == 0
    assert json.loads(out)["profiles"].keys() >= NAMES
    assert read_manifest(tiny_copy).default_profile == "balanced"


def test_the_article_profile_stays(tiny_copy: Path, predictor: Predictor) -> None:
    revise(tiny_copy, profiles={"article": ARTICLE.to_json()}, default_profile="article")
    calibrate(predictor, prompts=60, save=True)
    assert read_manifest(tiny_copy).profiles["article"] == ARTICLE.to_json()

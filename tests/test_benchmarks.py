"""The benchmarks of the search run on a small snapshot, and every integer they compare is the same."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ffnsearch_indexer.answer.profile import Step, SumProfile, one_step
from ffnsearch_indexer.build.pipeline import build
from ffnsearch_indexer.build.request import BuildRequest
from ffnsearch_indexer.corpora.corpus import Corpus
from tiny import make_model, random_text, revise, save_model

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
PNG = b"\x89PNG\r\n"
ALPHABET = "abc \n"
PROFILES = (
    one_step("article", (0.99, 0.9), (1, 2)),
    SumProfile("balanced", ((Step(0.98, 2.0), Step(0.8, 0.5)), ())),
)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with the two profiles that are measured by default; the second does not search block 1."""
    folder = tmp_path_factory.mktemp("benchmarks")
    model = save_model(folder / "model", make_model(vocabulary_size=5, d_model=16), ALPHABET)
    build(BuildRequest(Corpus("text", random_text(1, 3000, ALPHABET)), model, folder / "out.ffn", window_tokens=6))
    revise(folder / "out.ffn", profiles={profile.name: profile.to_json() for profile in PROFILES})
    return folder / "out.ffn"


def measured(script: str, folder: Path, *options: object) -> dict[str, Any]:
    """Run a script, let it draw, and read what it wrote."""
    written, drawn = folder / "result.json", folder / "result.png"
    command = [sys.executable, BENCHMARKS / script, "--json", written, "--plot", drawn, *options]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    assert drawn.read_bytes().startswith(PNG)
    result: dict[str, Any] = json.loads(written.read_text())
    return result


def test_range_sums_of_all_backends_are_the_same(snapshot: Path, tmp_path: Path) -> None:
    options = ("--batch", "1,4,600", "--other-batch", "4", "--budget-seconds", 0)
    result = measured("range_sum.py", tmp_path, "--snapshot", snapshot, *options)
    assert result["differing_integers"] == 0
    assert result["answers_checked"] > 0
    assert list(result["measured"]) == ["article", "balanced"]
    for profile, kinds in result["measured"].items():
        assert list(kinds) == ["indexed", "unseen", "common-ending"]
        for kind, of_kind in kinds.items():
            batches = ["1", "4", "600"] if (profile, kind) == ("article", "indexed") else ["4"]
            assert list(of_kind["ratio_to_best_faiss"]) == batches
            assert list(of_kind["backends"]) == ["tiles", "exact", "faiss-flat", "faiss-panorama"]
            for by_batch in of_kind["backends"].values():
                assert list(by_batch) == batches
                assert all([len(rounds) for rounds in entry["samples"]] == [3, 3] for entry in by_batch.values())
    most = {
        name: by["600"]["queries_per_call"] for name, by in result["measured"]["article"]["indexed"]["backends"].items()
    }
    assert most["tiles"] == 600
    assert all(queries <= 600 for queries in most.values())
    assert list(result["ratio_to_best_faiss"]) == ["1", "4", "600"]
    (tmp_path / "result.png").unlink()
    assert measured("range_sum.py", tmp_path) == result, "without a snapshot the result is read, and drawn again"


def test_cost_by_size_and_by_threshold(snapshot: Path, tmp_path: Path) -> None:
    options = ("--block", "0,1", "--sizes", "500,1000", "--batch", 4, "--rounds", 2)
    result = measured("scaling.py", tmp_path, "--snapshot", snapshot, *options)
    assert result["differing_integers"] == 0
    assert list(result["measured"]) == ["0", "1"]
    for of_block in result["measured"].values():
        assert [point["substrings"] for point in of_block["by_size"]] == [500, 1000, result["substrings"]]
        assert set(of_block["exponent"]) == {"tiles", "exact"}
        neighbors = [point["neighbors_per_query"] for point in of_block["by_threshold"]]
        assert neighbors == sorted(neighbors)
        assert all(len(seconds) == 2 for point in of_block["by_size"] for seconds in point["samples"].values())


def test_speed_from_end_to_end(snapshot: Path, tmp_path: Path) -> None:
    written = tmp_path / "result.json"
    options = ["--snapshot", snapshot, "--json", written, "--batch", "1,4", "--prompts", 8]
    command = [sys.executable, BENCHMARKS / "end_to_end.py", *options]
    printed = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
    result = json.loads(written.read_text())
    assert list(result["measured"]) == ["article", "balanced"]
    for profile, speeds in result["measured"].items():
        assert profile in printed
        assert [speed["batch"] for speed in speeds["batches"]] == [1, 4]
        for speed in speeds["batches"]:
            stages = [speed[stage]["prompts_per_second"] for stage in ("model", "search")]
            assert speed["together"]["prompts_per_second"] < min(stages)


def test_speed_of_the_model_on_a_device(snapshot: Path, tmp_path: Path) -> None:
    written = tmp_path / "result.json"
    options = ["--device", "cpu", "--precisions", "float32,bfloat16", "--rows", "4", "--calls", "1,9", "--keys", 50]
    command = [sys.executable, BENCHMARKS / "gpu_model.py", "--snapshot", snapshot, "--json", written, *options]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    measured = json.loads(written.read_text())["measured"]
    assert [each["precision"] for each in measured] == ["float32", "bfloat16"]
    assert measured[0]["from_compiled"]["largest"] < 0.001 < measured[1]["from_compiled"]["largest"]
    for each in measured:
        assert (each["keys"], each["compared_windows"] > 100) == (50, True)
        assert list(each["calls"]) == ["1", "9"]
        assert all(len(times["to_host"]["samples_s"]) == 7 for times in each["calls"].values())


WITH_LITTLE_INSTALLED = """
import runpy, sys
sys.modules.update(dict.fromkeys(("faiss", "grpc", "lmdb", "matplotlib", "prometheus_client", "rich", "typer")))
import recording
recording.LIBRARIES += ("no library of this name",)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_search_on_a_gpu_is_measured_where_little_is_installed_and_the_code_has_no_history(tmp_path: Path) -> None:
    """Without time nothing is measured, but all is imported and made that a measurement takes."""
    written, corpus = tmp_path / "result.json", tmp_path / "text.txt"
    corpus.write_text(random_text(1, 300, "abc \n"))
    options = ["--device", "cpu", "--corpus", corpus, "--json", written, "--budget-seconds", "0"]
    command = [sys.executable, "-c", WITH_LITTLE_INSTALLED, BENCHMARKS / "gpu.py", *options]
    paths = ":".join([str(BENCHMARKS), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": paths, "PATH": str(tmp_path)}  # there is no git
    subprocess.run(list(map(str, command)), env=environment, check=True, capture_output=True, text=True)
    result = json.loads(written.read_text())
    assert result["blocks"] == 6
    assert result["tilings"] == {"not_measured": "no time left"}
    assert (result["revision"], result["uncommitted_changes"]) == (None, None)
    assert result["libraries"]["torch"]
    assert result["libraries"]["no library of this name"] is None


def test_self_sums_that_are_read_are_those_that_a_search_finds(snapshot: Path, tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARKS / "self_sums.py", "--snapshot", snapshot, "--json", tmp_path / "result.json"]
    subprocess.run([*map(str, command), "--queries", "1024"], check=True, capture_output=True, text=True)
    result = json.loads((tmp_path / "result.json").read_text())
    assert list(result["measured"]) == ["article", "balanced"]
    for of_profile in result["measured"].values():
        assert of_profile["batch"]["differing_integers"] == 0
        assert of_profile["whole_bytes_by_the_random_sample"] > 0
        for of_block in of_profile["blocks"]:
            assert all(of_block[order]["processor_seconds_of_a_query"] > 0 for order in ("tiles", "random"))


MEASURED_ONE_AFTER_THE_OTHER = """
import json, recording, sys
wait = "import time; time.sleep(1)"
commands = [[sys.executable, "-c", code] for code in ("held = b'x' * 500_000_000; " + wait, wait)]
held = b"x" * 500_000_000
print(json.dumps([recording.run_measured(command)["memory_peak_gb"] for command in commands]))
"""


def test_the_memory_of_a_command_is_not_that_of_one_before_or_of_who_measures() -> None:
    command = [sys.executable, "-c", MEASURED_ONE_AFTER_THE_OTHER]
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS)}
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    large, small = json.loads(printed)
    assert large > 0.5
    assert small < 0.25


def test_sisters_stay_with_the_prompts_that_they_answered(snapshot: Path, tmp_path: Path) -> None:
    """They take hours to train, so a result without any keeps those of an earlier one, and says when that was."""
    copy = Path(shutil.copytree(snapshot, tmp_path / "copy.ffn"))

    def keep(trained_on: str, sisters: list[dict[str, Any]]) -> dict[str, Any]:
        described = {"protocol": "parity", "prompts": 7, "seed": 1, "trained_on": trained_on}
        document = {**described, "sisters": sisters, "noise_floor": 0.25 if sisters else None}
        revise(copy, fidelity={"parity": document, "calibration": {"prompts": 9}})
        command = [sys.executable, BENCHMARKS / "fidelity.py", copy, "--results", tmp_path]
        subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
        kept: dict[str, Any] = json.loads((tmp_path / "fidelity-text-parity.json").read_text())
        return kept

    measured_first = keep("text", [{"seed": 11}])
    assert "sisters_measured" not in measured_first
    again = keep("text", [])
    assert (again["sisters"], again["noise_floor"]) == ([{"seed": 11}], 0.25)
    assert again["sisters_measured"] == {name: measured_first[name] for name in ("revision", "time")}
    assert keep("text", [])["sisters_measured"] == again["sisters_measured"], "not when they were kept again"
    other = keep("another text", [])
    assert (other["sisters"], other["noise_floor"]) == ([], None)
    assert keep("text", [])["sisters"] == [], "they are gone with the result that had them"

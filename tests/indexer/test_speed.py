"""How fast a snapshot answers: every call is counted, every sum compared; nothing here depends on the clock."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from measuring import STEPS

from ffnsearch_indexer.additions.faiss import add_faiss
from ffnsearch_indexer.answer import speed
from ffnsearch_indexer.answer.predictor import Predictor
from ffnsearch_indexer.answer.speed import BatchSpeed, Times, measure
from ffnsearch_indexer.errors import BackendError
from ffnsearch_indexer.index.base import RangeSums
from ffnsearch_indexer.index.tiled import TiledIndex
from ffnsearch_indexer.store.datastore import Datastore
from tiny import files_of

Run = Callable[..., tuple[int, str, str]]

PROMPTS = 20


@pytest.fixture
def predictor(predictors: dict[str, Predictor]) -> Predictor:
    return predictors["all"]


def prompts_of(predictor: Predictor, count: int = PROMPTS) -> list[np.ndarray]:
    return list(predictor.datastore.substring_tokens()[:count])


def neighbors_of(predictor: Predictor, prompts: Sequence[np.ndarray]) -> list[float]:
    """The neighbors of a prompt above the lowest threshold, block by block, on average."""
    sums = predictor.search(prompts, STEPS.thresholds_by_block).sums
    return [float(of_block.neighbors.max(axis=1).mean()) for of_block in sums]


@pytest.mark.parametrize(("batch", "calls"), [(1, 20), (7, 3), (8, 3), (20, 3)])
def test_all_prompts_are_asked_and_their_neighbors_counted(
    predictor: Predictor, batch: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "SECONDS_MAX", float("inf"))
    prompts = prompts_of(predictor)
    exact = Predictor(predictor.datastore, backend="exact")
    (found,) = measure(predictor, prompts, STEPS, [batch])
    assert (found.prompts_per_call, len(found.calls)) == (batch, calls)
    asked = [prompts[number % PROMPTS] for number in range(batch * calls)]
    assert found.neighbors_by_block == pytest.approx(neighbors_of(exact, asked))


def test_rates_and_shares_are_those_of_the_calls() -> None:
    found = BatchSpeed(4, (Times(10, 20, 10), Times(30, 60, 30), Times(10, 25, 5)), (1.0,))
    assert found.together == pytest.approx((1e-5, 1e8, 1.0))
    assert found.alone("search") == pytest.approx((25 / 4e6, 4 / 25e-9, 105 / 200))
    assert sum(found.alone(stage).share for stage in Times._fields) == pytest.approx(1)
    assert BatchSpeed(1, (Times(0, 5, 0),), ()).alone("model").share == 0


def test_a_batch_size_ends_after_its_time_but_not_before_three_calls(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "SECONDS_MAX", -1.0)
    assert [len(found.calls) for found in measure(predictor, prompts_of(predictor), STEPS, [1, 2])] == [3, 3]


def test_progress_counts_calls(predictor: Predictor) -> None:
    told = []
    list(measure(predictor, prompts_of(predictor), STEPS, [8], progress=lambda *stage: told.append(stage)))
    assert told == [("check", 0, 16), ("check", 16, 16), *(("batch 8", done, 3) for done in range(4))]


def test_a_wrong_answer_has_no_speed(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    right = TiledIndex.range_sum

    def wrong_for_many(index: TiledIndex, queries: np.ndarray, *arguments: object, **options: object) -> RangeSums:
        sums = right(index, queries, *arguments, **options)
        sums.freq[-1, 0, 0] += len(queries) == 5
        return sums

    monkeypatch.setattr(TiledIndex, "range_sum", wrong_for_many)
    speeds = measure(predictor, prompts_of(predictor), STEPS, [4, 5])
    assert next(speeds).prompts_per_call == 4
    with pytest.raises(BackendError, match="other sums than exact for 1 of 5 prompts: check") as refused:
        next(speeds)
    assert refused.value.reason == "WRONG_SUMS"


def test_bench_prints_a_line_for_each_batch_size_and_writes_nothing(run: Run, measurable: Path) -> None:
    before = files_of(measurable)
    code, out, err = run("bench", measurable / "all", "--batch", "16,1", "--prompts", 20, "--profile", "steps")
    assert (code, err) == (0, "")
    heading, blank, columns, *rows, gap, neighbors = out.splitlines()
    assert re.match(
        r"\d+ substrings of text in 2 blocks, backend tiles on cpu, profile steps, \d+ cores; .* exact$", heading
    )
    assert (blank, gap) == ("", "")
    assert columns.split()[-4:] == ["ms/prompt", "model", "search", "combine"]
    assert [re.match(r"batch (\d+)( +[\d,.]+){4}( +\d+%){3}$", row)[1] for row in rows] == ["1", "16"]
    assert re.search(r"block by block: \d+ \d+$", neighbors)
    assert files_of(measurable) == before


@pytest.mark.parametrize(("options", "batches", "asked"), [(("--prompts", 2), [1, 30], 30), ((), [1, 30], 512)])
def test_no_call_has_a_prompt_twice(
    options: tuple[object, ...],
    batches: list[int],
    asked: int,
    run: Run,
    tiny_snapshot: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(speed, "SECONDS_MAX", -1.0)
    calls: list[list[bytes]] = []
    right = Predictor.predict

    def predict(predictor: Predictor, prompts: Sequence[np.ndarray], *arguments: object) -> object:
        calls.append([prompt.tobytes() for prompt in prompts])
        return right(predictor, prompts, *arguments)

    monkeypatch.setattr(Predictor, "predict", predict)
    code, out, err = run("bench", tiny_snapshot, "--batch", ",".join(map(str, batches)), *options, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["prompts"] == asked
    assert {len(prompts) for prompts in calls} >= set(batches)
    assert all(len(set(prompts)) == len(prompts) for prompts in calls)


def test_a_batch_is_no_larger_than_the_snapshot_has_prompts(run: Run, measurable: Path) -> None:
    code, out, err = run("bench", measurable / "train", "--batch", "8,4096,65536", "--json")
    result = json.loads(out)
    assert code == 0
    assert [of_batch["batch"] for of_batch in result["batches"]] == [8, result["prompts"]]
    assert result["prompts"] < 4096
    assert f"no call has more than {result['prompts']} prompts: the snapshot has no more to ask\n" in err


@pytest.mark.parametrize("backend", ["tiles", "exact", "faiss"])
def test_bench_says_the_same_of_neighbors_with_every_backend(run: Run, measurable: Path, backend: str) -> None:
    options = ("--batch", "8", "--prompts", 24, "--profile", "steps", "--skip-verify")
    code, out, _ = run("bench", measurable / "train", *options, "--backend", backend, "--json")
    result = json.loads(out)
    assert code == 0
    assert (result["backend"], result["profile"], result["blocks"]) == (backend, "steps", 2)
    assert (result["prompts"], result["prompts_compared_with_exact"]) == (24, 16)
    (of_batch,) = result["batches"]
    assert (of_batch["batch"], of_batch["calls"], len(of_batch["samples_ns"])) == (8, 3, 3)
    assert {"together", *Times._fields} < set(of_batch)
    other = json.loads(run("bench", measurable / "train", *options, "--json")[1])
    assert of_batch["neighbors_per_prompt_by_block"] == other["batches"][0]["neighbors_per_prompt_by_block"]


def test_an_approximate_backend_is_measured_and_said_to_be_one(run: Run, tiny_copy: Path) -> None:
    add_faiss(tiny_copy, ["ivf"])
    options = ("--batch", "8", "--prompts", 24, "--backend", "faiss-ivf")
    code, out, err = run("bench", tiny_copy, *options)
    assert (code, err) == (0, "")
    assert re.search(r"cores; approximate: a query finds [\d.]+% of its neighbors, in the measured mean$", out, re.M)
    result = json.loads(run("bench", tiny_copy, *options, "--json")[1])
    assert (result["approximate"], result["prompts_compared_with_exact"]) == (True, 0)
    assert 0 < result["recall"] <= 1
    assert len(result["batches"]) == 1


def test_no_reference_is_opened_where_nothing_is_compared_with_it(
    tiny_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_faiss(tiny_copy, ["ivf"])
    with Datastore.open(tiny_copy) as datastore:
        approximate = Predictor(datastore, backend="faiss-ivf")
        monkeypatch.setattr(speed, "Predictor", None)
        (found,) = measure(approximate, prompts_of(approximate), STEPS, [8])
    assert found.prompts_per_call == 8


def test_every_refusal_is_one_line_and_status_2(run: Run, measurable: Path, tmp_path: Path) -> None:
    refusals = {
        (tmp_path,): "is no snapshot",
        (measurable / "all", "--profile", "article"): "no profile 'article'; it has even, steps",
        (measurable / "all", "--backend", "abacus"): "abacus",
        (measurable / "all", "--batch", "1,x"): "'1,x' is no list of numbers from 1 to 65,536",
        (measurable / "all", "--batch", "0"): "'0' is no list of numbers",
        (measurable / "all", "--prompts", 0): "--prompts",
    }
    for arguments, expected in refusals.items():
        code, out, err = run("bench", *arguments)
        assert (code, out) == (2, ""), arguments
        assert expected in err.replace("\n", " ")

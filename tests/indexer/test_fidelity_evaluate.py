"""A measurement is what plain loops in float64 give, whatever the protocol, and what can be worked by hand.

The loops share with the product the stored keys and the queries, which are canonical float16 values; everything after
them is computed again from strings.
"""

import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from measuring import ALPHABET, EVEN, STEPS, TEXT, WINDOW, evaluate, measure

import naive
from ffnsearch_indexer.answer.predictor import Predictor
from ffnsearch_indexer.answer.profile import one_step
from ffnsearch_indexer.build.pipeline import build
from ffnsearch_indexer.build.request import BuildRequest
from ffnsearch_indexer.corpora.corpus import Corpus
from ffnsearch_indexer.errors import FidelityError
from ffnsearch_indexer.fidelity.protocols import Protocol
from ffnsearch_indexer.models.queries import run_prompts
from ffnsearch_indexer.models.transformer import Transformer
from ffnsearch_indexer.store.datastore import Datastore
from tiny import make_model, record_training, save_model

TRAIN = TEXT[:540]


@dataclass
class Reference:
    """One protocol computed by loops over strings."""

    predictor: Predictor
    protocol: Protocol
    sister: Transformer
    corpus: naive.Corpus = field(init=False)

    def __post_init__(self) -> None:
        self.corpus = naive.Corpus(TEXT if self.protocol is Protocol.PARITY else TRAIN, WINDOW)
        self.keys = self.predictor.datastore.keys

    def answers(self, prompt: str) -> dict[tuple[str, str], dict[str, float]]:
        """Each answer to a prompt as characters and their probabilities; empty without support."""
        tokens = np.array([ALPHABET.index(character) for character in prompt], dtype=np.uint16)
        queries = run_prompts(self.predictor.datastore.packed_model, [tokens], WINDOW).vectors[:, 0]
        without = prompt if self.protocol is Protocol.LEAVE_ONE_OUT else None
        counted = [window for window in self.corpus.windows if window != without]

        def freq(block: int, threshold: float) -> Counter[str]:
            return self.corpus.sum_of(self.corpus.above(queries[block], self.keys[block], threshold, without=without))

        steps = [[freq(block, step.threshold) for step in STEPS.blocks[block]] for block in range(2)]
        even = [freq(block, EVEN.thresholds(block)[0]) for block in range(2)]
        weighted = [
            {character: step.weight * count / found.total() ** 0.5 for character, count in found.items()}
            for block in range(2)
            for step, found in zip(STEPS.blocks[block], steps[block], strict=True)
        ]
        suffixes = [
            self.corpus.sum_of([window for window in counted if window.endswith(prompt[start:])])
            for start in range(WINDOW + 1)
        ]
        return {
            ("profiles", "even"): shares([even[0], even[1], even[1]]),
            ("profiles", "steps"): shares(weighted),
            ("blocks", "0"): shares(even[:1]),
            ("blocks", "1"): shares(even[1:]),
            ("baselines", "own_next_tokens"): shares([self.corpus.sum_of([w for w in counted if w == prompt])]),
            ("baselines", "unigram"): shares([self.corpus.sum_of(counted)]),
            ("baselines", "backoff_ngram"): shares([next((found for found in suffixes if found), Counter())]),
            ("baselines", "smoothed_ngram"): witten_bell(suffixes[::-1]),
            ("sisters", "0"): distribution(self.sister, prompt),
        }

    def mass(self, prompt: str) -> int:
        """Next tokens found by the default profile."""
        tokens = np.array([ALPHABET.index(character) for character in prompt], dtype=np.uint16)
        queries = run_prompts(self.predictor.datastore.packed_model, [tokens], WINDOW).vectors[:, 0]
        without = prompt if self.protocol is Protocol.LEAVE_ONE_OUT else None
        found = (self.corpus.above(queries[k], self.keys[k], EVEN.thresholds(k)[0], without=without) for k in range(2))
        return sum(self.corpus.sum_of(windows).total() for windows in found)


def shares(sums: Sequence[dict[str, float]]) -> dict[str, float]:
    """Sums, added and normalised."""
    total: dict[str, float] = {}
    for of_one in sums:
        for character, value in of_one.items():
            total[character] = total.get(character, 0.0) + value
    mass = math.fsum(total.values())
    return {character: value / mass for character, value in total.items()} if mass else {}


def witten_bell(shortest_first: Sequence[Counter[str]]) -> dict[str, float]:
    """The counts of each ending with those of the shorter ones, as much of them as it has different tokens."""
    answer = dict.fromkeys(ALPHABET, 1 / len(ALPHABET))
    for found in shortest_first:
        if found:
            mass = found.total() + len(found)
            answer = {c: (found[c] + len(found) * answer[c]) / mass for c in ALPHABET}
    return answer


@torch.inference_mode()
def distribution(model: Transformer, prompt: str) -> dict[str, float]:
    """What a model says, its softmax in float64."""
    logits = model(torch.tensor([[ALPHABET.index(character) for character in prompt]])).logits[0, -1].tolist()
    exponentials = [math.exp(logit - max(logits)) for logit in logits]
    return {c: value / math.fsum(exponentials) for c, value in zip(ALPHABET, exponentials, strict=True)}


def distance(answer: dict[str, float], model: dict[str, float]) -> float:
    squares = ((math.sqrt(answer.get(c, 0.0)) - math.sqrt(model[c])) ** 2 for c in ALPHABET)
    return math.sqrt(math.fsum(squares) / 2) if answer else 1.0


def divergence(p: dict[str, float], q: dict[str, float]) -> float:
    if any(value and not q.get(c) for c, value in p.items()):
        return math.inf
    return math.fsum(value * math.log(value / q[c]) for c, value in p.items() if value)


def variation(answer: dict[str, float], model: dict[str, float]) -> float:
    return math.fsum(abs(answer.get(c, 0.0) - model[c]) for c in ALPHABET) / 2 if answer else 1.0


def top(shares_of: dict[str, float]) -> str:
    return max(ALPHABET, key=lambda c: (shares_of.get(c, 0.0), -ALPHABET.index(c)))


def quantile(values: list[float], level: float) -> float:
    place = level * (len(values) - 1)
    low, high = sorted(values)[math.floor(place)], sorted(values)[math.ceil(place)]
    return low + (place % 1) * (high - low)


def check(summary: dict[str, Any], answers: list[dict[str, float]], models: list[dict[str, float]]) -> None:
    """Compare one summary of the document with the loops."""

    def near(value: float) -> Any:
        return pytest.approx(value, abs=2e-6)  # a model alone and in a batch differ in the last bits of float32

    pairs = list(zip(answers, models, strict=True))
    distances = [distance(*pair) for pair in pairs]
    of_distance = summary["hellinger"]
    assert of_distance["mean"] == near(statistics.fmean(distances))
    assert of_distance["std"] == near(statistics.pstdev(distances))
    assert of_distance["max"] == near(max(distances))
    assert of_distance["below_0.2"] == near(sum(value < 0.2 for value in distances) / len(distances))
    for level, value in of_distance["quantiles"].items():
        assert value == near(quantile(distances, float(level)))
    assert sum(of_distance["histogram"]["counts"]) == len(distances)
    forward = [divergence(model, answer) for answer, model in pairs]
    finite = [value for value in forward if value < math.inf]
    backward = [divergence(answer, model) for answer, model in pairs if answer]
    assert summary["kl"]["model_to_answer"]["infinite_share"] == near(1 - len(finite) / len(forward))
    assert summary["kl"]["model_to_answer"]["mean_finite"] == (near(statistics.fmean(finite)) if finite else None)
    assert summary["kl"]["answer_to_model"]["mean"] == (near(statistics.fmean(backward)) if backward else None)
    assert summary["total_variation"]["mean"] == near(statistics.fmean(variation(*pair) for pair in pairs))
    agree = sum(bool(answer) and top(answer) == top(model) for answer, model in pairs)
    assert summary["top1_agreement"] == near(agree / len(pairs))
    assert summary["no_support"] == near(sum(not answer for answer in answers) / len(answers))


@pytest.mark.parametrize("protocol", Protocol)
def test_a_measurement_is_what_plain_loops_give(
    protocol: Protocol, predictors: dict[str, Predictor], measurable: Path
) -> None:
    evaluation = measure(predictors, protocol, sisters=[measurable / "sister"])
    document, prompts = evaluation.document, evaluation.texts
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    predictor = predictors[protocol.indexed_split]
    reference = Reference(predictor, protocol, Transformer.load(measurable / "sister"))
    models = [distribution(predictor.datastore.model, prompt) for prompt in prompts]
    answers = [reference.answers(prompt) for prompt in prompts]

    assert len(set(prompts)) == len(prompts) == document["prompts"]
    assert all((prompt in TRAIN) is (protocol is not Protocol.HELD_OUT) or protocol is Protocol.PARITY
               for prompt in prompts)  # fmt: skip
    check(document, [of["profiles", "even"] for of in answers], models)
    for name in ("even", "steps"):
        check(document["profiles"][name], [of["profiles", name] for of in answers], models)
    for block in range(2):
        check(document["blocks"][block], [of["blocks", str(block)] for of in answers], models)
    for name in ("own_next_tokens", "unigram", "backoff_ngram", "smoothed_ngram"):
        check(document["baselines"][name], [of["baselines", name] for of in answers], models)
    check(document["sisters"][0], [of["sisters", "0"] for of in answers], models)
    assert document["noise_floor"] == document["sisters"][0]["hellinger"]["mean"]

    means = [statistics.fmean(distance(of["blocks", str(k)], m) for of, m in zip(answers, models, strict=True))
             for k in range(2)]  # fmt: skip
    assert document["baselines"]["best_block"]["block"] == means.index(min(means))
    assert document["baselines"]["best_block"]["hellinger"]["mean"] == pytest.approx(min(means), abs=2e-6)
    distances = {p: distance(of["profiles", "even"], m) for p, of, m in zip(prompts, answers, models, strict=True)}
    for key, is_in in (("in_training", True), ("not_in_training", False)):
        part = [value for prompt, value in distances.items() if (prompt in TRAIN) is is_in]
        assert document[key]["count"] == len(part)
        assert document[key]["mean"] == (pytest.approx(statistics.fmean(part), abs=2e-6) if part else None)
    groups: dict[int, list[float]] = {}
    for prompt, value in distances.items():
        mass = reference.mass(prompt)
        groups.setdefault(2 ** (mass.bit_length() - 1) if mass else 0, []).append(value)
    found = {group["support_from"]: (group["count"], group["mean"]) for group in document["by_support"]}
    assert found == {
        start: (len(values), pytest.approx(statistics.fmean(values), abs=2e-6)) for start, values in groups.items()
    }
    ranked = sorted(distances.values())
    assert [one["hellinger"] for one in document["best"]] == pytest.approx(ranked[:8], abs=2e-6)
    assert [one["hellinger"] for one in document["worst"]] == pytest.approx(ranked[:-9:-1], abs=2e-6)
    assert all(distances[one["text"]] == pytest.approx(one["hellinger"], abs=2e-6) for one in document["worst"])


def test_the_loops_meet_every_case(predictors: dict[str, Predictor]) -> None:
    """The corpus of these tests has prompts with and without support, and answers with and without zeros."""
    document = measure(predictors, Protocol.LEAVE_ONE_OUT).document
    assert 0 < document["blocks"][0]["no_support"] < 1
    assert 0 < document["kl"]["model_to_answer"]["infinite_share"] < 1
    assert document["baselines"]["own_next_tokens"]["no_support"] == 1
    assert document["baselines"]["own_next_tokens"]["hellinger"]["mean"] == 1


@pytest.fixture(scope="module")
def alternating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Snapshots of `abab...`, 100 characters, and a model that finds a and b equally likely, always."""
    folder = tmp_path_factory.mktemp("alternating")
    model = make_model(vocabulary_size=2, d_model=8)
    model.head.weight.zero_()
    model.head.bias.zero_()
    save_model(folder / "model", model, "ab")
    corpus = Corpus("ab", "ab" * 50)
    record_training(folder / "model", corpus)
    for split in ("all", "train"):
        build(BuildRequest(corpus, folder / "model", folder / split, window_tokens=4, split=split))
    return folder


def test_a_measurement_worked_by_hand(alternating: Path) -> None:
    """`abab` is followed by a and `baba` by b, 48 times each, so all windows together say what the model says."""
    everything = one_step("everything", (-1, -1), (1, 1))
    with Datastore.open(alternating / "all") as datastore:
        document = evaluate(Predictor(datastore), Protocol.PARITY, [everything]).document
    assert document["profile"] == "everything"
    assert (document["prompts"], document["seed"]) == (2, 1337), "all that there are, without those to calibrate with"
    assert document["hellinger"]["mean"] == pytest.approx(0, abs=1e-12)
    assert document["kl"]["model_to_answer"] == {"mean_finite": pytest.approx(0, abs=1e-12), "infinite_share": 0}
    half = math.sqrt(1 - math.sqrt(0.5))
    for name in ("own_next_tokens", "backoff_ngram"):
        found = document["baselines"][name]
        assert found["hellinger"]["mean"] == pytest.approx(half)
        assert found["hellinger"]["ci95"] == pytest.approx([half, half])
        assert found["kl"]["answer_to_model"]["mean"] == pytest.approx(math.log(2))
        assert found["total_variation"]["mean"] == pytest.approx(0.5)
    assert document["baselines"]["unigram"]["hellinger"]["mean"] == pytest.approx(0, abs=1e-12)
    assert document["by_support"] == [{"support_from": 128, "count": 2, "mean": pytest.approx(0, abs=1e-12)}]


def test_leaving_one_out_worked_by_hand(alternating: Path) -> None:
    """Without its own row, `abab` is left with `baba` alone, which b follows; the suffix `bab` has no other."""
    everything = one_step("everything", (-1, -1), (1, 1))
    with Datastore.open(alternating / "train") as datastore:
        document = evaluate(Predictor(datastore), Protocol.LEAVE_ONE_OUT, [everything]).document
    half = pytest.approx(math.sqrt(1 - math.sqrt(0.5)))
    assert document["hellinger"]["mean"] == half
    assert document["kl"]["model_to_answer"] == {"mean_finite": None, "infinite_share": 1}
    assert document["baselines"]["unigram"]["hellinger"]["mean"] == half
    assert document["baselines"]["backoff_ngram"]["hellinger"]["mean"] == half
    assert document["baselines"]["own_next_tokens"]["no_support"] == 1
    assert document["in_training"]["count"] == 2


def test_a_text_without_new_windows_has_no_held_out_prompts(alternating: Path) -> None:
    with Datastore.open(alternating / "train") as datastore, pytest.raises(FidelityError) as caught:
        evaluate(Predictor(datastore), Protocol.HELD_OUT, [EVEN])
    assert caught.value.reason == "NO_PROMPTS"

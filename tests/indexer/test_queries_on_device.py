"""Queries stay on the device where the search is there, and the answers are the same as if they came and went."""

import numpy as np
import pytest
import torch

from ffnsearch_indexer.answer import backends
from ffnsearch_indexer.answer import predictor as predicting
from ffnsearch_indexer.answer.backends import Backend
from ffnsearch_indexer.answer.predictor import Predictor
from ffnsearch_indexer.index.base import Index
from ffnsearch_indexer.index.device import DeviceIndex
from ffnsearch_indexer.index.exact import ExactIndex
from ffnsearch_indexer.index.exact_device import ExactDeviceIndex
from ffnsearch_indexer.models.on_device import DeviceModel
from ffnsearch_indexer.models.queries import GivenQueries
from ffnsearch_indexer.store.datastore import Datastore

THRESHOLDS = ((0.3, 0.9), (0.5,))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def predictors(datastore: Datastore, monkeypatch: pytest.MonkeyPatch) -> dict[str, Predictor]:
    """One whose search is where the model is, and one whose search is not; without a GPU both are on a CPU."""

    def there(datastore: Datastore, device: str) -> list[Index]:
        return [ExactDeviceIndex(keys, datastore.counts, device=DEVICE) for keys in datastore.keys]

    def here(datastore: Datastore, device: str) -> list[Index]:
        return [ExactIndex(keys, datastore.counts) for keys in datastore.keys]

    table = {"there": Backend(there, devices=("cuda",)), "here": Backend(here, devices=("cuda",))}
    monkeypatch.setattr(backends, "BACKENDS", table)
    monkeypatch.setattr(backends, "cuda_problem", lambda: None)
    monkeypatch.setattr(
        predicting,
        "DeviceModel",
        lambda model, window_tokens, *, device, **options: DeviceModel(model, window_tokens, device=DEVICE, **options),
    )
    return {name: Predictor(datastore, backend=name, device="cuda") for name in table}


@pytest.mark.parametrize("exclude_self", [False, True])
def test_answers_are_the_same_wherever_queries_are(
    predictors: dict[str, Predictor], monkeypatch: pytest.MonkeyPatch, exclude_self: bool
) -> None:
    kinds = []
    range_sum = DeviceIndex.range_sum

    def noted(self: DeviceIndex, queries: object, *arguments: object, **options: object) -> object:
        kinds.append(type(queries))
        return range_sum(self, queries, *arguments, **options)

    monkeypatch.setattr(DeviceIndex, "range_sum", noted)
    datastore = predictors["there"].datastore
    prompts = [datastore.substring(0), datastore.substring(100), datastore.tokenizer.encode("the")]
    found, expected = (
        predictors[name].search(prompts, THRESHOLDS, exclude_self=exclude_self) for name in ("there", "here")
    )
    assert kinds == [torch.Tensor] * len(datastore.keys)
    assert isinstance(found.logits, np.ndarray)
    np.testing.assert_array_equal(found.logits, expected.logits)
    for one, other in zip(found.sums, expected.sums, strict=True):
        np.testing.assert_array_equal(one.freq, other.freq)
        np.testing.assert_array_equal(one.neighbors, other.neighbors)


def test_queries_that_are_given_go_there_too(predictors: dict[str, Predictor]) -> None:
    datastore = predictors["there"].datastore
    tokens = [datastore.substring(0), datastore.tokenizer.encode("the"), datastore.substring(9)]
    of_tokens = predictors["there"].search(tokens, THRESHOLDS)
    given = [GivenQueries(of_tokens.queries[:, row]) for row in range(3)]
    for prompts in ([given[0], tokens[1], given[2]], given):
        for name, predictor in predictors.items():
            found = predictor.search(prompts, THRESHOLDS)
            np.testing.assert_array_equal(found.queries, of_tokens.queries)
            for one, other in zip(found.sums, of_tokens.sums, strict=True):
                np.testing.assert_array_equal(one.freq, other.freq, err_msg=name)


def test_neighbors_are_the_same_wherever_queries_are(predictors: dict[str, Predictor]) -> None:
    prompt = predictors["there"].datastore.substring(7)
    found, expected = (predictors[name].neighbors(prompt, 1, 0.2) for name in ("there", "here"))
    assert len(found.ids) > 1
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.scores, expected.scores)

"""What the tests of the indexer share: snapshots of both splits of a small text, plain and with two profiles."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from graphs_on_cpu import watch_graphs
from measuring import ALPHABET, PROFILES, TEXT, WINDOW

from ffnsearch_indexer.answer.predictor import Predictor
from ffnsearch_indexer.corpora.corpus import Corpus
from ffnsearch_indexer.store.datastore import Datastore
from tiny import build_splits, revise


@pytest.fixture(scope="session")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model`, `sister`, `all` and `train`. Not to be written to: tests that alter it copy it."""
    return build_splits(tmp_path_factory.mktemp("splits"), Corpus("text", TEXT), ALPHABET, window_tokens=WINDOW)


@pytest.fixture(scope="session")
def measurable(splits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with two profiles in each snapshot, and a sister that says how it was trained."""
    folder = Path(shutil.copytree(splits, tmp_path_factory.mktemp("measurable") / "splits"))
    record = {"final_train_loss": 1.5, "final_validation_loss": 1.75, "settings": {"seed": 2}}
    (folder / "sister" / "training.json").write_text(json.dumps(record))
    for split in ("all", "train"):
        revise(folder / split, profiles={profile.name: profile.to_json() for profile in PROFILES})
    return folder


@pytest.fixture
def predictors(measurable: Path) -> Iterator[dict[str, Predictor]]:
    """A predictor on the snapshot of each split."""
    with Datastore.open(measurable / "all") as whole, Datastore.open(measurable / "train") as train:
        yield {"all": Predictor(whole), "train": Predictor(train)}


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What is recorded: on a GPU by it, elsewhere step by step."""
    return watch_graphs(monkeypatch)

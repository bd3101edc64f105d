"""What a model was trained on is known where its record tells of one text, from the first run on."""

import json
from pathlib import Path

import pytest

from ffnsearch_indexer.corpora.corpus import read_corpus
from ffnsearch_indexer.models import reference_folder
from ffnsearch_indexer.models.record import training_text

PLAYS = {"corpus": "plays", "corpus_sha256": "12"}
NOVEL = {"corpus": "novel", "corpus_sha256": "34"}


def test_the_reference_model_was_trained_on_the_corpus_that_comes_along() -> None:
    corpus = read_corpus("shakespeare")
    assert training_text(reference_folder()) == {"corpus": corpus.name, "corpus_sha256": corpus.sha256}


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (PLAYS, PLAYS),
        ({**PLAYS, "started_from": "56", "earlier": [PLAYS]}, PLAYS),
        ({**PLAYS, "started_from": "56", "earlier": [{**NOVEL, "started_from": ""}]}, None),
        ({**PLAYS, "started_from": "56", "earlier": []}, None),
        ({**PLAYS, "started_from": "56", "earlier": [{**PLAYS, "started_from": "78"}]}, None),
        ({"corpus": "plays"}, None),
        ({**PLAYS, "earlier": 5}, None),
        ([PLAYS], None),
    ],
)
def test_a_record_tells_of_one_text_or_of_none(record: object, text: object, tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text(json.dumps(record))
    assert training_text(tmp_path) == text


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b"[" * 100_000])
def test_without_a_record_that_can_be_read_it_is_not_known(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "training.json").write_bytes(content)
    assert training_text(tmp_path) is None

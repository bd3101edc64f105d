"""An open snapshot gives back the corpus it was made from, and closes without a trace."""

import gc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ffnsearch_indexer.corpora.corpus import Corpus
from ffnsearch_indexer.store.datastore import Datastore
from tiny import open_files

some = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_every_substring_is_found_by_its_tokens(datastore: Datastore, tiny_corpus: Corpus) -> None:
    text, places = tiny_corpus.text, {}
    for first in range(len(text) - 9):
        places.setdefault(text[first : first + 10], []).append(first)
    assert datastore.manifest.substrings == len(places)
    for number, (window, positions) in enumerate(places.items()):
        tokens = datastore.tokenizer.encode(window)
        record = datastore.record(number)
        assert datastore.find(tokens) == record.id == number
        assert datastore.tokenizer.decode(datastore.substring(number)) == window
        assert datastore.first_positions[number] == positions[0]
        assert record.places.tolist() == positions


def test_records_and_compressed_rows_agree(datastore: Datastore, tiny_corpus: Corpus) -> None:
    for number in range(datastore.manifest.substrings):
        record, (tokens, counts) = datastore.record(number), datastore.counts.row(number)
        np.testing.assert_array_equal(record.tokens, tokens)
        np.testing.assert_array_equal(record.counts, counts)
    assert datastore.counts.counts.sum() == len(tiny_corpus.text) - 10


def test_what_is_no_substring_is_not_found(datastore: Datastore) -> None:
    encode = datastore.tokenizer.encode
    for text in ("", "F", "First Cit", "First Citiz", "zzzzzzzzzz"):
        assert datastore.find(encode(text)) is None


def test_the_order_of_suffixes_is_that_of_the_reversed_substrings(datastore: Datastore) -> None:
    order = datastore.suffix_order
    endings = [datastore.substring(number)[::-1].tolist() for number in order.ids]
    assert endings == sorted(endings)
    assert sorted(order.ids.tolist()) == list(range(datastore.manifest.substrings))
    assert datastore.suffix_order is order


@some
@given(position=st.integers(0, 3990), around=st.integers(0, 50))
def test_a_place_comes_with_the_text_around_it(
    position: int, around: int, datastore: Datastore, tiny_corpus: Corpus
) -> None:
    text = tiny_corpus.text
    place = datastore.place(position, around)
    assert place.position == position
    assert place.before == text[max(0, position - around) : position]
    assert place.after == text[position + 10 : position + 10 + around]


def test_at_the_ends_of_the_corpus_there_is_no_text_beyond(datastore: Datastore) -> None:
    assert datastore.place(0, 5).before == ""
    assert datastore.place(3990, 5).after == ""


def test_keys_are_mapped_and_cannot_be_written(datastore: Datastore) -> None:
    for keys in datastore.keys:
        assert keys.shape == (datastore.manifest.substrings, 32)
        assert isinstance(keys, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            keys[0, 0] = 0


def test_a_snapshot_can_be_open_twice(tiny_snapshot: Path) -> None:
    first = Datastore.open(tiny_snapshot)
    with Datastore.open(tiny_snapshot, check="sizes") as second:
        assert second.record(3).id == 3
    assert first.record(3).id == 3
    first.close()
    first.close()


def test_a_closed_snapshot_leaves_no_file_open_or_mapped(tiny_copy: Path) -> None:
    with Datastore.open(tiny_copy) as datastore:
        datastore.record(0)
        assert open_files(tiny_copy) != []
    del datastore
    gc.collect()
    assert open_files(tiny_copy) == []


def test_a_snapshot_may_be_moved(tiny_snapshot: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tiny_snapshot)
    with Datastore.open(tmp_path / "link") as datastore:
        assert datastore.record(0).id == 0

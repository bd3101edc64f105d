"""Records give back, by the tokens of a substring, what the corpus says of it."""

import os
import shutil
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ffnsearch_indexer.corpora.substrings import Substrings, find_substrings, pack_windows, sort_windows
from ffnsearch_indexer.errors import DamageError
from ffnsearch_indexer.models.extraction import WINDOW_TOKENS_MAX
from ffnsearch_indexer.store.records import RecordStore, map_bytes, write_records
from tiny import open_files

LMDB_KEY_BYTES_MAX = 511

some = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path: Path, corpus: np.ndarray, window_tokens: int, vocabulary_size: int) -> Substrings:
    substrings = find_substrings(corpus, window_tokens, vocabulary_size)
    windows = substrings.tokens_of(corpus)
    path.unlink(missing_ok=True)
    write_records(path, substrings, windows, sort_windows(pack_windows(windows, vocabulary_size)))
    return substrings


def require_records_of(path: Path, corpus: np.ndarray, window_tokens: int) -> None:
    """Compare all records with dictionaries made from the corpus."""
    followers: dict[tuple[int, ...], Counter[int]] = {}
    places: dict[tuple[int, ...], list[int]] = {}
    tokens = corpus.tolist()
    for first in range(len(tokens) - window_tokens + 1):
        window = tuple(tokens[first : first + window_tokens])
        places.setdefault(window, []).append(first)
        followers.setdefault(window, Counter()).update(tokens[first + window_tokens :][:1])
    store = RecordStore(path)
    assert len(store) == len(followers)
    for number, (window, counter) in enumerate(followers.items()):
        record = store.find(np.array(window, dtype=np.uint16))
        assert record is not None
        assert record.id == number
        assert list(zip(record.tokens.tolist(), record.counts.tolist(), strict=True)) == sorted(counter.items())
        assert record.followers() == sorted(counter.items(), key=lambda item: (-item[1], item[0]))
        assert record.places.tolist() == places[window]
    store.close()


@some
@given(st.lists(st.integers(0, 3), min_size=1, max_size=120), st.integers(1, 6))
def test_a_record_is_what_the_corpus_says(tmp_path: Path, tokens: list[int], window_tokens: int) -> None:
    corpus = np.array(tokens * window_tokens, dtype=np.uint16)
    write(tmp_path / "records", corpus, window_tokens, 4)
    require_records_of(tmp_path / "records", corpus, window_tokens)


@some
@given(st.integers(1, 3000), st.integers(1, WINDOW_TOKENS_MAX), st.integers(2, 1 << 16), st.integers(0, 99))
def test_the_file_is_no_larger_than_said_before(
    tmp_path: Path, tokens: int, window_tokens: int, vocabulary_size: int, seed: int
) -> None:
    corpus = np.random.default_rng(seed).integers(0, vocabulary_size, tokens + window_tokens).astype(np.uint16)
    substrings = write(tmp_path / "records", corpus, window_tokens, vocabulary_size)
    assert (tmp_path / "records").stat().st_size <= map_bytes(substrings)


def test_token_ids_of_two_bytes_and_the_longest_window_fit(tmp_path: Path) -> None:
    assert 2 * WINDOW_TOKENS_MAX <= LMDB_KEY_BYTES_MAX < 2 * (WINDOW_TOKENS_MAX + 1)
    corpus = np.random.default_rng(1).integers(65_000, 65_536, 600).astype(np.uint16)
    write(tmp_path / "records", corpus, WINDOW_TOKENS_MAX, 65_536)
    require_records_of(tmp_path / "records", corpus, WINDOW_TOKENS_MAX)


def test_a_record_may_be_large(tmp_path: Path) -> None:
    corpus = np.zeros(100_009, dtype=np.uint16)
    corpus[-1] = 1
    substrings = write(tmp_path / "records", corpus, 9, 2)
    assert (tmp_path / "records").stat().st_size <= map_bytes(substrings)
    store = RecordStore(tmp_path / "records")
    record = store.find(np.zeros(9, dtype=np.uint16))
    assert record is not None
    np.testing.assert_array_equal(record.places, np.arange(100_000))
    assert (record.tokens.tolist(), record.counts.tolist()) == ([0, 1], [99_999, 1])
    store.close()


def test_what_the_corpus_does_not_hold_is_not_found(tmp_path: Path) -> None:
    write(tmp_path / "records", np.array([1, 2, 3, 1], dtype=np.uint16), 2, 9)
    store = RecordStore(tmp_path / "records")
    assert store.find(np.array([2, 1], dtype=np.uint16)) is None
    asked = [np.array(tokens, dtype=np.uint16) for tokens in ([3, 2], [3, 1], [3])]
    assert store.find_ids(asked) == [None, 2, None]
    store.close()


def test_readers_of_one_file_do_not_close_each_other(tmp_path: Path) -> None:
    write(tmp_path / "records", np.array([1, 2, 3], dtype=np.uint16), 2, 9)
    (tmp_path / "link").symlink_to(tmp_path / "records")
    window = np.array([1, 2], dtype=np.uint16)
    first, second = RecordStore(tmp_path / "records"), RecordStore(tmp_path / "link")
    first.close()
    first.close()
    assert second.find_ids([window]) == [0]
    second.close()
    third = RecordStore(tmp_path / "records")
    assert third.find_ids([window]) == [0]
    third.close()


def test_a_new_file_of_the_same_name_is_another_file(tmp_path: Path) -> None:
    path, window = tmp_path / "records", np.array([2, 3], dtype=np.uint16)
    write(path, np.array([1, 2, 3], dtype=np.uint16), 2, 9)
    old = RecordStore(path)
    write(path, np.array([2, 3, 1], dtype=np.uint16), 2, 9)
    new = RecordStore(path)
    assert (old.find_ids([window]), new.find_ids([window])) == ([1], [0])
    old.close()
    assert new.find_ids([window]) == [0]
    new.close()


def test_several_threads_may_read(tmp_path: Path) -> None:
    corpus = np.random.default_rng(1).integers(0, 9, 2000).astype(np.uint16)
    substrings = write(tmp_path / "records", corpus, 3, 9)
    store = RecordStore(tmp_path / "records")
    wrong = []

    def read() -> None:
        for number, window in enumerate(substrings.tokens_of(corpus)):
            if store.find_ids([window]) != [number]:
                wrong.append(number)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    store.close()


def test_no_file_descriptor_is_left(tmp_path: Path) -> None:
    corpus = np.array([1, 2, 3], dtype=np.uint16)
    write(tmp_path / "records", corpus, 2, 9)
    RecordStore(tmp_path / "records").close()
    assert open_files(tmp_path) == []
    assert os.listdir(tmp_path) == ["records"], "no lock file beside it"


def test_a_file_that_is_missing_or_none_is_damage(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no records")
    shutil.copy(__file__, tmp_path / "code")
    for name in ("text", "code", "nothing"):
        with pytest.raises(DamageError) as caught:
            RecordStore(tmp_path / name)
        assert str(tmp_path / name) in caught.value.message

"""Unique windows, their places and their successors equal those of a plain dictionary."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ffnsearch_indexer.corpora.substrings import Substrings, find_substrings, pack_windows, sort_suffixes, sort_windows
from ffnsearch_indexer.corpora.tokenizer import TINY_SHAKESPEARE, Tokenizer
from ffnsearch_indexer.errors import CorpusError

SHARED = Path(__file__).parents[3] / "shared"
needs_shared = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason=f"needs the reference data in {SHARED}")


def naive(tokens: list[int], window_tokens: int) -> dict[tuple[int, ...], tuple[list[int], Counter[int]]]:
    """Places and successors of each window, in order of first occurrence."""
    found: dict[tuple[int, ...], tuple[list[int], Counter[int]]] = {}
    for place in range(len(tokens) - window_tokens + 1):
        places, successors = found.setdefault(tuple(tokens[place : place + window_tokens]), ([], Counter()))
        places.append(place)
        successors.update(tokens[place + window_tokens : place + window_tokens + 1])
    return found


def successors_of(substrings: Substrings, substring_id: int) -> dict[int, int]:
    tokens, counts = substrings.counts.row(substring_id)
    assert (np.diff(tokens.astype(int)) > 0).all()
    return dict(zip(tokens.tolist(), counts.tolist(), strict=True))


def assert_equal_to_naive(substrings: Substrings, corpus: np.ndarray, window_tokens: int) -> None:
    expected = naive(corpus.tolist(), window_tokens)
    assert [tuple(row) for row in substrings.tokens_of(corpus).tolist()] == list(expected)
    for substring_id, (places, successors) in enumerate(expected.values()):
        first, last = substrings.place_offsets[substring_id : substring_id + 2]
        assert substrings.places[first:last].tolist() == places
        assert substrings.first_positions[substring_id] == places[0]
        assert successors_of(substrings, substring_id) == dict(successors)


@given(
    vocabulary_size=st.sampled_from([1, 2, 3, 65, 1000, 65_536]),
    used=st.integers(1, 3),
    window_tokens=st.integers(1, 12),
    extra_tokens=st.integers(0, 150),
    memory_bytes_max=st.sampled_from([1, 500, 3000, 1 << 30]),
    seed=st.integers(0, 2**32 - 1),
)
def test_windows_are_those_of_a_dictionary(
    vocabulary_size: int, used: int, window_tokens: int, extra_tokens: int, memory_bytes_max: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    alphabet = rng.integers(0, vocabulary_size, used)
    corpus = rng.choice(alphabet, window_tokens + extra_tokens).astype(np.uint16)
    substrings = find_substrings(corpus, window_tokens, vocabulary_size, memory_bytes_max=memory_bytes_max)
    assert_equal_to_naive(substrings, corpus, window_tokens)


def test_the_number_of_parts_has_a_limit() -> None:
    corpus = np.random.default_rng(0).integers(0, 2, 1200).astype(np.uint16)  # a byte each would ask for 86,000
    whole = find_substrings(corpus, 9, 2)
    in_parts = find_substrings(corpus, 9, 2, memory_bytes_max=1)
    np.testing.assert_array_equal(in_parts.first_positions, whole.first_positions)
    np.testing.assert_array_equal(in_parts.places, whole.places)


def test_the_last_window_stays_with_a_row_of_zeros() -> None:
    corpus = np.array([0, 1, 0, 1, 2], dtype=np.uint16)
    substrings = find_substrings(corpus, 2, 3)
    assert substrings.tokens_of(corpus).tolist() == [[0, 1], [1, 0], [1, 2]]
    assert [successors_of(substrings, i) for i in range(3)] == [{0: 1, 2: 1}, {1: 1}, {}]
    assert substrings.counts.offsets.tolist() == [0, 2, 3, 3]


def test_rows_of_counts_keep_their_entries_in_another_order() -> None:
    counts = find_substrings(np.array([0, 1, 0, 1, 2], dtype=np.uint16), 2, 3).counts
    reordered = counts.reordered(np.array([2, 0, 1]))
    for row, substring_id in enumerate([2, 0, 1]):
        np.testing.assert_array_equal(reordered.row(row), counts.row(substring_id))
    assert [array.dtype for array in reordered[:3]] == [array.dtype for array in counts[:3]]
    assert reordered.vocabulary_size == counts.vocabulary_size


def test_a_corpus_of_one_window() -> None:
    substrings = find_substrings(np.array([4, 2], dtype=np.uint16), 2, 5)
    assert len(substrings) == 1
    assert len(substrings.counts.tokens) == 0


def test_types_of_the_arrays() -> None:
    substrings = find_substrings(np.zeros(5, dtype=np.uint16), 2, 1)
    arrays = (substrings.first_positions, substrings.place_offsets, substrings.places, substrings.counts.offsets)
    assert {array.dtype for array in arrays} == {np.dtype(np.int64)}
    assert (substrings.counts.tokens.dtype, substrings.counts.counts.dtype) == (np.uint16, np.uint32)


@pytest.mark.parametrize("tokens", [0, 1, 9])
def test_a_corpus_shorter_than_a_window_is_refused(tokens: int) -> None:
    with pytest.raises(CorpusError, match=f"has {tokens} tokens, fewer than one window of 10") as error:
        find_substrings(np.zeros(tokens, dtype=np.uint16), 10, 65)
    assert error.value.reason == "CORPUS_TOO_SHORT"
    assert error.value.metadata == {"tokens": str(tokens), "window_tokens": "10"}


def test_progress_reaches_its_end() -> None:
    reports: list[tuple[str, int, int]] = []
    corpus = np.zeros(100, dtype=np.uint16)
    find_substrings(
        corpus, 5, 1, memory_bytes_max=3000, progress=lambda stage, done, total: reports.append((stage, done, total))
    )
    assert reports == [
        (
            "substrings",
            part + 1,
            3,
        )
        for part in range(3)
    ]


@given(
    vocabulary_size=st.sampled_from([1, 2, 65, 257, 65_536]), window_tokens=st.integers(1, 30), seed=st.integers(0, 999)
)
def test_packed_windows_sort_as_windows_do(vocabulary_size: int, window_tokens: int, seed: int) -> None:
    windows = np.random.default_rng(seed).integers(0, vocabulary_size, (40, window_tokens)).astype(np.uint16)
    windows = np.concatenate([windows, windows[:5], windows[:5] * 0, windows[:5] * 0 + (vocabulary_size - 1)])
    windows = windows.astype(np.uint16)
    rows = windows.tolist()
    expected = sorted(range(len(rows)), key=lambda row: rows[row])
    assert sort_windows(pack_windows(windows, vocabulary_size)).tolist() == expected


@given(
    alphabet=st.integers(1, 3), window_tokens=st.integers(1, 12), windows=st.integers(1, 40), seed=st.integers(0, 999)
)
def test_suffixes_sort_as_reversed_windows_do(alphabet: int, window_tokens: int, windows: int, seed: int) -> None:
    drawn = np.random.default_rng(seed).integers(0, alphabet, (windows, window_tokens)).astype(np.uint16)
    different = np.random.default_rng(seed).permutation(np.unique(drawn, axis=0))
    endings = [tuple(row[::-1]) for row in different.tolist()]
    order = sort_suffixes(different, 3)
    assert [endings[i] for i in order.ids] == sorted(endings)
    assert order.shared[0] == -1
    for one, other, shared in zip(order.ids[:-1], order.ids[1:], order.shared[1:].tolist(), strict=True):
        assert endings[one][:shared] == endings[other][:shared]
        assert endings[one][shared] != endings[other][shared]
    assert (order.ids.dtype, order.shared.dtype) == (np.int64, np.int16)


@given(ids=st.lists(st.integers(0, 29), unique=True), seed=st.integers(0, 999))
def test_a_total_is_the_sum_of_rows(ids: list[int], seed: int) -> None:
    substrings = find_substrings(np.random.default_rng(seed).integers(0, 3, 400).astype(np.uint16), 4, 3)
    known = [number for number in ids if number < len(substrings)]
    expected = Counter[int]()
    for number in known:
        expected.update(successors_of(substrings, number))
    total = substrings.counts.total(np.array(known, dtype=np.int64))
    assert total.dtype == np.int64
    assert total.tolist() == [expected[token] for token in range(3)]


@pytest.fixture(scope="module")
def reference() -> dict:
    return json.loads((SHARED / "reference" / "beyond_self_attention.json").read_text())


@pytest.fixture(scope="module")
def tiny_shakespeare() -> np.ndarray:
    text = (SHARED / "data" / "tinyshakespeare.txt").read_text(encoding="utf-8")
    return Tokenizer(TINY_SHAKESPEARE).encode(text)


@pytest.fixture(scope="module")
def tiny_substrings(tiny_shakespeare: np.ndarray) -> Substrings:
    return find_substrings(tiny_shakespeare, 10, 65)


@needs_shared
class TestTinyShakespeare:
    """The published facts of the reference corpus."""

    def test_number_of_windows(self, tiny_substrings: Substrings, reference: dict) -> None:
        assert len(tiny_substrings) == reference["windows"]["unique"] == 858_923

    def test_number_of_windows_in_the_training_split(self, tiny_shakespeare: np.ndarray, reference: dict) -> None:
        train = tiny_shakespeare[: int(0.9 * len(tiny_shakespeare))]
        found = find_substrings(train, 10, 65, memory_bytes_max=20 << 20)
        assert len(found) == reference["windows"]["unique_in_training_split"] == 780_165

    def test_the_order_gives_the_known_prompts(
        self, tiny_shakespeare: np.ndarray, tiny_substrings: Substrings, reference: dict
    ) -> None:
        order = torch.randperm(len(tiny_substrings), generator=torch.Generator().manual_seed(1337)).numpy()
        tokens, tokenizer = tiny_substrings.tokens_of(tiny_shakespeare), Tokenizer(TINY_SHAKESPEARE)
        known = reference["prompts"]["known"]
        assert {number: tokenizer.decode(tokens[order[int(number)]]) for number in known} == known

    def test_everything_equals_a_dictionary(self, tiny_shakespeare: np.ndarray, tiny_substrings: Substrings) -> None:
        text = tiny_shakespeare.astype(np.uint8).tobytes()  # bytes make the plain way quick enough
        counted = Counter(text[place : place + 11] for place in range(len(text) - 9))  # the last one has ten
        rows: dict[bytes, list[tuple[int, int]]] = {}
        for window, count in counted.items():
            rows.setdefault(window[:10], []).extend((successor, count) for successor in window[10:])
        windows = tiny_substrings.tokens_of(tiny_shakespeare).astype(np.uint8).tobytes()
        assert [windows[row : row + 10] for row in range(0, len(windows), 10)] == list(rows)
        counts = tiny_substrings.counts
        assert np.diff(counts.offsets).tolist() == [len(row) for row in rows.values()]
        expected = [pair for row in rows.values() for pair in sorted(row)]
        assert list(zip(counts.tokens.tolist(), counts.counts.tolist(), strict=True)) == expected

    def test_every_place_is_listed_once(self, tiny_shakespeare: np.ndarray, tiny_substrings: Substrings) -> None:
        assert np.array_equal(np.sort(tiny_substrings.places), np.arange(len(tiny_shakespeare) - 9))
        assert tiny_substrings.counts.counts.sum() == len(tiny_shakespeare) - 10

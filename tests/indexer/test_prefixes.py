"""The prefix tree holds every distinct prefix of the windows once, and nothing else."""

import tracemalloc
from pathlib import Path
from unittest.mock import patch

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ffnsearch_indexer.corpora.tokenizer import Tokenizer
from ffnsearch_indexer.models import prefixes
from ffnsearch_indexer.models.prefixes import PrefixTree, count_prefixes, prefix_tree, shared_prefix_tokens

shapes = st.tuples(st.integers(1, 40), st.integers(1, 7))
windows_of_few_tokens = shapes.flatmap(lambda shape: arrays(np.uint16, shape, elements=st.integers(0, 3))).map(
    lambda windows: np.unique(windows, axis=0)
)


def whole(windows: np.ndarray) -> np.ndarray:
    return np.full(len(windows), windows.shape[1])


def prefixes_of(windows: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(window[:end]) for window in windows.tolist() for end in range(1, len(window) + 1)}


def prefix_at(tree: PrefixTree, node: int) -> tuple[int, ...]:
    """The prefix that a node stands for, read upwards."""
    tokens = [int(tree.tokens[node])]
    while tree.parents[node] != node:
        node = int(tree.parents[node])
        tokens.append(int(tree.tokens[node]))
    return tuple(reversed(tokens))


@given(windows_of_few_tokens)
def test_the_nodes_are_the_distinct_prefixes(windows: np.ndarray) -> None:
    tree = prefix_tree(windows, whole(windows))
    found = [prefix_at(tree, node) for node in range(len(tree.tokens))]
    assert len(found) == len(set(found))
    assert set(found) == prefixes_of(windows)
    assert [len(prefix) - 1 for prefix in found] == tree.depths.tolist()


@given(windows_of_few_tokens)
def test_the_ends_are_the_windows_in_their_order(windows: np.ndarray) -> None:
    tree = prefix_tree(windows, whole(windows))
    assert [prefix_at(tree, end) for end in tree.ends] == [tuple(window) for window in windows.tolist()]
    assert (np.diff(tree.ends) > 0).all()


@given(windows_of_few_tokens)
def test_a_node_comes_after_its_parent(windows: np.ndarray) -> None:
    tree = prefix_tree(windows, whole(windows))
    is_root = tree.depths == 0
    nodes = np.arange(len(tree.parents))
    assert (tree.parents[is_root] == nodes[is_root]).all()
    assert (tree.parents[~is_root] < nodes[~is_root]).all()


@given(st.sets(st.lists(st.integers(0, 2), min_size=1, max_size=5).map(tuple), min_size=1, max_size=30), st.data())
def test_windows_of_different_lengths_share_their_prefixes(windows: set[tuple[int, ...]], data: st.DataObject) -> None:
    ordered = sorted(windows)
    lengths = np.array([len(window) for window in ordered])
    padded = data.draw(
        arrays(np.uint16, (len(ordered), 6), elements=st.integers(0, 2))
    )  # whatever stands behind the end
    for row, window in enumerate(ordered):
        padded[row, : len(window)] = window
    tree = prefix_tree(padded, lengths)
    assert [prefix_at(tree, end) for end in tree.ends] == ordered
    found = [prefix_at(tree, node) for node in range(len(tree.tokens))]
    assert len(found) == len(set(found))
    assert set(found) == {window[:end] for window in windows for end in range(1, len(window) + 1)}


@given(windows_of_few_tokens)
def test_the_count_is_that_of_the_tree(windows: np.ndarray) -> None:
    expected = len(prefixes_of(windows))
    for together in (1, 3, 1000):
        with patch.object(prefixes, "COUNTED_TOGETHER", together):
            assert count_prefixes(windows) == len(prefix_tree(windows, whole(windows)).tokens) == expected


def test_counting_takes_less_memory_than_the_windows() -> None:
    windows = np.stack(np.unravel_index(np.arange(1 << 17), (2,) * 17), axis=1).astype(np.uint16)
    tracemalloc.start()
    assert count_prefixes(windows) == (1 << 18) - 2
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < windows.nbytes / 2


@given(windows_of_few_tokens)
def test_shared_tokens_are_those_before_the_first_difference(windows: np.ndarray) -> None:
    def shared(left: list[int], right: list[int]) -> int:
        return next(place for place in range(len(left)) if left[place] != right[place])

    rows = windows.tolist()
    expected = [0, *(shared(rows[row - 1], rows[row]) for row in range(1, len(rows)))]
    assert shared_prefix_tokens(windows).tolist() == expected


def test_the_reference_corpus_has_the_known_number_of_prefixes(tinyshakespeare: Path) -> None:
    text = tinyshakespeare.read_text(encoding="utf-8")
    tokens = Tokenizer.of_text(text).encode(text)
    windows = np.unique(np.lib.stride_tricks.sliding_window_view(tokens, 10).astype(">u2").view("V20"))
    assert count_prefixes(windows.view(">u2").reshape(-1, 10)) == 3_154_471

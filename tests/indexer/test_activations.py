"""Keys are what the model says of each substring alone, however the work is cut."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ffnsearch_indexer.corpora.tokenizer import TINY_SHAKESPEARE, Tokenizer
from ffnsearch_indexer.errors import FfnSearchError
from ffnsearch_indexer.models import activations
from ffnsearch_indexer.models.activations import WINDOW_TOKENS_MAX, extract_keys
from ffnsearch_indexer.models.transformer import Transformer
from tiny import float16_steps, make_model, random_text

few = settings(max_examples=8, deadline=None, derandomize=True)


@cache
def model(**sizes: int) -> Transformer:
    return make_model(**sizes)


def sorted_windows(window_tokens: int, *, characters: int = 150, alphabet: str = "abc \n", seed: int = 1) -> np.ndarray:
    tokens = Tokenizer(TINY_SHAKESPEARE).encode(random_text(seed, characters, alphabet))
    return np.unique(np.lib.stride_tricks.sliding_window_view(tokens, window_tokens), axis=0)


@torch.inference_mode()
def keys_alone(model: Transformer, windows: np.ndarray) -> np.ndarray:
    """Run each window by itself: keys [K, n, D], with norms in float64."""
    outputs = [model(torch.from_numpy(window[None].astype(np.int64))).ffn for window in windows]
    vectors = np.array([[ffn[0, -1].numpy() for ffn in output] for output in outputs], dtype=np.float64)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float16).swapaxes(0, 1)


@few
@given(st.sampled_from([1, 2, 3, 10, 32]), st.sampled_from(["a", "ab", "abc \n", TINY_SHAKESPEARE]), st.integers(0, 9))
def test_a_key_is_that_of_the_substring_alone(window_tokens: int, alphabet: str, seed: int) -> None:
    windows = sorted_windows(window_tokens, characters=100, alphabet=alphabet, seed=seed)
    keys = extract_keys(model(), windows)
    assert keys.shape == (2, len(windows), 32)
    assert float16_steps(keys, keys_alone(model(), windows)) <= 1


@pytest.mark.parametrize("sizes", [{"blocks": 1}, {"blocks": 4}, {"heads": 1}, {"heads": 32}, {"d_model": 6}], ids=str)
def test_the_sizes_of_the_model_do_not_matter(sizes: dict[str, int]) -> None:
    windows = sorted_windows(10)
    assert float16_steps(extract_keys(model(**sizes), windows), keys_alone(model(**sizes), windows)) <= 1


@pytest.mark.parametrize("tile_nodes", [1, 7, 100, 1 << 20])
def test_tiles_do_not_matter(tile_nodes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = sorted_windows(10)
    expected = extract_keys(model(), windows)
    monkeypatch.setattr(activations, "TILE_NODES", tile_nodes)
    assert float16_steps(extract_keys(model(), windows), expected) <= 1


@few
@given(st.lists(st.integers(1, 140), max_size=5))
def test_shard_boundaries_do_not_matter(boundaries: list[int]) -> None:
    windows = sorted_windows(10)
    shards = [shard for shard in np.split(windows, sorted(boundaries)) if len(shard)]
    in_shards = np.concatenate([extract_keys(model(), shard) for shard in shards], axis=1)
    assert float16_steps(in_shards, extract_keys(model(), windows)) <= 1


def test_the_number_of_threads_changes_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = sorted_windows(10, characters=2000)
    monkeypatch.setattr(activations, "TILE_NODES", 64)
    results = set()
    for threads in (1, 2, 5):
        monkeypatch.setattr(activations, "_thread_count", lambda threads=threads: threads)
        results.add(extract_keys(model(), windows).tobytes())
    assert len(results) == 1


def test_one_window_of_the_greatest_length_is_run() -> None:
    longest = model(context_tokens=WINDOW_TOKENS_MAX)
    windows = sorted_windows(WINDOW_TOKENS_MAX, characters=WINDOW_TOKENS_MAX)
    assert windows.shape == (1, WINDOW_TOKENS_MAX)
    assert float16_steps(extract_keys(longest, windows), keys_alone(longest, windows)) <= 1


def test_keys_are_unit_vectors() -> None:
    norms = np.linalg.norm(extract_keys(model(), sorted_windows(10)).astype(np.float64), axis=-1)
    np.testing.assert_allclose(norms, 1, atol=2**-10)


def test_the_callers_number_of_threads_is_left_as_it_was() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        extract_keys(model(), sorted_windows(2))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_weights_that_are_not_finite_are_refused() -> None:
    broken = make_model()
    broken.blocks[0].ffn.down.bias[3] = float("nan")
    with pytest.raises(FfnSearchError) as caught:
        extract_keys(broken, sorted_windows(2))
    assert caught.value.reason == "NOT_FINITE"

"""Keys are what the model says of each substring alone, however the work is cut."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ffnsearch_indexer.corpora.tokenizer import TINY_SHAKESPEARE, Tokenizer
from ffnsearch_indexer.errors import FfnSearchError
from ffnsearch_indexer.models import inference
from ffnsearch_indexer.models.extraction import WINDOW_TOKENS_MAX, extract_keys
from ffnsearch_indexer.models.packed import PackedModel, pack_model
from ffnsearch_indexer.models.queries import run_prompts
from ffnsearch_indexer.models.transformer import Transformer
from tiny import float16_steps, make_model, random_text

few = settings(max_examples=8)


@cache
def model(**sizes: int) -> Transformer:
    return make_model(**sizes)


@cache
def packed(**sizes: int) -> PackedModel:
    return pack_model(model(**sizes))


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
    keys = extract_keys(packed(), windows)
    assert keys.shape == (2, len(windows), 32)
    assert float16_steps(keys, keys_alone(model(), windows)) <= 1


@pytest.mark.parametrize("sizes", [{"blocks": 1}, {"blocks": 4}, {"heads": 1}, {"heads": 32}, {"d_model": 6}], ids=str)
def test_the_sizes_of_the_model_do_not_matter(sizes: dict[str, int]) -> None:
    windows = sorted_windows(10)
    assert float16_steps(extract_keys(packed(**sizes), windows), keys_alone(model(**sizes), windows)) <= 1


@few
@given(st.lists(st.integers(1, 140), max_size=5))
def test_shard_boundaries_change_no_byte(boundaries: list[int]) -> None:
    windows = sorted_windows(10)
    shards = [shard for shard in np.split(windows, sorted(boundaries)) if len(shard)]
    in_shards = np.concatenate([extract_keys(packed(), shard) for shard in shards], axis=1)
    assert in_shards.tobytes() == extract_keys(packed(), windows).tobytes()


@pytest.mark.parametrize("together", [1, 3, 64, 1 << 20])
def test_neither_threads_nor_groups_change_a_byte(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = sorted_windows(10, characters=2000)
    expected = extract_keys(packed(), windows).tobytes()
    monkeypatch.setattr(inference, "WINDOWS_TOGETHER_MAX", together)
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert extract_keys(packed(), windows).tobytes() == expected


def test_a_key_is_the_query_of_the_same_tokens_to_the_bit() -> None:
    windows = sorted_windows(10)
    queries = run_prompts(packed(), list(windows[::-1]), 10).vectors
    assert extract_keys(packed(), windows)[:, ::-1].tobytes() == queries.tobytes()


def test_one_window_of_the_greatest_length_is_run() -> None:
    longest = model(context_tokens=WINDOW_TOKENS_MAX)
    windows = sorted_windows(WINDOW_TOKENS_MAX, characters=WINDOW_TOKENS_MAX)
    assert windows.shape == (1, WINDOW_TOKENS_MAX)
    assert float16_steps(extract_keys(pack_model(longest), windows), keys_alone(longest, windows)) <= 1


def test_keys_are_unit_vectors() -> None:
    norms = np.linalg.norm(extract_keys(packed(), sorted_windows(10)).astype(np.float64), axis=-1)
    np.testing.assert_allclose(norms, 1, atol=2**-10)


def test_weights_that_are_not_finite_are_refused() -> None:
    broken = make_model()
    broken.blocks[0].ffn.down.bias[3] = float("nan")
    with pytest.raises(FfnSearchError) as caught:
        extract_keys(pack_model(broken), sorted_windows(2))
    assert caught.value.reason == "NOT_FINITE"

"""A cache of prefixes saves work and changes nothing: not a bit, whatever it holds."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ffnsearch_indexer.errors import FfnSearchError
from ffnsearch_indexer.models import inference
from ffnsearch_indexer.models.packed import PackedModel, pack_model
from ffnsearch_indexer.models.prefix_cache import PREFIX_TOKENS_MAX, PrefixCache
from ffnsearch_indexer.models.prefixes import PrefixTree, prefix_tree
from ffnsearch_indexer.models.queries import run_prompts
from ffnsearch_indexer.models.transformer import Transformer, TransformerConfig

L = 6
BYTES_EACH = 8 * 2 * 24
"""What one prefix takes of a cache for the model of these tests."""

prompts_of_few_tokens = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=L), min_size=1, max_size=12)


def packed(vocabulary_size: int = 65, **sizes: int) -> PackedModel:
    torch.manual_seed(0)
    config = TransformerConfig(vocabulary_size, blocks=2, heads=2, d_model=24, context_tokens=16, **sizes)
    return pack_model(Transformer(config).eval().requires_grad_(False))


MODEL = packed()


def arrays(prompts: list[list[int]]) -> list[np.ndarray]:
    return [np.array(prompt, dtype=np.uint16) for prompt in prompts]


def windows(count: int = 200, seed: int = 0, tokens: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, tokens, (count, L)).astype(np.uint16)


def cache_of(prefixes: int, of: np.ndarray | None = None, model: PackedModel = MODEL) -> PrefixCache:
    return PrefixCache.of_common_prefixes(model, windows() if of is None else of, prefixes * BYTES_EACH)


def sorted_rows(prompts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Different prompts in order, as windows and lengths."""
    ordered = sorted(set(map(tuple, prompts)))
    padded = np.zeros((len(ordered), L), np.uint16)
    for row, prompt in enumerate(ordered):
        padded[row, : len(prompt)] = prompt
    return padded, np.array([len(prompt) for prompt in ordered])


def prefix_at(tree: PrefixTree, cache: PrefixCache, texts: dict[int, tuple[int, ...]], node: int) -> tuple[int, ...]:
    """The prefix that a node stands for, read upwards, into the cache where the way leads there."""
    tokens: list[int] = []
    while node >= 0:
        tokens.insert(0, int(tree.tokens[node]))
        if tree.parents[node] == node:
            return tuple(tokens)
        node = int(tree.parents[node])
    return texts[-1 - node] + tuple(tokens)


def texts_of(cache: PrefixCache) -> dict[int, tuple[int, ...]]:
    """Which prefix has which place, found by asking for all there are."""
    everything = np.stack(np.meshgrid(*[np.arange(3)] * L, indexing="ij"), axis=-1).reshape(-1, L).astype(np.uint16)
    found = cache.find(everything, np.full(len(everything), L))
    return {
        int(place): tuple(window[: depth + 1])
        for window, places in zip(everything.tolist(), found.rows, strict=True)
        for depth, place in enumerate(places)
        if place >= 0
    }


@given(st.lists(prompts_of_few_tokens, max_size=3), prompts_of_few_tokens, st.integers(0, 120))
def test_answers_are_the_same_to_the_bit_whatever_the_cache_holds(
    before: list[list[list[int]]], prompts: list[list[int]], prefixes: int
) -> None:
    cache = cache_of(prefixes)
    for others in before:
        run_prompts(MODEL, arrays(others), L, cache=cache)
    expected, found = run_prompts(MODEL, arrays(prompts), L), run_prompts(MODEL, arrays(prompts), L, cache=cache)
    assert found.vectors.tobytes() == expected.vectors.tobytes()
    assert found.logits.tobytes() == expected.logits.tobytes()


@given(prompts_of_few_tokens, prompts_of_few_tokens, st.integers(0, 120))
def test_the_tree_holds_what_the_cache_lacks(before: list[list[int]], prompts: list[list[int]], prefixes: int) -> None:
    cache = cache_of(prefixes)
    texts = texts_of(cache)
    cache.keep(cache.find(*sorted_rows(before)).rows.ravel())
    padded, lengths = sorted_rows(prompts)
    tree = prefix_tree(padded, lengths, cache.find(padded, lengths))
    held = {texts[place] for place in np.flatnonzero(cache._is_there)}
    nodes = [prefix_at(tree, cache, texts, node) for node in range(len(tree.tokens))]
    whole = {tuple(prompt) for prompt in prompts}
    assert [nodes[end] for end in tree.ends] == sorted(whole)
    assert len(nodes) == len(set(nodes))
    assert set(nodes) == {prompt[:end] for prompt in whole for end in range(1, len(prompt) + 1)} - (held - whole)
    places = {texts[place]: place for place in texts}
    assert [places.get(node, -1) for node in nodes] == tree.places.tolist()


def test_what_is_held_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, prompts = cache_of(1000), list(windows(50))
    sizes: list[int] = []

    def counted(*arguments: object) -> PrefixTree:
        tree = prefix_tree(*arguments)
        sizes.append(len(tree.tokens))
        return tree

    monkeypatch.setattr(inference, "prefix_tree", counted)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run_prompts(MODEL, prompts, L, cache=cache)
        run_prompts(MODEL, prompts, L, cache=cache)
    finally:
        torch.set_num_threads(threads)
    assert sizes[0] > sizes[1] == len({tuple(prompt) for prompt in prompts})  # the whole windows alone


def test_the_most_common_prefixes_have_room_and_each_has_its_parent() -> None:
    often = np.array([[1, 2, 0, 0, 0, 0]] * 9 + [[2, 1, 1, 1, 1, 1]] * 3 + [[0, 0, 0, 0, 0, 0]] * 2, np.uint16)
    cache = cache_of(7, of=often)
    assert set(texts_of(cache).values()) == {(1, 2, 0, 0, 0)[:end] for end in range(1, 6)} | {(2,), (2, 1)}
    texts = texts_of(cache)
    for place, text in texts.items():
        assert texts[-1 - int(cache.parents[place])] == (text[:-1] or text)


@pytest.mark.parametrize("prefixes", [0, 1, 5, 10_000])
def test_a_cache_takes_no_more_than_its_room(prefixes: int) -> None:
    cache = cache_of(prefixes)
    assert cache.key_values.nbytes <= prefixes * BYTES_EACH
    assert (len(cache.parents) > 0) == (prefixes > 0)


def test_windows_of_one_token_leave_nothing_to_keep() -> None:
    cache = PrefixCache.of_common_prefixes(MODEL, windows()[:, :1], 1 << 20)
    assert len(cache.parents) == 0
    run_prompts(MODEL, arrays([[1]]), 1, cache=cache)


def test_a_large_vocabulary_keeps_shorter_prefixes() -> None:
    model = packed(vocabulary_size=50_000)
    prompts = list(np.random.default_rng(1).integers(49_990, 50_000, (40, L)).astype(np.uint16))
    cache = PrefixCache.of_common_prefixes(model, np.array(prompts), 1 << 20)
    assert 0 < cache.find(np.array(prompts), np.full(40, L)).rows.shape[1] < PREFIX_TOKENS_MAX
    expected = run_prompts(model, prompts, L)
    for _ in range(2):
        assert run_prompts(model, prompts, L, cache=cache).vectors.tobytes() == expected.vectors.tobytes()


def test_a_run_that_failed_is_not_remembered() -> None:
    weights = MODEL.down_bias.copy()
    weights[0, 0] = np.inf
    cache = cache_of(1000)
    with pytest.raises(FfnSearchError, match="not finite"):
        run_prompts(MODEL._replace(down_bias=weights), list(windows(20)), L, cache=cache)
    assert not cache._is_there.any()

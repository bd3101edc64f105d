"""Prompts are the article's for its corpus, the same each time, and never those that a calibration takes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ffnsearch_indexer.corpora.corpus import Corpus, read_corpus
from ffnsearch_indexer.corpora.substrings import find_substrings
from ffnsearch_indexer.corpora.tokenizer import TINY_SHAKESPEARE, Tokenizer
from ffnsearch_indexer.fidelity.selection import (
    calibration_ids,
    evaluation_ids,
    held_out_positions,
    in_training,
)
from tiny import random_text

some = settings(max_examples=50)
sizes = st.integers(1, 400)
ALPHABET = "abc\n"


def test_the_prompts_of_the_article(tinyshakespeare: Path) -> None:
    """The published selection, its known texts, and the published number of those in the training split."""
    corpus, tokenizer = read_corpus(str(tinyshakespeare)), Tokenizer(TINY_SHAKESPEARE)
    tokens = tokenizer.encode(corpus.text)
    substrings = find_substrings(tokens, 10, 65)
    ids = evaluation_ids(len(substrings), 20_000)
    torch.manual_seed(1337)
    assert ids.tolist() == torch.randperm(858_923)[:20_000].tolist()
    prompts = substrings.tokens_of(tokens)[ids]
    known = {57: "And only l", 40: "hing tremb", 33: "med me Aut"}
    assert {number: tokenizer.decode(prompts[number]) for number in known} == known
    assert in_training(prompts, tokens[: corpus.train_tokens()], 65).sum() == 18_171


@some
@given(substrings=sizes, count=sizes, other_count=sizes, seed=st.none() | st.integers(0, 3))
def test_measuring_and_calibrating_share_no_prompt(
    substrings: int, count: int, other_count: int, seed: int | None
) -> None:
    measured, calibrated = evaluation_ids(substrings, count, seed), calibration_ids(substrings, other_count)
    ids = [*measured.tolist(), *calibrated.tolist()]
    assert len(set(ids)) == len(ids)
    assert set(ids) <= set(range(substrings))
    assert len(measured) == min(count, substrings - substrings // 3)
    assert len(calibrated) == min(other_count, substrings // 3)


def test_fewer_prompts_are_the_first_of_more() -> None:
    assert evaluation_ids(1000, 10).tolist() == evaluation_ids(1000, 100)[:10].tolist()
    assert calibration_ids(1000, 10).tolist() == calibration_ids(1000, 100)[:10].tolist()


def test_another_seed_takes_others_of_the_same_pool() -> None:
    default, other = evaluation_ids(1000, 600), evaluation_ids(1000, 600, seed=2)
    assert default.tolist() == evaluation_ids(1000, 600, seed=1337).tolist()
    assert default.tolist() != other.tolist()
    pool = set(evaluation_ids(1000, 1000).tolist())
    assert set(other.tolist()) < pool
    assert set(evaluation_ids(1000, 1000, seed=2).tolist()) == pool


@pytest.mark.parametrize(("text_seed", "window_tokens"), [(1, 1), (2, 4), (3, 5), (4, 30), (5, 80)])
def test_held_out_prompts_are_the_new_windows_behind_the_training_part(text_seed: int, window_tokens: int) -> None:
    corpus, tokenizer = Corpus("text", random_text(text_seed, 700, ALPHABET)), Tokenizer(ALPHABET)
    tokens, split = tokenizer.encode(corpus.text), corpus.train_tokens()
    train, rest = corpus.text[:split], corpus.text[split:]
    windows = {rest[first : first + window_tokens] for first in range(len(rest) - window_tokens + 1)}
    expected = {window for window in windows if window not in train}

    def texts(positions: np.ndarray) -> set[str]:
        return {corpus.text[first : first + window_tokens] for first in positions}

    found = held_out_positions(tokens, split, window_tokens, len(ALPHABET), 1000)
    assert len(found) == len(expected)
    assert texts(found) == expected
    assert all(rest.index(corpus.text[first : first + window_tokens]) == first - split for first in found.tolist())
    some_of_them = held_out_positions(tokens, split, window_tokens, len(ALPHABET), 20)
    assert np.array_equal(some_of_them, found[:20])
    others = held_out_positions(tokens, split, window_tokens, len(ALPHABET), 1000, seed=2)
    assert texts(others) == expected
    assert len(expected) < 20 or not np.array_equal(others, found)
    half = tokens[split : split + (len(tokens) - split) // 2]
    unseen = held_out_positions(tokens, split, window_tokens, len(ALPHABET), 1000, also_seen=half)
    assert texts(unseen) == {window for window in expected if window not in tokenizer.decode(half)}


@some
@given(text=st.text("ab", max_size=60), prompts=st.lists(st.text("abc", min_size=3, max_size=3), max_size=20))
def test_a_prompt_is_in_training_where_the_text_has_it(text: str, prompts: list[str]) -> None:
    tokenizer = Tokenizer("abc")
    tokens = np.array([tokenizer.encode(prompt) for prompt in prompts], dtype=np.uint16).reshape(len(prompts), 3)
    assert in_training(tokens, tokenizer.encode(text), 3).tolist() == [prompt in text for prompt in prompts]

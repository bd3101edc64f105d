"""Baselines are what counting strings gives: the prompt's own row, all rows, the longest suffix that goes on."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive
from ffnsearch_indexer.corpora.substrings import find_substrings
from ffnsearch_indexer.corpora.tokenizer import Tokenizer
from ffnsearch_indexer.fidelity.baselines import Baselines
from tiny import random_text

some = settings(max_examples=60)
WIDE = "".join(map(chr, range(0x4E00, 0x4E00 + 3000)))


def ask(
    text: str, prompts: list[str], window_tokens: int, *, exclude_self: bool = False, alphabet: str = "abc"
) -> dict[str, list[dict[str, int]]]:
    """The sums of each baseline for each prompt, as characters and their counts."""
    tokenizer = Tokenizer(alphabet)
    tokens = tokenizer.encode(text)
    substrings = find_substrings(tokens, window_tokens, len(alphabet))
    baselines = Baselines(substrings.tokens_of(tokens), substrings.counts)
    windows = naive.Corpus(text, window_tokens).windows
    own_ids = np.array([windows.index(prompt) if prompt in windows else -1 for prompt in prompts])
    encoded = np.array([tokenizer.encode(prompt) for prompt in prompts])
    freqs = baselines.freqs(encoded, own_ids, exclude_self=exclude_self)
    return {name: [_followers(row, alphabet) for row in freq] for name, freq in freqs.items()}


def _followers(row: np.ndarray, alphabet: str) -> dict[str, int]:
    assert (row >= 0).all()
    return {alphabet[token]: int(row[token]) for token in np.flatnonzero(row)}


def expected(text: str, prompt: str, *, exclude_self: bool) -> dict[str, Counter[str]]:
    """The same, by loops over strings."""
    corpus = naive.Corpus(text, len(prompt))
    counted = [window for window in corpus.windows if not (exclude_self and window == prompt)]
    by_suffix = [
        corpus.sum_of([window for window in counted if window.endswith(prompt[start:])])
        for start in range(len(prompt) + 1)
    ]
    return {
        "own_next_tokens": corpus.sum_of([window for window in counted if window == prompt]),
        "unigram": corpus.sum_of(counted),
        "backoff_ngram": next((followers for followers in by_suffix if followers), Counter()),
    }


def test_baselines_worked_by_hand() -> None:
    """In `abcabbabc`, `ab` goes on with c, b and c, `bc` and `bb` with a, `ca` and `ba` with b."""
    found = ask("abcabbabc", ["ab", "bb", "cb", "aa"], 2)
    assert found["own_next_tokens"] == [{"b": 1, "c": 2}, {"a": 1}, {}, {}]
    assert found["unigram"] == [{"a": 2, "b": 3, "c": 2}] * 4
    ends_in_b, ends_in_a = {"a": 1, "b": 1, "c": 2}, {"b": 2}
    assert found["backoff_ngram"] == [{"b": 1, "c": 2}, {"a": 1}, ends_in_b, ends_in_a]
    left_out = ask("abcabbabc", ["ab", "bb"], 2, exclude_self=True)
    assert left_out["own_next_tokens"] == [{}, {}]
    assert left_out["unigram"] == [{"a": 2, "b": 2}, {"a": 1, "b": 3, "c": 2}]
    assert left_out["backoff_ngram"] == [{"a": 1}, {"b": 1, "c": 2}], "what else ends in b"


@some
@given(
    text=st.text("abc", min_size=4, max_size=60),
    strangers=st.lists(st.text("abc", min_size=3, max_size=3), min_size=1, max_size=4),
    exclude_self=st.booleans(),
)
def test_baselines_are_those_of_plain_counting(text: str, strangers: list[str], exclude_self: bool) -> None:
    prompts = [*naive.Corpus(text, 3).windows[-8:], *strangers]
    found = ask(text, prompts, 3, exclude_self=exclude_self)
    for row, prompt in enumerate(prompts):
        assert {name: rows[row] for name, rows in found.items()} == expected(text, prompt, exclude_self=exclude_self)


@pytest.mark.parametrize("exclude_self", [False, True])
def test_windows_that_need_several_words(exclude_self: bool) -> None:
    text = random_text(1, 300, WIDE[:3]) + WIDE + random_text(2, 300, WIDE[-3:])
    prompts = [text[first : first + 14] for first in range(0, 3500, 250)] + [WIDE[7] * 14]
    found = ask(text, prompts, 14, exclude_self=exclude_self, alphabet=WIDE)
    for row, prompt in enumerate(prompts):
        assert {name: rows[row] for name, rows in found.items()} == expected(text, prompt, exclude_self=exclude_self)

"""Baselines are what counting strings gives: all rows, those of each ending of the prompt, the prompt's own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive
from ffnsearch_indexer.answer.prediction import combine
from ffnsearch_indexer.answer.profile import ProductProfile, ProductStep
from ffnsearch_indexer.corpora.substrings import find_substrings
from ffnsearch_indexer.corpora.tokenizer import Tokenizer
from ffnsearch_indexer.fidelity import baselines as module
from ffnsearch_indexer.fidelity.bands import Bands
from ffnsearch_indexer.fidelity.baselines import LABELS, baseline_answers, ngram_bands
from ffnsearch_indexer.fidelity.endings import Endings, Followers
from tiny import random_text

some = settings(max_examples=60)
WIDE = "".join(map(chr, range(0x4E00, 0x4E00 + 3000)))


def followers(
    text: str, prompts: list[str], window_tokens: int, *, exclude_self: bool = False, alphabet: str = "abc"
) -> Followers:
    """What follows each ending of each prompt."""
    endings, own_ids, encoded = encode(text, prompts, window_tokens, alphabet)
    return endings.followers(encoded, own_ids, exclude_self=exclude_self)


def encode(
    text: str, prompts: list[str], window_tokens: int, alphabet: str = "abc"
) -> tuple[Endings, np.ndarray, np.ndarray]:
    """The endings of a text, and prompts as ids and as tokens."""
    tokenizer = Tokenizer(alphabet)
    tokens = tokenizer.encode(text)
    substrings = find_substrings(tokens, window_tokens, len(alphabet))
    windows = naive.Corpus(text, window_tokens).windows
    own_ids = np.array([windows.index(prompt) if prompt in windows else -1 for prompt in prompts])
    endings = Endings(substrings.tokens_of(tokens), substrings.counts)
    return endings, own_ids, np.array([tokenizer.encode(prompt) for prompt in prompts])


def spelled(row: np.ndarray, alphabet: str = "abc") -> dict[str, int]:
    """One sum as characters and their counts."""
    assert (row >= 0).all()
    return {alphabet[token]: int(row[token]) for token in np.flatnonzero(row)}


def check(text: str, prompts: list[str], found: Followers, *, exclude_self: bool, alphabet: str = "abc") -> None:
    """Compare with loops over strings."""
    window_tokens = len(prompts[0])
    corpus = naive.Corpus(text, window_tokens)
    for prompt, of_prompt, numbers in zip(prompts, *found, strict=True):
        counted = [window for window in corpus.windows if not (exclude_self and window == prompt)]
        for length in range(window_tokens + 1):
            alike = [window for window in counted if window.endswith(prompt[window_tokens - length :])]
            assert spelled(of_prompt[length], alphabet) == corpus.sum_of(alike)
            assert numbers[length] == len(alike)


def test_followers_worked_by_hand() -> None:
    """In `abcabbabc`, `ab` goes on with c, b and c, `bc` and `bb` with a, `ca` and `ba` with b."""
    found = followers("abcabbabc", ["ab", "bb", "cb"], 2)
    everything, ends_in_b = {"a": 2, "b": 3, "c": 2}, {"a": 1, "b": 1, "c": 2}
    assert [[spelled(row) for row in rows] for rows in found.freq] == [
        [everything, ends_in_b, {"b": 1, "c": 2}],
        [everything, ends_in_b, {"a": 1}],
        [everything, ends_in_b, {}],
    ]
    assert found.substrings.tolist() == [[5, 2, 1], [5, 2, 1], [5, 2, 0]]
    left_out = followers("abcabbabc", ["ab", "bb"], 2, exclude_self=True)
    assert [[spelled(row) for row in rows] for rows in left_out.freq] == [
        [{"a": 2, "b": 2}, {"a": 1}, {}],
        [{"a": 1, "b": 3, "c": 2}, {"b": 1, "c": 2}, {}],
    ]
    assert left_out.substrings.tolist() == [[4, 1, 0], [4, 1, 0]]


@some
@given(
    text=st.text("abc", min_size=4, max_size=60),
    strangers=st.lists(st.text("abc", min_size=3, max_size=3), min_size=1, max_size=4),
    exclude_self=st.booleans(),
)
def test_followers_are_those_of_plain_counting(text: str, strangers: list[str], exclude_self: bool) -> None:
    prompts = [*naive.Corpus(text, 3).windows[-8:], *strangers]
    check(text, prompts, followers(text, prompts, 3, exclude_self=exclude_self), exclude_self=exclude_self)


@pytest.mark.parametrize("exclude_self", [False, True])
def test_windows_that_need_several_words(exclude_self: bool) -> None:
    text = random_text(1, 300, WIDE[:3]) + WIDE + random_text(2, 300, WIDE[-3:])
    prompts = [text[first : first + 14] for first in range(0, 3500, 250)] + [WIDE[7] * 14]
    found = followers(text, prompts, 14, exclude_self=exclude_self, alphabet=WIDE)
    check(text, prompts, found, exclude_self=exclude_self, alphabet=WIDE)


def test_answers_worked_by_hand() -> None:
    """A prompt whose last token was seen with two successors, and whose last two with one; and one that is new."""
    freq = np.array([[[4, 3, 1, 0], [2, 0, 0, 2], [1, 0, 0, 0]], [[4, 3, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]])
    unigram = np.full(4, 0.25)
    answers = baseline_answers(freq, freq[0, 0], unigram, None)
    assert answers.keys() == LABELS.keys() - {"fitted_ngram"}
    of_first = {name: answer[0].tolist() for name, (answer, _) in answers.items()}
    smoothed = [(4 + 3 / 4) / 11, (3 + 3 / 4) / 11, (1 + 3 / 4) / 11, (3 / 4) / 11]
    by_one = [(2 + 2 * smoothed[0]) / 6, 2 * smoothed[1] / 6, 2 * smoothed[2] / 6, (2 + 2 * smoothed[3]) / 6]
    assert of_first == {
        "own_next_tokens": [1, 0, 0, 0],
        "unigram": [0.5, 0.375, 0.125, 0],
        "backoff_ngram": [1, 0, 0, 0],
        "smoothed_ngram": pytest.approx([(1 + by_one[0]) / 2, *(value / 2 for value in by_one[1:])]),
    }
    of_new = {name: answer[1].tolist() for name, (answer, _) in answers.items()}
    assert of_new["own_next_tokens"] == [0, 0, 0, 0]
    assert of_new["backoff_ngram"] == of_new["unigram"]
    assert of_new["smoothed_ngram"] == pytest.approx(smoothed)
    assert {name: has_support.tolist() for name, (_, has_support) in answers.items()} == {
        "own_next_tokens": [True, False],
        "unigram": [True, True],
        "backoff_ngram": [True, True],
        "smoothed_ngram": [True, True],
    }


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("chunk_bytes", [1, 1 << 20])
def test_a_fitted_ngram_answers_as_it_was_fitted(
    exclude_self: bool, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the fit looks at and what a measurement looks at are the same, ending by ending, up to the longest."""
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(module, "FITTED_TOKENS", 3)
    text = random_text(4, 200, "abc")
    prompts = naive.Corpus(text, 5).windows[:20]
    endings, own_ids, encoded = encode(text, prompts, 5)
    model, unigram = np.full((20, 3), 1 / 3), np.array([0.5, 0.3, 0.2])
    searched = Bands((0.5,), np.zeros((20, 1, 1, 3), np.int32), np.zeros((20, 1, 1), np.int64), model, unigram)
    bands = ngram_bands(endings, encoded, own_ids, searched, exclude_self=exclude_self)
    assert bands.thresholds == (-0.2, 0, 0.2, 0.4)
    assert bands.model is model
    found = endings.followers(encoded, own_ids, exclude_self=exclude_self)
    assert np.array_equal(bands.freq[:, 0, 1:], found.freq[:, 1:4])
    assert np.array_equal(bands.freq[:, 0, 0], np.tile(endings.totals, (20, 1)))
    assert np.array_equal(bands.neighbors[:, 0], found.substrings[:, :4])
    steps = tuple(ProductStep(t, 1.0, prior_mass=2.0) for t in bands.thresholds)
    fitted = ProductProfile("n-gram", (steps,))
    answers, has_support = baseline_answers(found.freq, endings.totals, unigram, fitted)["fitted_ngram"]
    assert np.array_equal(answers, combine(fitted, bands.at([bands.thresholds]), unigram)[0])
    assert has_support.all()
    new = found.freq * [[[1]] + 5 * [[0]]]
    of_new, has_support = baseline_answers(new, endings.totals, unigram, fitted)["fitted_ngram"]
    assert has_support.all(), "a prompt with a new last token is answered as any other n-gram does"
    assert of_new.sum(axis=1) == pytest.approx(1)


def test_a_fitted_ngram_cannot_read_back_what_was_left_out() -> None:
    """What no token has beyond the unigram is nothing, however much that weighs."""
    text = random_text(5, 60, "abc")
    prompts = naive.Corpus(text, 4).windows
    endings, own_ids, encoded = encode(text, prompts, 4)
    unigram = (endings.totals + 1) / (endings.totals + 1).sum()
    fitted = ProductProfile("n-gram", ((ProductStep(-0.25, -500.0, prior_mass=1.0),),))

    def answers(*, exclude_self: bool) -> np.ndarray:
        found = endings.followers(encoded, own_ids, exclude_self=exclude_self)
        return baseline_answers(found.freq, endings.totals, unigram, fitted)["fitted_ngram"][0]

    assert np.array_equal(answers(exclude_self=True), answers(exclude_self=False))
    assert len(np.unique(answers(exclude_self=True), axis=0)) == 1

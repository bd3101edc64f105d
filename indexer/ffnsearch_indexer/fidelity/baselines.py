"""Answers that need no model, to compare with: own next tokens, unigram, and n-grams of three kinds.

Shapes: B prompts, n of them all, L window, V vocabulary.
"""

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.answer.prediction import Bools, Float64, combine
from ffnsearch_indexer.answer.profile import Profile
from ffnsearch_indexer.fidelity.bands import Bands
from ffnsearch_indexer.fidelity.endings import Endings
from ffnsearch_indexer.fidelity.metrics import normalised
from ffnsearch_indexer.index.base import Int64
from ffnsearch_indexer.parts import parts_of

LABELS = {
    "own_next_tokens": "own next tokens",
    "unigram": "unigram",
    "backoff_ngram": "back-off n-gram",
    "smoothed_ngram": "smoothed n-gram",
    "fitted_ngram": "fitted n-gram",
}
"""The baselines, by name in a document. The last is there where a calibration fitted it."""

FITTED_TOKENS = 12
"""Longest ending that a fitted n-gram looks at."""

CHUNK_BYTES = 1 << 28
"""Most memory for what follows the endings of some prompts at a time, in integers of twice the size that is kept."""

Answer = tuple[Float64, Bools]
"""Distributions [B, V], and whether each has support [B]."""


def baseline_answers(freq: Int64, totals: Int64, unigram: Float64, fitted: Profile | None) -> dict[str, Answer]:
    """The answers by name. Where the text has any support, only a prompt's own next tokens may lack it.

    freq: [B, L+1, V], what follows the last l tokens of each prompt. totals: [V], what follows all substrings. unigram:
    [V], the distribution of that, which the fitted one starts from. fitted: the n-gram fitted to `ngram_bands`, None
    where there is none.
    """
    answers = {
        "own_next_tokens": normalised(freq[:, -1]),
        "unigram": normalised(freq[:, 0]),
        "backoff_ngram": normalised(_longest(freq)),
        "smoothed_ngram": _witten_bell(freq),
    }
    if fitted is not None:
        lengths = [round(threshold * (freq.shape[1] - 1)) + 1 for threshold in fitted.thresholds(0)]
        answers["fitted_ngram"] = combine(fitted, [_beside_unigram(freq, totals)[:, lengths]], unigram)
    return answers


def ngram_bands(
    endings: Endings, prompts: NDArray[np.uint16], own_ids: Int64, of_search: Bands, *, exclude_self: bool
) -> Bands:
    """The endings of the prompts [n, L] of a search as a block of their own, for the fit of a profile.

    The similarity of a prompt and a substring is the share of the window, counted from its end, in which they agree:
    step l, above (l - 1) / L, holds what shares at least l tokens, from l = 0 on. So an n-gram is fitted in the same
    way as a search, to the same answers of the model. The step of no token holds the whole text, whatever is excluded.
    """
    window_tokens = prompts.shape[1]
    steps = min(window_tokens, FITTED_TOKENS) + 1
    chunk_prompts = max(1, CHUNK_BYTES // (8 * steps * of_search.model.shape[1]))
    freq = np.empty((len(prompts), 1, steps, of_search.model.shape[1]), dtype=np.int32)
    neighbors = np.empty((len(prompts), 1, steps), dtype=np.int64)
    for part in parts_of(len(prompts), chunk_prompts):
        found = endings.followers(prompts[part], own_ids[part], exclude_self=exclude_self, longest=steps - 1)
        freq[part, 0], neighbors[part, 0] = _beside_unigram(found.freq, endings.totals), found.substrings
    thresholds = tuple((length - 1) / window_tokens for length in range(steps))
    return Bands(thresholds, freq, neighbors, of_search.model, of_search.unigram)


def _beside_unigram(freq: Int64, totals: Int64) -> Int64:
    """The sums [B, L+1, V]; those after no token include a prompt's own row, as `unigram` does.

    A fit weighs what each step says beyond the wider one, the first beyond the unigram. Without the own row that would
    be this row alone, and a negative weight would make it the answer.
    """
    beside = freq.copy()
    beside[:, 0] = totals
    return beside


def _longest(freq: Int64) -> Int64:
    """The sums [B, V] of the longest ending, L tokens down to none, after which something follows."""
    # Masses fall with the length: the number of lengths that have some is the longest of them, and one.
    longest = np.maximum((freq.any(axis=2)).sum(axis=1) - 1, 0)
    chosen: Int64 = freq[np.arange(len(freq)), longest]
    return chosen


def _witten_bell(freq: Int64) -> Answer:
    """Every ending's distribution smoothed by the next shorter one, the shortest by an even one.

    The shorter one counts as much as there are different tokens after the ending (Witten and Bell 1991, as given by
    Chen and Goodman 1999): `p_l = (freq_l + types_l * p_(l-1)) / (mass_l + types_l)`.
    """
    answers = np.full(freq.shape[::2], 1 / freq.shape[2])
    for of_length in np.moveaxis(freq, 1, 0):
        mass, types = of_length.sum(axis=1, keepdims=True), (of_length > 0).sum(axis=1, keepdims=True)
        answers = np.where(mass > 0, (of_length + types * answers) / np.maximum(mass + types, 1), answers)
    return answers, np.ones(len(freq), dtype=np.bool_)

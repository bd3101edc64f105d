"""The whole product once more, as plainly as it can be said, to compare answers with.

It shares nothing with the product but a function that runs the model. Strings and dictionaries instead of arrays of
ids, one forward pass a substring, one loop a score.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from operator import mul

import numpy as np

Forward = Callable[[str], Sequence[np.ndarray]]
"""FFN outputs of each block at the last position, [D] float32 each, when the model reads a text alone."""

Vectors = list[np.ndarray]
"""One [D] float16 a block."""


class Corpus:
    """The windows of a text in order of first occurrence, and what follows each."""

    def __init__(self, text: str, window_tokens: int) -> None:
        self.window_tokens = window_tokens
        self.followers: dict[str, Counter[str]] = {}
        self.places: dict[str, list[int]] = {}
        for first in range(len(text) - window_tokens + 1):
            window = text[first : first + window_tokens]
            self.followers.setdefault(window, Counter()).update(text[first + window_tokens :][:1])
            self.places.setdefault(window, []).append(first)
        self.windows = list(self.followers)

    def above(
        self, query: np.ndarray, keys: Sequence[np.ndarray], threshold: float, *, without: str | None = None
    ) -> dict[str, float]:
        """The windows whose score is above the threshold, and their scores. keys: one [D] a window."""
        scores = {window: score(query, key) for window, key in zip(self.windows, keys, strict=True)}
        return {window: value for window, value in scores.items() if value > threshold and window != without}

    def sum_of(self, windows: Sequence[str] | dict[str, float]) -> Counter[str]:
        """What follows these windows, together."""
        total: Counter[str] = Counter()
        for window in windows:
            total.update(self.followers[window])
        return total


def vectors(forward: Forward, text: str) -> Vectors:
    """The unit FFN output of each block, with the norm in float64, rounded to float16."""
    wide = [output.astype(np.float64) for output in forward(text)]
    return [(output / math.sqrt(math.fsum(output * output))).astype(np.float16) for output in wide]


def score(query: np.ndarray, key: np.ndarray) -> float:
    """The inner product, with one rounding at the end."""
    return math.fsum(map(mul, query.tolist(), key.tolist()))


def answer(sums: Sequence[Counter[str]], weights: Sequence[float]) -> dict[str, float]:
    """Add the sums of the blocks with their weights, and normalise once; empty where nothing was found."""
    total: dict[str, float] = {}
    for counter, weight in zip(sums, weights, strict=True):
        for character, count in counter.items():
            total[character] = total.get(character, 0.0) + weight * count
    mass = sum(total.values())
    return {character: value / mass for character, value in total.items()} if mass > 0 else {}

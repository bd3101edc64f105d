"""What distance to expect of a profile's answer, by how much was found: from prompts that judged it."""

import math

import numpy as np

from ffnsearch_indexer.answer.prediction import Float64
from ffnsearch_indexer.answer.profile import Expectation

CLASSES_MAX, CLASS_PROMPTS = 10, 30
"""Most classes of support, and the least prompts in one."""

LOW_CLASS_PROMPTS = 10
"""Least prompts in a part of the lowest class, where the distance changes most; fewer where supports equal."""


def expectation(supports: Float64, distances: Float64) -> Expectation:
    """The mean distance by support, in classes of equally many of those prompts [n] that found anything.

    The lowest class is halved as long as each part has LOW_CLASS_PROMPTS. Of less support than any of them found
    nothing is known.
    """
    answered = supports > 0
    if not answered.any():
        return Expectation((0.0,), (1.0,))
    found, of_found = supports[answered], distances[answered]
    classes = max(1, min(CLASSES_MAX, len(found) // CLASS_PROMPTS))
    halvings = max(0, math.floor(math.log2(len(found) / classes / LOW_CLASS_PROMPTS)))
    shares = [*(0.5**halving / classes for halving in range(halvings, 0, -1)), *(np.arange(1, classes) / classes)]
    quantiles = np.sort(found)[(np.array(shares) * len(found)).astype(int)]  # of some prompt each: no class is empty
    edges = np.unique([found.min(), *quantiles])
    of_class = np.searchsorted(edges, found, side="right") - 1
    return Expectation(
        tuple(edges.tolist()), tuple(float(of_found[of_class == number].mean()) for number in range(len(edges)))
    )

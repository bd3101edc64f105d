"""What distance to expect of a profile's answer by how much was found; learned from the prompts that judged it."""

import math

import numpy as np

from ffnsearch_indexer.answer.prediction import Float64
from ffnsearch_indexer.answer.profile import Expectation

GROUPS_MAX, GROUP_PROMPTS = 10, 30
"""Most groups of prompts by support, and the fewest prompts in one."""

LOW_GROUP_PROMPTS = 10
"""Fewest prompts in a part of the lowest group, where the distance changes most; fewer where supports are equal."""


def expectation(supports: Float64, distances: Float64) -> Expectation:
    """The mean distance by support, in groups of equally many of those prompts [n] that found anything.

    The lowest group is halved as long as each part has LOW_GROUP_PROMPTS. Nothing is known of less support than the
    least that a prompt found.
    """
    answered = supports > 0
    if not answered.any():
        return Expectation((0.0,), (1.0,))
    found, of_found = supports[answered], distances[answered]
    groups = max(1, min(GROUPS_MAX, len(found) // GROUP_PROMPTS))
    halvings = max(0, math.floor(math.log2(len(found) / groups / LOW_GROUP_PROMPTS)))
    shares = [*(0.5**halving / groups for halving in range(halvings, 0, -1)), *(np.arange(1, groups) / groups)]
    quantiles = np.sort(found)[(np.array(shares) * len(found)).astype(int)]  # of some prompt each: no group is empty
    edges = np.unique([found.min(), *quantiles])
    of_group = np.searchsorted(edges, found, side="right") - 1
    return Expectation(
        tuple(edges.tolist()), tuple(float(of_found[of_group == number].mean()) for number in range(len(edges)))
    )

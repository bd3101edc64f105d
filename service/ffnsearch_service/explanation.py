"""What stands behind one answer: how much was found, how far off to expect it, and what each block contributes.

Shapes: K block, S steps of a block, V vocabulary.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.answer import prediction
from ffnsearch_indexer.answer.predictor import Prediction
from ffnsearch_indexer.answer.profile import ProductProfile, Profile


class Contributions(NamedTuple):
    """What makes up the probability of each token. blocks: [K, V]. prior: [V], None for a sum."""

    blocks: NDArray[np.float64]
    prior: NDArray[np.float64] | None


def support_of(answer: Prediction) -> float:
    """How much was found for a prompt, at least 0."""
    return float(prediction.support(_freqs(answer))[0])


def expected_hellinger(profile: Profile, support: float) -> float | None:
    """The mean distance of the profile's calibration prompts with similar support, None without a calibration."""
    return None if profile.expectation is None else profile.expectation.at(support)


def contributions_of(profile: Profile, answer: Prediction, unigram: NDArray[np.float64]) -> Contributions:
    """What the blocks, and a product's prior, contribute to an answer that has a distribution.

    Of a sum: shares that add up to the probability. Of a product: nats, less their mean over the answer, which add up
    to the log probability plus the answer's entropy; those of the prior are what the blocks leave of it.
    """
    assert answer.distribution is not None, "without support there is nothing to explain"
    blocks = prediction.contributions(profile, _freqs(answer), unigram)[0]
    if not isinstance(profile, ProductProfile):
        return Contributions(blocks, None)
    logs = np.log(np.maximum(answer.distribution, np.finfo(np.float64).tiny))
    entropy = -(answer.distribution * logs).sum()
    return Contributions(blocks, logs + entropy - blocks.sum(axis=0))


def _freqs(answer: Prediction) -> list[NDArray[np.int64]]:
    """The sums of each block as those of a batch of one, [1, S, V]."""
    return [block.freq[None] for block in answer.blocks]

"""What stands behind one answer: how far off to expect it, and what each block contributes.

Shapes: K block, S steps of a block, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.answer import prediction
from ffnsearch_indexer.answer.profile import ProductProfile, Profile


class Contributions(NamedTuple):
    """What makes up the probability of each token. blocks: [K, V]. prior: [V], None for a sum."""

    blocks: NDArray[np.float64]
    prior: NDArray[np.float64] | None


def expected_hellinger(profile: Profile, support: float) -> float | None:
    """The mean distance of the profile's calibration prompts with similar support, None where there was none."""
    return None if profile.expectation is None else profile.expectation.at(support)


def contributions_of(
    profile: Profile,
    freqs: Sequence[NDArray[np.int64]],
    distribution: NDArray[np.float64],
    unigram: NDArray[np.float64],
) -> Contributions:
    """What the blocks, and a product's prior, contribute to an answer that has support.

    freqs: the sums of each block, [S, V]. distribution, unigram: [V].

    Of a sum: shares that add up to the probability. Of a product: nats, less their mean over the answer, which add up
    to the log probability plus the answer's entropy; the prior has what the blocks leave of it.
    """
    blocks = prediction.contributions(profile, [freq[None] for freq in freqs], unigram)[0]
    if not isinstance(profile, ProductProfile):
        return Contributions(blocks, None)
    logs = np.log(np.maximum(distribution, np.finfo(np.float64).tiny))
    entropy = -(distribution * logs).sum()
    return Contributions(blocks, logs + entropy - blocks.sum(axis=0))

"""The arithmetic of an answer, in pure numpy: sums become a distribution, distributions a distance.

Shapes: B prompts, S steps of a block, V vocabulary.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.answer.profile import Profile

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


def combine(profile: Profile, freqs: Sequence[Int64]) -> tuple[Float64, NDArray[np.bool_]]:
    """Combine the sums of K blocks, each [B, S, V], into distributions [B, V] and whether each has support [B].

    The row of a prompt without support (no neighbor with a successor in any weighted block) is all zeros.
    """
    weight_max = max(step.weight for steps in profile.blocks for step in steps)  # large weights must not overflow
    total = np.zeros(freqs[0].shape[::2])
    for steps, freq in zip(profile.blocks, freqs, strict=True):
        for number, step in enumerate(steps):
            counts = freq[:, number].astype(np.float64)
            mass = counts.sum(axis=1, keepdims=True)
            total += step.weight / weight_max * counts / np.where(mass > 0, mass, 1) ** profile.mass_power
    mass = total.sum(axis=1, keepdims=True)
    has_support = mass[:, 0] > 0
    return total / np.where(mass > 0, mass, 1), has_support


def hellinger(p: Float64, q: Float64) -> Float64:
    """The Hellinger distance between distributions along the last axis, in [0, 1].

    `sqrt(1 - sum sqrt(p q))`, computed as `|sqrt(p) - sqrt(q)| / sqrt(2)`, which does not cancel for near ones.
    """
    return np.linalg.norm(np.sqrt(p) - np.sqrt(q), axis=-1) / np.sqrt(2)


def softmax(logits: NDArray[np.float32]) -> Float64:
    """The distribution of logits along the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)

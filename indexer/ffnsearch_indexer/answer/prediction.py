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
    terms = [
        (step.weight, freq[:, number])
        for steps, freq in zip(profile.blocks, freqs, strict=True)
        for number, step in enumerate(steps)
    ]
    # Weights are relative to the largest that found something for the prompt: none overflows, not all vanish.
    largest = np.max([weight * freq.any(axis=1) for weight, freq in terms], axis=0)
    has_support = largest > 0
    scale = np.where(has_support, largest, 1)[:, None]
    total = np.zeros(freqs[0].shape[::2])
    for weight, freq in terms:
        mass = freq.sum(axis=1, keepdims=True)
        total += np.minimum(weight, scale) / scale * freq / np.maximum(mass, 1) ** profile.mass_power
    return total / np.where(has_support, total.sum(axis=1), 1)[:, None], has_support


def hellinger(p: Float64, q: Float64) -> Float64:
    """The Hellinger distance between distributions along the last axis, in [0, 1].

    `sqrt(1 - sum sqrt(p q))`, computed as `|sqrt(p) - sqrt(q)| / sqrt(2)`, which does not cancel for near ones.
    """
    distance: Float64 = np.linalg.norm(np.sqrt(p) - np.sqrt(q), axis=-1) / np.sqrt(2)
    return np.minimum(distance, 1.0)  # rounding may leave disjoint ones a bit above


def softmax(logits: NDArray[np.float32]) -> Float64:
    """The distribution of logits along the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    distribution: Float64 = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return distribution

"""The arithmetic of an answer, in pure numpy: sums become a distribution, distributions a distance.

Shapes: B prompts, K block, S steps of a block, V vocabulary.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.answer.profile import ProductProfile, Profile, Step, SumProfile

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

PROBABILITY_MIN = 1e-9
"""Least probability in a step of a product: however sure one step is, the others can speak against it."""


def combine(profile: Profile, freqs: Sequence[Int64], unigram: Float64) -> tuple[Float64, NDArray[np.bool_]]:
    """Combine the sums of K blocks, each [B, S, V], into distributions [B, V] and whether each has support [B].

    unigram: [V], none of it 0; what a product starts from. The row of a prompt without support (no neighbor with a
    successor in any weighted block) is all zeros.
    """
    if isinstance(profile, ProductProfile):
        has_support = np.any([freq.any(axis=(1, 2)) for freq in freqs], axis=0)
        logits = sum(_evidence_by_block(profile, freqs, unigram), _log_prior(profile, unigram))
        return softmax(logits) * has_support[:, None], has_support
    total = sum(_totals_by_block(profile, freqs), np.zeros(freqs[0].shape[::2]))
    mass = total.sum(axis=1, keepdims=True)
    return total / np.where(mass > 0, mass, 1), mass[:, 0] > 0


def contributions(profile: Profile, freqs: Sequence[Int64], unigram: Float64) -> Float64:
    """What each block says for and against each token, [B, K, V]; zeros for a prompt without support.

    Of a sum: the block's share of the token's probability; the shares of all blocks add up to the probability. Of a
    product: nats for the token (against it below 0), less their mean over the answer; those of the prior and of all
    blocks add up to the log probability plus the answer's entropy.
    """
    answer, has_support = combine(profile, freqs, unigram)
    if isinstance(profile, ProductProfile):
        evidence = np.stack(list(_evidence_by_block(profile, freqs, unigram)), axis=1)
        from_mean: Float64 = evidence - (evidence * answer[:, None]).sum(axis=2, keepdims=True)
        return from_mean * has_support[:, None, None]
    totals = np.stack(list(_totals_by_block(profile, freqs)), axis=1)
    shares: Float64 = totals / np.where(has_support, totals.sum(axis=(1, 2)), 1)[:, None, None]
    return shares


def support(freqs: Sequence[Int64]) -> Float64:
    """How much was found for each prompt [B]: the mean of log(1 + mass) over all steps of all blocks, at least 0."""
    logs: Float64 = np.log1p(np.concatenate([freq.sum(axis=2) for freq in freqs], axis=1))
    mean: Float64 = logs.mean(axis=1)
    return mean


def hellinger(p: Float64, q: Float64) -> Float64:
    """The Hellinger distance between distributions along the last axis, in [0, 1].

    `sqrt(1 - sum sqrt(p q))`, computed as `|sqrt(p) - sqrt(q)| / sqrt(2)`, which does not cancel for near ones.
    """
    distance: Float64 = np.linalg.norm(np.sqrt(p) - np.sqrt(q), axis=-1) / np.sqrt(2)
    return np.minimum(distance, 1.0)  # rounding may leave disjoint ones a bit above


def softmax(logits: NDArray[np.floating]) -> Float64:
    """The distribution of logits along the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    distribution: Float64 = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return distribution


def _totals_by_block(profile: Profile, freqs: Sequence[Int64]) -> Iterator[Float64]:
    """The weighted sums [B, V] of each block of a sum, relative to the largest weight that found something."""
    assert isinstance(profile, SumProfile), "a profile is a sum or a product"
    support = _Support(freqs)
    # Relative to the largest weight that found something for the prompt, none overflows and not all vanish.
    log_weights = [
        np.stack([support.log_weight(step, block, number) for number, step in enumerate(steps)], axis=1)
        if steps
        else np.zeros((len(freqs[0]), 0))
        for block, steps in enumerate(profile.blocks)
    ]
    largest = np.max([weights.max(axis=1, initial=-np.inf) for weights in log_weights], axis=0)
    largest = np.where(np.isfinite(largest), largest, 0)[:, None]
    for weights, freq, logs in zip(log_weights, freqs, support.log_masses, strict=True):
        relative = np.exp(weights - largest - profile.mass_power * logs)
        yield np.einsum("bs,bsv->bv", relative, freq)


def _evidence_by_block(profile: ProductProfile, freqs: Sequence[Int64], unigram: Float64) -> Iterator[Float64]:
    """The log evidence [B, V] of each block of a product."""
    support = _Support(freqs)
    for block, (steps, freq) in enumerate(zip(profile.blocks, freqs, strict=True)):
        evidence = np.zeros(freq.shape[::2])
        wider = np.broadcast_to(np.maximum(unigram, PROBABILITY_MIN), evidence.shape)
        for number, step in enumerate(steps):
            mass = freq[:, number].sum(axis=1, keepdims=True)
            smoothed = (freq[:, number] + step.prior_mass * wider) / (mass + step.prior_mass)
            narrower = np.maximum(smoothed, PROBABILITY_MIN)
            weight = step.weight + support.exponent(step, block, number)
            evidence += weight[:, None] * np.log(narrower / wider)
            wider = narrower
        yield evidence


class _Support:
    """How much was found for B prompts. log_masses: for each block [B, S], the log of each step's mass, at least 1."""

    def __init__(self, freqs: Sequence[Int64]) -> None:
        masses = [freq.sum(axis=2) for freq in freqs]
        self._is_found = [mass > 0 for mass in masses]
        self.log_masses = [np.log(np.maximum(mass, 1)) for mass in masses]
        self._log_support = [np.log1p(mass) for mass in masses]
        none = np.zeros(len(freqs[0]))
        self._of_block = [logs[:, logs.shape[1] // 2] if logs.shape[1] else none for logs in self._log_support]

    def exponent(self, step: Step, block: int, number: int) -> Float64:
        """What the support adds to the weight of a step of a product, [B]."""
        exponent: Float64 = step.support_weight * self._log_support[block][:, number]
        for weight, support_of in zip(step.block_support_weights, self._of_block, strict=False):
            exponent = exponent + weight * support_of
        return exponent

    def log_weight(self, step: Step, block: int, number: int) -> Float64:
        """The log weight [B] of a step of a sum; minus infinity where it found nothing."""
        log_weight = np.log(step.weight) if step.weight > 0 else -np.inf
        weights = log_weight + self.exponent(step, block, number)
        return np.where(self._is_found[block][:, number], weights, -np.inf)


def _log_prior(profile: ProductProfile, unigram: Float64) -> Float64:
    """The logarithm [V] of what a product starts from, up to a constant."""
    prior: Float64 = profile.prior_weight * np.log(np.maximum(unigram, PROBABILITY_MIN))
    return prior + np.array(profile.token_bias) if profile.token_bias else prior

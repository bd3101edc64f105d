"""The arithmetic of an answer, in pure numpy: sums become a distribution, distributions a distance.

Shapes: B prompts, K block, S steps of a block, V vocabulary.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.answer.profile import ProductProfile, Profile, Step, SumProfile

Float64 = NDArray[np.float64]
Bools = NDArray[np.bool_]

Counts = NDArray[np.signedinteger[Any]]
"""Sums of counts, in any integers that hold them."""

PROBABILITY_MIN = 1e-9
"""Least probability in a step of a product: however sure one step is, the others can speak against it."""


def combine(profile: Profile, freqs: Sequence[Counts], unigram: Float64) -> tuple[Float64, Bools]:
    """Combine the sums of K blocks, each [B, S, V], into distributions [B, V] and whether each has support [B].

    unigram: [V], none of it 0; what a product starts from. The row of a prompt without support (no neighbor with a
    successor in any weighted block) is all zeros.
    """
    if isinstance(profile, ProductProfile):
        return _pool(profile, _evidence_by_block(profile, freqs, unigram), freqs, unigram)
    total = sum(_totals_by_block(profile, freqs), np.zeros(freqs[0].shape[::2]))
    mass = total.sum(axis=1, keepdims=True)
    return total / np.where(mass > 0, mass, 1), mass[:, 0] > 0


def contributions(profile: Profile, freqs: Sequence[Counts], unigram: Float64) -> Float64:
    """What each block says for and against each token, [B, K, V]; zeros for a prompt without support.

    Of a sum: the block's share of the token's probability; the shares of all blocks add up to the probability. Of a
    product: nats for the token (against it below 0), less their mean over the answer; those of the prior and of all
    blocks add up to the log probability plus the answer's entropy.
    """
    if isinstance(profile, ProductProfile):
        by_block = list(_evidence_by_block(profile, freqs, unigram))
        answer, has_support = _pool(profile, by_block, freqs, unigram)
        evidence = np.stack(by_block, axis=1)
        from_mean: Float64 = evidence - (evidence * answer[:, None]).sum(axis=2, keepdims=True)
        return from_mean * has_support[:, None, None]
    totals = np.stack(list(_totals_by_block(profile, freqs)), axis=1)
    mass = totals.sum(axis=(1, 2), keepdims=True)
    shares: Float64 = totals / np.where(mass > 0, mass, 1)
    return shares


def weights(profile: Profile, freqs: Sequence[Counts]) -> list[Float64]:
    """The weight of each step for each prompt, as `Step` says: for each block [B, S], from its sums [B, S, V]."""
    if isinstance(profile, ProductProfile):
        return [
            exponents + np.array([step.weight for step in steps])
            for steps, exponents in zip(profile.blocks, _exponents(profile, freqs), strict=True)
        ]
    return [np.exp(log_weights) for log_weights in _log_weights(profile, freqs)]


def support(freqs: Sequence[Counts]) -> Float64:
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


def _totals_by_block(profile: Profile, freqs: Sequence[Counts]) -> Iterator[Float64]:
    """The weighted sums [B, V] of each block of a sum, relative to the largest weight that found something."""
    assert isinstance(profile, SumProfile), "a profile is a sum or a product"
    masses = [freq.sum(axis=2) for freq in freqs]
    log_weights = [
        np.where(mass > 0, logs, -np.inf) for mass, logs in zip(masses, _log_weights(profile, freqs), strict=True)
    ]
    # Relative to the largest weight that found something for the prompt, none overflows and not all vanish.
    largest = np.max([logs.max(axis=1, initial=-np.inf) for logs in log_weights], axis=0)
    largest = np.where(np.isfinite(largest), largest, 0)[:, None]
    for logs, freq, mass in zip(log_weights, freqs, masses, strict=True):
        relative = np.exp(logs - largest - profile.mass_power * np.log(np.maximum(mass, 1)))
        yield np.einsum("bs,bsv->bv", relative, freq)


def _evidence_by_block(profile: ProductProfile, freqs: Sequence[Counts], unigram: Float64) -> Iterator[Float64]:
    """The log evidence [B, V] of each block of a product."""
    for steps, freq, of_block in zip(profile.blocks, freqs, weights(profile, freqs), strict=True):
        evidence = np.zeros(freq.shape[::2])
        wider = np.broadcast_to(np.maximum(unigram, PROBABILITY_MIN), evidence.shape)
        for number, step in enumerate(steps):
            mass = freq[:, number].sum(axis=1, keepdims=True)
            smoothed = (freq[:, number] + step.prior_mass * wider) / (mass + step.prior_mass)
            narrower = np.maximum(smoothed, PROBABILITY_MIN)
            evidence += of_block[:, number, None] * np.log(narrower / wider)
            wider = narrower
        yield evidence


def _pool(
    profile: ProductProfile, by_block: Iterable[Float64], freqs: Sequence[Counts], unigram: Float64
) -> tuple[Float64, Bools]:
    """The answers [B, V] of a product from the evidence of its blocks, [B, V] each, and whether each has support."""
    prior = profile.prior_weight * np.log(np.maximum(unigram, PROBABILITY_MIN))
    log_prior: Float64 = prior + np.array(profile.token_bias) if profile.token_bias else prior
    found = [freq[:, _counting(steps)].any(axis=(1, 2)) for steps, freq in zip(profile.blocks, freqs, strict=True)]
    has_support = np.any(found, axis=0)
    return softmax(sum(by_block, log_prior)) * has_support[:, None], has_support


def _counting(steps: Sequence[Step]) -> list[bool]:
    """Which steps of a block of a product may have a weight other than 0."""
    return [any((step.weight, step.support_weight, *step.block_support_weights)) for step in steps]


def _log_weights(profile: Profile, freqs: Sequence[Counts]) -> Iterator[Float64]:
    """The logarithms of the weights of a sum, for each block [B, S]; minus infinity for a weight of 0."""
    for steps, exponents in zip(profile.blocks, _exponents(profile, freqs), strict=True):
        yield exponents + np.array([np.log(step.weight) if step.weight > 0 else -np.inf for step in steps])


def _exponents(profile: Profile, freqs: Sequence[Counts]) -> Iterator[Float64]:
    """What the support has to say about the weights: x of `Step`, for each block [B, S]."""
    supports = [np.log1p(freq.sum(axis=2)) for freq in freqs]
    middles = [logs[:, logs.shape[1] // 2] if logs.shape[1] else np.zeros(len(logs)) for logs in supports]
    for steps, logs in zip(profile.blocks, supports, strict=True):
        exponents = np.array([step.support_weight for step in steps]) * logs
        for number, step in enumerate(steps):
            for weight, middle in zip(step.block_support_weights, middles, strict=False):  # all blocks, or none
                exponents[:, number] += weight * middle
        yield exponents

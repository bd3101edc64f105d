"""How the weights of a profile are found: gradient descent on the mean Hellinger distance, in batches of prompts.

Shapes: n prompts, b of a batch, K block, S steps of a block, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ffnsearch_indexer.answer.prediction import PROBABILITY_MIN
from ffnsearch_indexer.answer.profile import PRIOR_MASS_MAX, ProductProfile, ProductStep, Step, SumProfile
from ffnsearch_indexer.fidelity.bands import Bands

ITERATIONS, BATCH_PROMPTS = 1000, 256

BATCH_SUMS = 1 << 26
"""Most sums of a batch, over its prompts, blocks, steps and tokens: with gradients, a product takes 48 bytes for each.

Twelve steps in six blocks have smaller batches for it beyond 3,640 tokens.
"""

RATE = 0.04
"""Highest learning rate; it falls to nothing along half a cosine."""

TOKEN_BIAS_MAX = 1000
"""Largest vocabulary for which a product learns a bias of every token: with more, they would be learned by heart."""

ONE_STEP_PROMPTS, ONE_STEP_SWEEPS_MAX = 1500, 4
"""How many prompts are looked at to choose one threshold a block, and how often the blocks take turns at most."""

Thresholds = Sequence[Sequence[float]]
"""For each block its thresholds, as many in every block, ascending."""


def fit_sum(
    bands: Bands,
    thresholds: Thresholds,
    *,
    mass_power: bool = False,
    by_support: bool = False,
    seed: int = 0,
    progress: Callable[[int], None] = lambda iteration: None,
) -> SumProfile:
    """Fit the weights of a sum; with `mass_power` that too, with `by_support` weights that depend on the support."""
    steps = _Steps(bands, thresholds)
    weights = _Weights(steps, by_support)
    power = torch.tensor(1.0 if by_support else 0.0, requires_grad=mass_power)
    if not by_support:
        weights.constant.data -= torch.log1p(steps.mass).mean(0)  # each step starts with the same say

    def answer(rows: Tensor) -> Tensor:
        freq, mass = steps.freq[rows], steps.mass[rows]
        logs = weights(rows) - power.clamp(0, 1) * mass.clamp_min(1).log()
        logs = logs.masked_fill(mass == 0, -torch.inf).flatten(1)
        highest = logs.max(dim=1, keepdim=True).values.clamp_min(-1e30)  # finite where nothing was found at all
        total = torch.einsum("nj,njv->nv", (logs - highest).exp(), freq.flatten(1, 2))
        return total / total.sum(-1, keepdim=True).clamp_min(1e-30)

    _descend([*weights.parameters, power] if mass_power else weights.parameters, answer, steps, seed, progress)
    constants, fields = weights.fields()
    largest = float(constants.max())
    blocks = tuple(
        tuple(
            Step(t, float(np.exp(constants[block, step] - largest)), **fields[block][step]) for step, t in enumerate(of)
        )
        for block, of in enumerate(thresholds)
    )
    return SumProfile("", blocks, float(power.detach().clamp(0, 1)))


def fit_product(
    bands: Bands,
    thresholds: Thresholds,
    *,
    seed: int = 0,
    progress: Callable[[int], None] = lambda iteration: None,
) -> ProductProfile:
    """Fit weights, which depend on the support, prior masses and prior of a product."""
    steps = _Steps(bands, thresholds)
    weights = _Weights(steps, by_support=True)
    weights.constant.data[:, 0] += 0.5 / len(thresholds)
    log_prior_mass = torch.full(steps.mass.shape[1:], np.log(10.0), requires_grad=True)
    log_unigram = torch.from_numpy(bands.unigram).float().log()
    has_bias = len(log_unigram) <= TOKEN_BIAS_MAX
    bias = torch.zeros(len(log_unigram), requires_grad=has_bias)
    prior_weight = torch.ones((), requires_grad=True)

    def answer(rows: Tensor) -> Tensor:
        ratios = _log_ratios(steps.freq[rows], steps.mass[rows], log_prior_mass.exp(), log_unigram)
        evidence = torch.einsum("nksv,nks->nv", ratios, weights(rows))
        return torch.softmax(evidence + prior_weight * log_unigram + bias, dim=-1)

    parameters = [*weights.parameters, log_prior_mass, prior_weight, *([bias] if has_bias else [])]
    _descend(parameters, answer, steps, seed, progress)
    constants, fields = weights.fields()
    prior_masses = log_prior_mass.detach().exp().clamp(1e-6, PRIOR_MASS_MAX).tolist()
    blocks = tuple(
        tuple(
            ProductStep(t, float(constants[block, step]), prior_mass=prior_masses[block][step], **fields[block][step])
            for step, t in enumerate(of)
        )
        for block, of in enumerate(thresholds)
    )
    token_bias = tuple(bias.detach().tolist()) if has_bias else ()
    return ProductProfile("", blocks, float(prior_weight.detach()), token_bias)


def choose_one_step(bands: Bands) -> list[list[float]]:
    """Choose one threshold a block, block by block in turn: that with which the best weighted sum is nearest.

    Starts with each block's best threshold alone.
    """
    bands = bands.take(slice(ONE_STEP_PROMPTS))
    freq, root = torch.from_numpy(bands.freq).float(), _root_of(bands)
    alone = [[_nearest_sum(freq[:, [block], [step]], root) for step in range(freq.shape[2])] for block in _blocks(freq)]
    chosen = [int(np.argmin(of_block)) for of_block in alone]
    for _ in range(ONE_STEP_SWEEPS_MAX):
        before = list(chosen)
        for block in _blocks(freq):
            tried = [[*chosen[:block], step, *chosen[block + 1 :]] for step in range(freq.shape[2])]
            distances = [_nearest_sum(freq[:, list(_blocks(freq)), steps], root) for steps in tried]
            chosen[block] = int(np.argmin(distances))
        if chosen == before:
            break
    return [[bands.thresholds[step]] for step in chosen]


class _Steps:
    """What weights are fitted to: the sums at the steps of a profile, and the model's own answers.

    freq: [n, K, S, V] float32. mass: [n, K, S]. own, middle: standardised log(1 + mass) of each step [n, K, S], and of
    each block's middle step [n, K]. root: [n, V], square roots of the model's distributions.
    """

    def __init__(self, bands: Bands, thresholds: Thresholds) -> None:
        self.freq = torch.from_numpy(np.stack(bands.at(thresholds), axis=1, dtype=np.float32))
        self.root = _root_of(bands)
        self.mass = self.freq.sum(-1)
        logs = torch.log1p(self.mass)
        self.mean, self.scale = logs.mean(0), logs.std(0) + 0.5
        self.own = (logs - self.mean) / self.scale
        self.middle = self.own[:, :, logs.shape[2] // 2]

    @property
    def batch_prompts(self) -> int:
        """How many prompts make a batch."""
        return max(1, min(BATCH_PROMPTS, BATCH_SUMS // self.freq[0].numel()))


class _Weights:
    """The weights [b, K, S] of the steps, in which the support may have a say; each parameter starts at 0."""

    def __init__(self, steps: _Steps, by_support: bool) -> None:
        self._steps = steps
        _, K, S = steps.mass.shape
        self.constant = torch.zeros(K, S, requires_grad=True)
        self._own = torch.zeros(K, S, requires_grad=by_support)
        self._middle = torch.zeros(K, S, K, requires_grad=by_support)
        self.by_support = by_support
        self.parameters = [self.constant, self._own, self._middle] if by_support else [self.constant]

    def __call__(self, rows: Tensor) -> Tensor:
        if not self.by_support:
            return self.constant.expand(len(rows), -1, -1)
        of_blocks = torch.einsum("ksj,nj->nks", self._middle, self._steps.middle[rows])
        return self.constant + self._own * self._steps.own[rows] + of_blocks

    def fields(self) -> tuple[np.ndarray, list[list[dict[str, Any]]]]:
        """The constants [K, S] of plain, not standardised support, and for each block the other fields of each step."""
        mean, scale = self._steps.mean.double(), self._steps.scale.double()
        step = mean.shape[1] // 2
        own = self._own.detach().double() / scale
        middle = self._middle.detach().double() / scale[:, step]
        constant = self.constant.detach().double() - own * mean - middle @ mean[:, step]

        fields: list[list[dict[str, Any]]] = [[{} for _ in of_block] for of_block in own]
        if self.by_support:
            fields = [
                [
                    {"support_weight": weight, "block_support_weights": tuple(weights)}
                    for weight, weights in zip(*of_block, strict=True)
                ]
                for of_block in zip(own.tolist(), middle.tolist(), strict=True)
            ]
        return constant.numpy(), fields


def _log_ratios(freq: Tensor, mass: Tensor, prior_mass: Tensor, log_unigram: Tensor) -> Tensor:
    """What each step adds to the next wider one, log(p_step / p_wider) [b, K, S, V]: as `prediction.combine` has it."""
    b, K, S, V = freq.shape
    wider = log_unigram.exp().expand(b, K, V)
    ratios = []
    for step in range(S):
        prior = prior_mass[:, step, None]
        narrower = ((freq[:, :, step] + prior * wider) / (mass[:, :, step, None] + prior)).clamp_min(PROBABILITY_MIN)
        ratios.append((narrower / wider).log())
        wider = narrower
    return torch.stack(ratios, dim=2)


def _descend(
    parameters: list[Tensor],
    answer: Callable[[Tensor], Tensor],
    steps: _Steps,
    seed: int,
    progress: Callable[[int], None],
) -> None:
    """Move the parameters (Adam) to where the answers to rows [b] are nearest to the model's distributions."""
    batch_prompts = steps.batch_prompts
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(parameters, betas=(0.9, 0.98))
    order = torch.empty(0, dtype=torch.int64)
    for iteration in range(ITERATIONS):
        if len(order) < batch_prompts:
            order = torch.cat([order, torch.randperm(len(steps.root), generator=generator)])
        rows, order = order[:batch_prompts], order[batch_prompts:]
        for group in optimizer.param_groups:
            group["lr"] = RATE * 0.5 * (1 + np.cos(np.pi * iteration / ITERATIONS)) + 1e-5
        optimizer.zero_grad()
        _distances(answer(rows), steps.root[rows]).mean().backward()
        optimizer.step()
        progress(iteration + 1)


def _nearest_sum(freq: Tensor, root: Tensor) -> float:
    """The least mean distance of a weighted sum of freq [n, J, V] from the model's distributions."""
    weights = -torch.log1p(freq.sum((0, 2)))
    weights.requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=20, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        total = torch.einsum("njv,j->nv", freq, (weights - weights.max()).exp())
        return _distances(total / total.sum(-1, keepdim=True).clamp_min(1e-30), root).mean()

    def closure() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value.item()

    optimizer.step(closure)
    return float(loss().detach())


def _distances(answers: Tensor, root: Tensor) -> Tensor:
    """Hellinger distances [b] of answers [b, V] from distributions whose square roots are `root` [b, V]."""
    overlap = (answers.clamp_min(1e-20).sqrt() * root).sum(-1)
    return (1 - overlap).clamp_min(1e-7).sqrt()  # at 0 the root has no gradient


def _root_of(bands: Bands) -> Tensor:
    return torch.from_numpy(bands.model).float().sqrt()


def _blocks(freq: Tensor) -> range:
    return range(freq.shape[1])

"""The one path from prompts to answers: tokens, queries, sums, distribution, evidence.

The service, the command line and every measurement call it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.answer.prediction import combine, hellinger, softmax
from ffnsearch_indexer.answer.profile import Profile
from ffnsearch_indexer.corpora.tokenizer import Tokens
from ffnsearch_indexer.errors import BackendError, PromptError
from ffnsearch_indexer.index.base import Checkpoint, Index, RangeSums, exact_scores, levels_above, nobody_waits
from ffnsearch_indexer.models.queries import Queries, run_prompts
from ffnsearch_indexer.store.datastore import Datastore

BACKENDS = ("exact", "faiss")


@dataclass(frozen=True)
class BlockSums:
    """What one block found for one prompt. thresholds: [S]. freq: [S, V] int64. neighbors: [S] int64."""

    thresholds: tuple[float, ...]
    freq: NDArray[np.int64]
    neighbors: NDArray[np.int64]


@dataclass(frozen=True)
class Prediction:
    """The answer to one prompt.

    distribution: [V] float64, or None where no neighbor has a successor (NO_SUPPORT). model: [V] float64,
    the model's own distribution. hellinger: distance between the two, in [0, 1], None without support.
    used_tokens: how many of the prompt's last tokens were run, at most L. self_id: the substring equal to
    the prompt's last L tokens, None where there is none.
    """

    distribution: NDArray[np.float64] | None
    model: NDArray[np.float64]
    hellinger: float | None
    blocks: tuple[BlockSums, ...]
    used_tokens: int
    self_id: int | None


class Predictions(NamedTuple):
    """The answers to a batch, and where the time went."""

    answers: list[Prediction]
    model_ns: int
    search_ns: int
    combine_ns: int


class RankedNeighbors(NamedTuple):
    """The neighbors of a prompt in one block, best first (equal scores by id). ids: [M] int64. scores: [M] float64."""

    ids: NDArray[np.int64]
    scores: NDArray[np.float64]


class Predictor:
    """Answers prompts from one datastore with one backend. One thread at a time may call it."""

    def __init__(self, datastore: Datastore, *, backend: str = "exact") -> None:
        make = _backend(backend)
        self.datastore = datastore
        self.backend = backend
        self.approximate = make.approximate
        self._indexes = [make(keys, datastore.counts) for keys in datastore.keys]

    def predict(
        self,
        prompts: Sequence[Tokens],
        profile: Profile,
        *,
        exclude_self: bool = False,
        checkpoint: Checkpoint = nobody_waits,
    ) -> Predictions:
        """Answer prompts, each [T] uint16 with T at least 1; only the last L tokens of each matter.

        With `exclude_self` the substring equal to a prompt's last L tokens does not count, in any block.
        Raises ProfileError for a profile of another number of blocks, PromptError for an empty prompt.
        """
        profile.require_blocks(len(self._indexes))
        if not prompts:
            return Predictions([], 0, 0, 0)
        started = time.perf_counter_ns()
        queries = run_prompts(self.datastore.model, prompts, self.datastore.window_tokens)
        self_ids = [self.datastore.find(prompt[-self.datastore.window_tokens :]) for prompt in prompts]
        modelled = time.perf_counter_ns()
        sums = [
            self._block_sums(block, queries, profile.thresholds(block), self_ids if exclude_self else None, checkpoint)
            for block in range(len(self._indexes))
        ]
        searched = time.perf_counter_ns()
        distributions, has_support = combine(profile, [block.freq for block in sums])
        model = softmax(queries.logits)
        distances = hellinger(distributions, model)
        answers = [
            Prediction(
                distribution=distributions[row] if has_support[row] else None,
                model=model[row],
                hellinger=float(distances[row]) if has_support[row] else None,
                blocks=tuple(
                    BlockSums(profile.thresholds(block), sums[block].freq[row], sums[block].neighbors[row])
                    for block in range(len(sums))
                ),
                used_tokens=min(len(prompt), self.datastore.window_tokens),
                self_id=self_ids[row],
            )
            for row, prompt in enumerate(prompts)
        ]
        return Predictions(answers, modelled - started, searched - modelled, time.perf_counter_ns() - searched)

    def neighbors(
        self,
        prompt: Tokens,
        block: int,
        threshold: float,
        *,
        exclude_self: bool = False,
        checkpoint: Checkpoint = nobody_waits,
    ) -> RankedNeighbors:
        """List all neighbors of one prompt in one block above a threshold, best first."""
        if not 0 <= block < len(self._indexes):
            raise PromptError(
                f"block {block} does not exist: the model has blocks 0 to {len(self._indexes) - 1}",
                reason="BLOCK_OUT_OF_RANGE",
                field="block",
            )
        window_tokens = self.datastore.window_tokens
        queries = run_prompts(self.datastore.model, [prompt], window_tokens).vectors[block]
        found = self._indexes[block].range_search(queries, threshold, checkpoint=checkpoint)
        ids, scores = found.ids, found.scores
        if exclude_self:
            others = ids != self.datastore.find(prompt[-window_tokens:])
            ids, scores = ids[others], scores[others]
        order = np.lexsort((ids, -scores))
        return RankedNeighbors(ids[order], scores[order])

    def _block_sums(
        self,
        block: int,
        queries: Queries,
        thresholds: tuple[float, ...],
        excluded: list[int | None] | None,
        checkpoint: Checkpoint,
    ) -> RangeSums:
        index, vectors = self._indexes[block], queries.vectors[block]
        sums = index.range_sum(vectors, thresholds, checkpoint=checkpoint)
        if excluded is not None:
            _subtract(index, vectors, thresholds, excluded, sums)
        return sums


def _subtract(
    index: Index,
    queries: NDArray[np.float16],
    thresholds: tuple[float, ...],
    excluded: list[int | None],
    sums: RangeSums,
) -> None:
    """Take one substring out of each row's sums, wherever it was counted: scores are exact, so this is too."""
    rows = np.array([row for row, substring_id in enumerate(excluded) if substring_id is not None], dtype=np.int64)
    ids = np.array([substring_id for substring_id in excluded if substring_id is not None], dtype=np.int64)
    scores = exact_scores(queries, index.keys, rows, ids)
    for step, threshold in enumerate(thresholds):
        counted = levels_above(scores, np.array([threshold])) > 0
        for row, substring_id in zip(rows[counted], ids[counted], strict=True):
            tokens, counts = index.counts.row(substring_id)
            sums.freq[row, step, tokens] -= counts
            sums.neighbors[row, step] -= 1


def _backend(name: str) -> type[Index]:
    """The class of a backend, imported only when it is wanted."""
    if name == "exact":
        from ffnsearch_indexer.index.exact import ExactIndex

        return ExactIndex
    if name == "faiss":
        from ffnsearch_indexer.index.faiss import FaissFlatIndex

        return FaissFlatIndex
    raise BackendError(
        f"the backend {name!r} is unknown: choose one of {', '.join(BACKENDS)}", reason="UNKNOWN_BACKEND"
    )

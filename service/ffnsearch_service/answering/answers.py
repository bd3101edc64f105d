"""What does each call's profile make of what a batch found? Sums become answers.

Calls share the search and each has its own profile: the rows of those with the same one are combined together.
Shapes: B prompts, K block, S steps of a block, T steps of all blocks, V vocabulary.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.answer import prediction
from ffnsearch_indexer.answer.predictor import Found
from ffnsearch_indexer.index.base import RangeSums
from ffnsearch_service.answering.requests import PredictJob


class Listed(NamedTuple):
    """The likeliest tokens of one distribution, best first, equal ones by id."""

    ids: list[int]
    probabilities: list[float]


@dataclass(frozen=True)
class Answers:
    """The answers to B prompts with one profile. Arrays have a row for each prompt, lists an entry.

    distributions: [B, V], zeros without support. model: [B, V], the model's own. freqs: for each block [B, S, V].
    listed, model_listed: their likeliest tokens, as many as any of the calls lists; the model's may be empty if no
    call wants them. distances: Hellinger, between the two. neighbors, masses: of all T steps, block after block.
    self_ids: the substring equal to the prompt's last window, or None. queries: [B, K, D] float16, what was searched
    for.

    What a reply of one prompt needs is in lists: a batch is turned into Python's numbers at once.
    """

    distributions: NDArray[np.float64]
    model: NDArray[np.float64]
    freqs: list[NDArray[np.int64]]
    listed: list[Listed]
    model_listed: list[Listed]
    has_support: list[bool]
    distances: list[float]
    supports: list[float]
    neighbors: list[list[int]]
    masses: list[list[int]]
    self_ids: list[int | None]
    queries: NDArray[np.float16]

    def rows(self, first: int, stop: int, job: PredictJob) -> "Answers":
        """A copy of some rows, which keeps no others alive, nor sums and queries that the job does not need."""
        rows = slice(first, stop)
        return Answers(
            self.distributions[rows].copy(),
            self.model[rows].copy(),
            [freq[rows].copy() for freq in self.freqs] if job.needs_freqs else [],
            self.listed[rows],
            self.model_listed[rows],
            self.has_support[rows],
            self.distances[rows],
            self.supports[rows],
            self.neighbors[rows],
            self.masses[rows],
            self.self_ids[rows],
            self.queries[rows if job.include_queries else slice(0)].copy(),
        )


class Times(NamedTuple):
    """What one batch took, in nanoseconds by stage, and how many prompts it had."""

    model_ns: int
    search_ns: int
    combine_ns: int
    prompts: int


class Part(NamedTuple):
    """The answers to some consecutive prompts of a job: the rows `first` to `stop` of what was combined together.

    backend: the name of what searched.
    """

    answers: Answers
    first: int
    stop: int
    times: Times
    backend: str

    def detached(self, job: PredictJob) -> "Part":
        """A copy that keeps no other rows alive, for its job with pieces still to come."""
        answers = self.answers.rows(self.first, self.stop, job)
        return Part(answers, 0, self.stop - self.first, self.times, self.backend)


def combine_pieces(
    jobs: Sequence[PredictJob], prompts: Sequence[int], found: Found, unigram: NDArray[np.float64]
) -> list[tuple[Answers, int, int]]:
    """Answer the pieces of a batch, whose rows follow each other in what was found.

    jobs: the job of each piece. prompts: how many prompts each piece has. For each piece, answers and which of their
    rows are its own.
    """
    model = prediction.softmax(found.logits)
    ends = list(itertools.accumulate(prompts))
    by_profile: dict[int, list[int]] = {}
    for piece, job in enumerate(jobs):
        by_profile.setdefault(id(job.profile), []).append(piece)
    placed: dict[int, tuple[Answers, int, int]] = {}
    for pieces in by_profile.values():
        rows = [row for piece in pieces for row in range(ends[piece] - prompts[piece], ends[piece])]
        answers = _combine([jobs[piece] for piece in pieces], _rows_of(found, rows), model[rows], unigram)
        first = 0
        for piece in pieces:
            placed[piece] = answers, first, first + prompts[piece]
            first += prompts[piece]
    return [placed[piece] for piece in range(len(jobs))]


def _rows_of(found: Found, rows: list[int]) -> Found:
    """Some rows of what was found."""
    if len(rows) == len(found.self_ids):
        return found
    sums = [RangeSums(of_block.freq[rows], of_block.neighbors[rows]) for of_block in found.sums]
    self_ids = [found.self_ids[row] for row in rows]
    return found._replace(sums=sums, queries=found.queries[:, rows], logits=found.logits[rows], self_ids=self_ids)


def _combine(
    jobs: Sequence[PredictJob], found: Found, model: NDArray[np.float64], unigram: NDArray[np.float64]
) -> Answers:
    """Answer the prompts of jobs that have one profile. model: [B, V], for each row of what was found."""
    freqs = [sums.freq for sums in found.sums]
    distributions, has_support = prediction.combine(jobs[0].profile, freqs, unigram)
    listed_max = max(job.top_n for job in jobs)
    return Answers(
        distributions=distributions,
        model=model,
        freqs=freqs,
        listed=_list(distributions, listed_max),
        model_listed=_list(model, listed_max) if any(job.include_model for job in jobs) else [],
        has_support=has_support.tolist(),
        distances=prediction.hellinger(distributions, model).tolist(),
        supports=prediction.support(freqs).tolist(),
        neighbors=np.concatenate([sums.neighbors for sums in found.sums], axis=1).tolist(),
        masses=np.concatenate([freq.sum(axis=2) for freq in freqs], axis=1).tolist(),
        self_ids=found.self_ids,
        queries=found.queries.swapaxes(0, 1),
    )


def _list(probabilities: NDArray[np.float64], tokens_max: int) -> list[Listed]:
    """The likeliest tokens of each of the distributions [B, V]."""
    order = (-probabilities).argsort(axis=1, kind="stable")[:, :tokens_max]
    best = np.take_along_axis(probabilities, order, axis=1)
    return list(map(Listed, order.tolist(), best.tolist()))

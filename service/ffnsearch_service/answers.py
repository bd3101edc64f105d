"""What does each call's profile make of what a batch found? Sums become answers.

Calls share the search and each has its own profile: the rows of those with the same one are combined together.
Shapes: B prompts, K block, S steps of a block, T steps of all blocks, V vocabulary.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.answer import prediction
from ffnsearch_indexer.answer.predictor import Found
from ffnsearch_indexer.answer.profile import Profile
from ffnsearch_service.requests import PredictJob


@dataclass(frozen=True)
class Answers:
    """The answers to B prompts with one profile, as arrays whose rows are the prompts.

    distributions: [B, V], zeros without support. has_support: [B]. model: [B, V], the model's own. distances: [B],
    Hellinger, between the two. supports: [B]. freqs: for each block [B, S, V]. neighbors, masses: [B, T], of all
    steps, block after block. self_ids: the substring equal to each prompt's last window, or None.
    """

    distributions: NDArray[np.float64]
    has_support: NDArray[np.bool_]
    model: NDArray[np.float64]
    distances: NDArray[np.float64]
    supports: NDArray[np.float64]
    freqs: Sequence[NDArray[np.int64]]
    neighbors: NDArray[np.int64]
    masses: NDArray[np.int64]
    self_ids: Sequence[int | None]

    def rows(self, first: int, stop: int, *, with_freqs: bool) -> "Answers":
        """Some of the rows, copied: they keep nothing of the others. Without `with_freqs`, none of `freqs`."""
        rows = slice(first, stop)
        return Answers(
            self.distributions[rows].copy(),
            self.has_support[rows].copy(),
            self.model[rows].copy(),
            self.distances[rows].copy(),
            self.supports[rows].copy(),
            [freq[rows].copy() for freq in self.freqs] if with_freqs else [],
            self.neighbors[rows].copy(),
            self.masses[rows].copy(),
            self.self_ids[rows],
        )


class Times(NamedTuple):
    """What one batch took, in nanoseconds by stage, and how many prompts it had."""

    model_ns: int
    search_ns: int
    combine_ns: int
    prompts: int


class Part(NamedTuple):
    """The answers to some consecutive prompts of a job: the rows `first` to `stop` of what was combined together."""

    answers: Answers
    first: int
    stop: int
    times: Times

    def alone(self, *, with_freqs: bool) -> "Part":
        """The same, keeping nothing of other rows alive: for a job whose other pieces are still to come."""
        return Part(
            self.answers.rows(self.first, self.stop, with_freqs=with_freqs), 0, self.stop - self.first, self.times
        )


def combine_pieces(
    jobs: Sequence[PredictJob], prompts: Sequence[int], found: Found, unigram: NDArray[np.float64]
) -> list[tuple[Answers, int, int]]:
    """Answer the pieces of a batch, whose rows follow each other in what was found.

    jobs: the job of each piece. prompts: how many prompts each piece has. For each piece, answers and which of their
    rows are its own.
    """
    model = prediction.softmax(found.logits)
    ends = np.cumsum(prompts).tolist()
    starts = [0, *ends[:-1]]
    by_profile: dict[int, list[int]] = {}
    for piece, job in enumerate(jobs):
        by_profile.setdefault(id(job.profile), []).append(piece)
    placed: dict[int, tuple[Answers, int, int]] = {}
    for pieces in by_profile.values():
        rows = [row for piece in pieces for row in range(starts[piece], ends[piece])]
        answers = _combine(jobs[pieces[0]].profile, found, model, unigram, rows)
        first = 0
        for piece in pieces:
            placed[piece] = answers, first, first + prompts[piece]
            first += prompts[piece]
    return [placed[piece] for piece in range(len(jobs))]


def _combine(
    profile: Profile, found: Found, model: NDArray[np.float64], unigram: NDArray[np.float64], rows: list[int]
) -> Answers:
    if len(rows) < len(model):
        freqs, neighbors = [sums.freq[rows] for sums in found.sums], [sums.neighbors[rows] for sums in found.sums]
        model, self_ids = model[rows], [found.self_ids[row] for row in rows]
    else:
        freqs, neighbors = [sums.freq for sums in found.sums], [sums.neighbors for sums in found.sums]
        self_ids = found.self_ids
    distributions, has_support = prediction.combine(profile, freqs, unigram)
    return Answers(
        distributions=distributions,
        has_support=has_support,
        model=model,
        distances=prediction.hellinger(distributions, model),
        supports=prediction.support(freqs),
        freqs=freqs,
        neighbors=_side_by_side(neighbors),
        masses=_side_by_side(freq.sum(axis=2) for freq in freqs),
        self_ids=self_ids,
    )


def _side_by_side(of_blocks: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Put the steps [B, S] of each block into one array [B, T]."""
    return np.concatenate(list(of_blocks), axis=1)

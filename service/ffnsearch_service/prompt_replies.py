"""How do the answers to prompts look on the wire? Arrays become messages.

Numbers leave numpy a column at a time, and messages are made where they belong: a response of 256 prompts has 10,000.
Shapes: B prompts, K block, S steps of a block, V vocabulary.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_indexer.errors import FfnSearchError
from ffnsearch_service.answers import Answers, Part
from ffnsearch_service.explanation import Contributions, contributions_of, expected_hellinger
from ffnsearch_service.requests import PredictJob
from ffnsearch_service.status import prompt_error


class Writer(NamedTuple):
    """Writes the results of one job. vocabulary: V characters. unigram: [V], what follows all substrings."""

    job: PredictJob
    vocabulary: str
    window_tokens: int
    unigram: NDArray[np.float64]

    def write(self, results: Any, parts: Sequence[Part]) -> None:
        """Append to a response's list of results one for each prompt. parts: answers to those that ran, in order."""
        rows = itertools.chain.from_iterable(self._rows(part) for part in parts)
        for prompt in self.job.prompts:
            result = results.add()
            if isinstance(prompt, FfnSearchError):
                result.status = pb.PROMPT_STATUS_INVALID
                result.error.CopyFrom(prompt_error(prompt))
            else:
                self._write(result, next(rows), min(len(prompt), self.window_tokens))

    def _rows(self, part: Part) -> Iterator["_Row"]:
        """The rows of a part, each with its numbers as Python's."""
        answers, rows = part.answers, slice(part.first, part.stop)
        listed = self._listed(answers.distributions[rows])
        models = self._listed(answers.model[rows]) if self.job.include_model else itertools.repeat(None)
        columns = (
            answers.has_support[rows].tolist(),
            answers.distances[rows].tolist(),
            answers.supports[rows].tolist(),
            answers.neighbors[rows].tolist(),
            answers.masses[rows].tolist(),
        )
        return map(
            _Row,
            itertools.repeat(answers),
            range(part.first, part.stop),
            listed,
            models,
            *columns,
            answers.self_ids[rows],
        )

    def _listed(self, probabilities: NDArray[np.float64]) -> Iterator["_Listed"]:
        """The likeliest tokens of distributions [B, V]: at most `top_n`, each above 0 and at least `min_prob`."""
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, : self.job.top_n]  # of equal ones the lower id
        best = np.take_along_axis(probabilities, order, axis=1)
        lengths = ((best > 0) & (best >= self.job.min_prob)).sum(axis=1)
        return map(_Listed, order.tolist(), best.tolist(), lengths.tolist())

    def _write(self, result: Any, row: "_Row", used_tokens: int) -> None:
        job, answers = self.job, row.answers
        result.support = row.support
        result.used_tokens = used_tokens
        result.short_prompt = used_tokens < self.window_tokens
        if row.self_id is not None:
            result.self_id = row.self_id
        self._write_blocks(result, row)
        if row.models is not None:
            self._write_distribution(result.model_distribution, row.models, answers.model[row.number])
        if not row.has_support:
            result.status = pb.PROMPT_STATUS_NO_SUPPORT
            return
        result.status = pb.PROMPT_STATUS_OK
        distribution = answers.distributions[row.number]
        self._write_distribution(result.distribution, row.listed, distribution)
        expected = expected_hellinger(job.profile, row.support)
        if expected is not None:
            result.expected_hellinger = expected
        if job.include_model:
            result.hellinger = row.distance
        if job.include_contributions:
            freqs = [freq[row.number] for freq in answers.freqs]
            found = contributions_of(job.profile, freqs, distribution, self.unigram)
            _add_contributions(result.distribution.tokens, found)

    def _write_distribution(self, message: Any, listed: "_Listed", probabilities: NDArray[np.float64]) -> None:
        add, vocabulary = message.tokens.add, self.vocabulary
        for token, probability in zip(listed.ids[: listed.length], listed.probabilities, strict=False):
            add(id=token, text=vocabulary[token], probability=probability)
        if self.job.dense:
            message.dense = probabilities.astype("<f8").tobytes()
        message.SetInParent()  # also where no token is likely enough to be listed

    def _write_blocks(self, result: Any, row: "_Row") -> None:
        found = zip(row.neighbors, row.masses, strict=True)
        for block, steps in enumerate(self.job.profile.blocks):
            add = result.blocks.add().steps.add
            for number, step in enumerate(steps):
                neighbors, mass = next(found)
                written = add(threshold=step.threshold, weight=step.weight, neighbors=neighbors, mass=mass)
                if self.job.include_frequencies:
                    written.frequencies = row.answers.freqs[block][row.number, number].astype("<i8").tobytes()


class _Listed(NamedTuple):
    """The likeliest tokens, best first; the first `length` of them are shown."""

    ids: list[int]
    probabilities: list[float]
    length: int


class _Row(NamedTuple):
    """The answer to one prompt. neighbors, masses: of all steps, block after block. number: its row in the answers."""

    answers: Answers
    number: int
    listed: _Listed
    models: _Listed | None
    has_support: bool
    distance: float
    support: float
    neighbors: list[int]
    masses: list[int]
    self_id: int | None


def _add_contributions(tokens: Any, found: Contributions) -> None:
    for token in tokens:
        token.block_contributions.extend(found.blocks[:, token.id].tolist())
        if found.prior is not None:
            token.prior_contribution = float(found.prior[token.id])

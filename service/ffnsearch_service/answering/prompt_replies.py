"""How do the answers to prompts look on the wire? Arrays become messages.

Messages are made in the place where they belong, and what results share is copied: 256 prompts have 10,000 of them.
Shapes: B prompts, K block, S steps of a block, V vocabulary.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_indexer.answer.profile import Profile
from ffnsearch_indexer.errors import FfnSearchError
from ffnsearch_indexer.models.queries import GivenQueries, Prompt
from ffnsearch_service.answering.answers import Answers, Listed, Part
from ffnsearch_service.answering.explanation import Contributions, contributions_of, expected_hellinger
from ffnsearch_service.answering.requests import PredictJob
from ffnsearch_service.status import error_message


class Writer(NamedTuple):
    """Writes the results of one job.

    blank: a result of the job's profile without what was found, as `blank_result` makes it. vocabulary: V characters.
    unigram: [V], what follows all substrings.
    """

    job: PredictJob
    blank: pb.PromptResult
    vocabulary: str
    window_tokens: int
    unigram: NDArray[np.float64]

    def write(self, results: Any, parts: Sequence[Part]) -> None:
        """Append to a response's list of results one for each prompt. parts: answers to those that ran, in order."""
        rows = ((part.answers, row) for part in parts for row in range(part.first, part.stop))
        for prompt in self.job.prompts:
            result = results.add()
            if isinstance(prompt, FfnSearchError):
                result.status = pb.PROMPT_STATUS_INVALID
                result.error.CopyFrom(error_message(prompt))
            else:
                self._write(result, *next(rows), prompt)

    def _write(self, result: Any, answers: Answers, row: int, prompt: Prompt) -> None:
        """Write the result of the prompt in a row of the answers."""
        job, support, self_id = self.job, answers.supports[row], answers.self_ids[row]
        tokens = 0 if isinstance(prompt, GivenQueries) else len(prompt)
        has_model = tokens > 0
        result.CopyFrom(self.blank)
        result.support = support
        if has_model:
            result.used_tokens = min(tokens, self.window_tokens)
            result.short_prompt = tokens < self.window_tokens
        if self_id is not None:
            result.self_id = self_id
        self._write_steps(result, answers, row)
        if job.include_queries:
            vectors = answers.queries[row].astype("<f4")
            result.queries.blocks.extend(vector.tobytes() if has_model or vector.any() else b"" for vector in vectors)
        if job.include_model and has_model:
            self._write_distribution(result.model_distribution, answers.model_listed[row], answers.model, row)
        if not answers.has_support[row]:
            result.status = pb.PROMPT_STATUS_NO_SUPPORT
            return
        self._write_distribution(result.distribution, answers.listed[row], answers.distributions, row)
        expected = expected_hellinger(job.profile, support) if has_model else None
        if expected is not None:
            result.expected_hellinger = expected
        if job.include_model and has_model:
            result.hellinger = answers.distances[row]
        if job.include_contributions:
            freqs = [freq[row] for freq in answers.freqs]
            found = contributions_of(job.profile, freqs, answers.distributions[row], self.unigram)
            _add_contributions(result.distribution.tokens, found)

    def _write_distribution(self, message: Any, listed: Listed, probabilities: NDArray[np.float64], row: int) -> None:
        """List at most `top_n` tokens, those above 0 that have at least `min_prob`."""
        job, vocabulary, add = self.job, self.vocabulary, message.tokens.add
        message.SetInParent()  # also where no token is likely enough to be listed
        for token, probability in zip(listed.ids[: job.top_n], listed.probabilities, strict=False):
            if probability < job.min_prob or probability == 0:
                break
            add(id=token, text=vocabulary[token], probability=probability)
        if job.dense:
            message.dense = probabilities[row].astype("<f8").tobytes()

    def _write_steps(self, result: Any, answers: Answers, row: int) -> None:
        steps = [step for block in result.blocks for step in block.steps]
        for step, neighbors, mass in zip(steps, answers.neighbors[row], answers.masses[row], strict=True):
            step.neighbors = neighbors
            step.mass = mass
        if self.job.include_frequencies:
            sums = itertools.chain.from_iterable(freq[row] for freq in answers.freqs)
            for step, freq in zip(steps, sums, strict=True):
                step.frequencies = freq.astype("<i8").tobytes()


def blank_result(profile: Profile) -> pb.PromptResult:
    """What the results of a profile have in common: it is copied faster than written."""
    blocks = [
        pb.BlockResult(steps=[pb.StepResult(threshold=step.threshold, weight=step.weight) for step in steps])
        for steps in profile.blocks
    ]
    return pb.PromptResult(status=pb.PROMPT_STATUS_OK, blocks=blocks)


def _add_contributions(tokens: Any, found: Contributions) -> None:
    for token in tokens:
        token.block_contributions.extend(found.blocks[:, token.id].tolist())
        if found.prior is not None:
            token.prior_contribution = float(found.prior[token.id])

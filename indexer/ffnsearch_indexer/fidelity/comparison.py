"""All answers to a chunk of prompts, each compared with the model's own distribution: one search for all profiles.

Shapes: B prompts of a chunk, n prompts, L window, K block, S steps, V vocabulary.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.alone import Identity
from ffnsearch_indexer.answer.prediction import combine, softmax
from ffnsearch_indexer.answer.predictor import Found, Predictor
from ffnsearch_indexer.answer.profile import Profile, thresholds_of
from ffnsearch_indexer.fidelity.baselines import LABELS, Answer, baseline_answers
from ffnsearch_indexer.fidelity.chunks import Arrays, chunk_prompts, identity_of_search
from ffnsearch_indexer.fidelity.endings import Endings
from ffnsearch_indexer.fidelity.evaluation import AnswerKey
from ffnsearch_indexer.fidelity.metrics import measure, normalised
from ffnsearch_indexer.fidelity.sisters import Sister
from ffnsearch_indexer.models.queries import run_prompts


@dataclass(frozen=True)
class Comparison:
    """What is asked, and whose answers are compared.

    prompts: [n, L] uint16. default: one of the profiles. ngram: what a calibration fitted, None where there is none.
    """

    predictor: Predictor
    profiles: Sequence[Profile]
    default: Profile
    prompts: NDArray[np.uint16]
    exclude_self: bool
    sisters: Sequence[Sister]
    ngram: Profile | None

    def identity(self) -> Identity:
        """All that decides what `compute` gives."""
        return {
            **identity_of_search(self.predictor, self.prompts, exclude_self=self.exclude_self),
            "set_of_profiles": [profile.to_json() for profile in self.profiles],
            "default_profile": self.default.name,
            "fitted_ngram": self.ngram and self.ngram.to_json(),
            "set_of_sisters": [sister.facts["model_sha256"] for sister in self.sisters],
            "set_of_answers": [list(key) for key in self.keys],
            "chunk_prompts": self.chunk_prompts,
        }

    @cached_property
    def keys(self) -> list[AnswerKey]:
        """Whose answers are compared, in the order of `measures`."""
        return [
            *(("profiles", profile.name) for profile in self.profiles),
            *(("blocks", str(block)) for block in range(len(self.thresholds))),
            *(("baselines", name) for name in LABELS if name != "fitted_ngram" or self.ngram),
            *(("sisters", str(number)) for number in range(len(self.sisters))),
        ]

    @cached_property
    def thresholds(self) -> list[tuple[float, ...]]:
        """For each block, the thresholds of all profiles, each once."""
        return thresholds_of(self.profiles)

    @cached_property
    def chunk_prompts(self) -> int:
        """How many prompts make a chunk."""
        sums = sum(map(len, self.thresholds)) + self.prompts.shape[1] + 1
        return chunk_prompts(sums * self.predictor.datastore.manifest.vocabulary_size)

    @cached_property
    def _endings(self) -> Endings:
        return Endings(self.predictor.datastore.substring_tokens(), self.predictor.datastore.counts)

    def compute(self, rows: range) -> Arrays:
        """Compare the answers to a chunk of prompts.

        measures: [B, number of keys, number of measures]. mass: [B] int64, next tokens that were found at the widest
        step of each block, over all blocks. seconds: [B], a prompt's share of the time.
        """
        started = time.monotonic()
        prompts = self.prompts[rows.start : rows.stop]
        found = self.predictor.search(list(prompts), self.thresholds, exclude_self=self.exclude_self)
        of_default, baselines = self._freqs(found, self.default), self._baseline_answers(found, prompts)
        answers = [
            *(combine(p, self._freqs(found, p), self.predictor.datastore.unigram) for p in self.profiles),
            *(normalised(freq.sum(axis=1)) for freq in of_default),
            *(baselines[name] for kind, name in self.keys if kind == "baselines"),
            *(_ask(sister, prompts) for sister in self.sisters),
        ]
        model = softmax(found.logits)
        return {
            "measures": np.stack([np.stack(measure(*answer, model), axis=1) for answer in answers], axis=1),
            "mass": np.sum([freq.sum(axis=2).max(axis=1, initial=0) for freq in of_default], axis=0),
            "seconds": np.full(len(prompts), (time.monotonic() - started) / len(prompts)),
        }

    def _freqs(self, found: Found, profile: Profile) -> list[NDArray[np.int64]]:
        """The sums of one profile's steps, [B, S, V] for each block, out of those of all profiles."""
        return [
            sums.freq[:, [searched.index(threshold) for threshold in asked]]
            for sums, searched, asked in zip(found.sums, self.thresholds, profile.thresholds_by_block, strict=True)
        ]

    def _baseline_answers(self, found: Found, prompts: NDArray[np.uint16]) -> dict[str, Answer]:
        own_ids = np.array([-1 if own is None else own for own in found.self_ids])
        followers = self._endings.followers(prompts, own_ids, exclude_self=self.exclude_self)
        return baseline_answers(followers.freq, self._endings.totals, self.predictor.datastore.unigram, self.ngram)


def _ask(sister: Sister, prompts: NDArray[np.uint16]) -> Answer:
    logits = run_prompts(sister.packed_model, list(prompts), prompts.shape[1]).logits
    return softmax(logits), np.ones(len(prompts), dtype=np.bool_)

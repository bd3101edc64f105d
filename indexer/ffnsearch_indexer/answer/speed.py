"""How fast a snapshot answers on this machine: the model, the search, and both together, by batch size."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from ffnsearch_indexer.answer.predictor import BlockSums, Predictor
from ffnsearch_indexer.answer.profile import Profile
from ffnsearch_indexer.corpora.tokenizer import Tokens
from ffnsearch_indexer.errors import BackendError
from ffnsearch_indexer.progress import Progress, silent

ROUNDS_MIN = 3
"""Calls of each batch size that are made whatever they take."""

SECONDS_MAX = 10.0
"""What the further calls of one batch size may take."""

CHECKED_PROMPTS = 16
"""Prompts whose sums are compared with those of the reference backend: a scan of all keys for each."""

REFERENCE = "exact"


class Times(NamedTuple):
    """Where the time of one call went, in nanoseconds; the stages follow each other."""

    model: int
    search: int
    combine: int


@dataclass(frozen=True)
class BatchSpeed:
    """What calls of one batch size took. calls: at least one. neighbors_by_block: of a prompt, on average."""

    prompts_per_call: int
    calls: tuple[Times, ...]
    neighbors_by_block: tuple[float, ...]

    @property
    def together(self) -> "StageSpeed":
        """All that a call does."""
        return self._speed([sum(call) for call in self.calls])

    def alone(self, stage: str) -> "StageSpeed":
        """One of the fields of Times."""
        return self._speed([getattr(call, stage) for call in self.calls])

    def to_json(self) -> dict[str, Any]:
        """Rates and shares of the whole and of each stage, and the raw samples."""
        return {
            "batch": self.prompts_per_call,
            "calls": len(self.calls),
            "together": self.together._asdict(),
            **{stage: self.alone(stage)._asdict() for stage in Times._fields},
            "neighbors_per_prompt_by_block": list(self.neighbors_by_block),
            "samples_ns": [call._asdict() for call in self.calls],
        }

    def _speed(self, nanoseconds: Sequence[int]) -> "StageSpeed":
        seconds = max(median(nanoseconds), 1) / 1e9 / self.prompts_per_call
        return StageSpeed(1e3 * seconds, 1 / seconds, sum(nanoseconds) / sum(sum(call) for call in self.calls))


class StageSpeed(NamedTuple):
    """How fast a stage is where nothing else is done, by the call in the middle, and its share of all calls' time."""

    ms_per_prompt: float
    prompts_per_second: float
    share: float


def measure(
    predictor: Predictor,
    prompts: Sequence[Tokens],
    profile: Profile,
    batches: Sequence[int],
    *,
    progress: Progress = silent,
) -> Iterator[BatchSpeed]:
    """Time `Predictor.predict` at each batch size, and yield what it took.

    prompts: all different, since the model runs once for equal ones in a call, and at least as many as the largest
    batch has. Calls take them in order, and start again after the last. A batch size is measured until all were asked,
    with ROUNDS_MIN calls at least, and with more only for SECONDS_MAX. At every batch size the sums of the first
    prompts are compared with those of the reference backend, unless the backend is approximate. Raises BackendError
    where they differ: a wrong answer has no speed.
    """
    assert max(batches) <= len(prompts), "a call would have equal prompts"
    checked = prompts[:CHECKED_PROMPTS]
    progress("check", 0, len(checked))
    found = _sums(predictor, checked, profile)  # it also warms up
    expected = [] if predictor.approximate else _reference_sums(predictor, checked, profile)
    _require_same(found[: len(expected)], expected, predictor)
    progress("check", len(checked), len(checked))
    for batch in batches:
        yield _measure_batch(predictor, prompts, profile, batch, expected, progress)


def _measure_batch(
    predictor: Predictor,
    prompts: Sequence[Tokens],
    profile: Profile,
    batch: int,
    expected: list[tuple[BlockSums, ...]],
    progress: Progress,
) -> BatchSpeed:
    planned = max(ROUNDS_MIN, -(-len(prompts) // batch))
    calls: list[Times] = []
    neighbors: list[list[list[int]]] = []
    started = time.monotonic()
    while len(calls) < planned:
        if len(calls) >= ROUNDS_MIN and time.monotonic() - started > SECONDS_MAX:
            break
        progress(f"batch {batch}", len(calls), planned)
        rows = [number % len(prompts) for number in range(len(calls) * batch, (len(calls) + 1) * batch)]
        found = predictor.predict([prompts[row] for row in rows], profile)
        calls.append(Times(found.model_ns, found.search_ns, found.combine_ns))
        checked = [(answer.blocks, row) for answer, row in zip(found.answers, rows, strict=True) if row < len(expected)]
        _require_same([blocks for blocks, _ in checked], [expected[row] for _, row in checked], predictor)
        neighbors.append([[int(sums.neighbors.max(initial=0)) for sums in answer.blocks] for answer in found.answers])
    progress(f"batch {batch}", len(calls), len(calls))
    by_block = np.concatenate(neighbors).mean(axis=0)
    return BatchSpeed(batch, tuple(calls), tuple(by_block.tolist()))


def _reference_sums(predictor: Predictor, prompts: Sequence[Tokens], profile: Profile) -> list[tuple[BlockSums, ...]]:
    """What the reference backend finds on the same device, and so for the same queries."""
    reference = Predictor(predictor.datastore, backend=REFERENCE, device=predictor.device, self_sums=False)
    return _sums(reference, prompts, profile)


def _sums(predictor: Predictor, prompts: Sequence[Tokens], profile: Profile) -> list[tuple[BlockSums, ...]]:
    return [answer.blocks for answer in predictor.predict(prompts, profile).answers]


def _require_same(
    found: list[tuple[BlockSums, ...]], expected: list[tuple[BlockSums, ...]], predictor: Predictor
) -> None:
    """Refuse sums that are not those of the reference, integer by integer."""
    wrong = sum(
        not all(
            np.array_equal(one.freq, other.freq) and np.array_equal(one.neighbors, other.neighbors)
            for one, other in zip(*blocks, strict=True)
        )
        for blocks in zip(found, expected, strict=True)
    )
    if wrong:
        path = predictor.datastore.path
        raise BackendError(
            f"the backend {predictor.backend} gives other sums than {REFERENCE} for {wrong} of {len(found)} prompts: "
            f"check the files with `ffnsearch verify {path}`; where they are whole, this is a bug of ffnsearch",
            reason="WRONG_SUMS",
            backend=predictor.backend,
        )

"""The one path from prompts to answers: tokens, queries, sums, distribution, evidence.

The service, the command line and every measurement call it.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ffnsearch_indexer.answer import lookup
from ffnsearch_indexer.answer.backends import AUTO, Choice, choose, look, open_indexes
from ffnsearch_indexer.answer.classes import choose_classes
from ffnsearch_indexer.answer.prediction import combine, hellinger, softmax
from ffnsearch_indexer.answer.profile import Profile
from ffnsearch_indexer.corpora.tokenizer import Tokens
from ffnsearch_indexer.errors import BackendError, DeviceError, PromptError
from ffnsearch_indexer.hardware.gpu import device_errors
from ffnsearch_indexer.hardware.threads import THREADS, shared_out
from ffnsearch_indexer.index.base import (
    Checkpoint,
    Index,
    Neighbors,
    RangeSums,
    exact_scores,
    levels_above,
    nobody_waits,
)
from ffnsearch_indexer.index.device import DeviceIndex
from ffnsearch_indexer.index.device_search import DeviceSearch
from ffnsearch_indexer.models.on_device import DeviceModel, DeviceQueries
from ffnsearch_indexer.models.queries import GivenQueries, Prompt, Queries, put_together, run_prompts
from ffnsearch_indexer.store.datastore import Datastore

Result = TypeVar("Result")

_log = logging.getLogger(__name__)


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


class Found(NamedTuple):
    """What the search found for B prompts, before a profile makes an answer of it.

    sums: for each block, [B, S, V] and [B, S] at the thresholds that were asked for. queries: [K, B, D] float16, what
    was searched for. logits: [B, V] float32, the model's own; zeros where queries were given. self_ids: for each
    prompt, the substring equal to its last L tokens, None where there is none. backend: the name of what searched.
    """

    sums: list[RangeSums]
    queries: NDArray[np.float16]
    logits: NDArray[np.float32]
    self_ids: list[int | None]
    model_ns: int
    search_ns: int
    backend: str


class RankedNeighbors(NamedTuple):
    """The neighbors of a prompt in one block, best first (equal scores by id). ids: [M] int64. scores: [M] float64."""

    ids: NDArray[np.int64]
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class SuffixClass:
    """A class of substrings that share a suffix, and which of them are neighbors.

    tokens: of the suffix, [T] uint16, 0 to L. members: how many substrings of the index have it. neighbors: those that
    are neighbors, at least one. freq: what follows the neighbors, together, [V] int64.
    """

    tokens: Tokens
    members: int
    neighbors: RankedNeighbors
    freq: NDArray[np.int64]


class Predictor:
    """Answers prompts from one datastore with one backend. One thread at a time may call it.

    backend, device: what searches now, never `auto`. Where the search is on a GPU, the model runs there too. Where the
    device was left to `auto` and the backend, named or not, also runs on the CPU, a GPU that fails is left for good:
    the call is answered again from its beginning, on the CPU. Elsewhere the call raises DeviceError.
    """

    def __init__(
        self,
        datastore: Datastore,
        *,
        backend: str = AUTO,
        device: str = AUTO,
        self_sums: bool = True,
        on_move: Callable[[], None] = lambda: None,
    ) -> None:
        """Choose what searches, and open it. on_move: called when the search has gone from a GPU to the CPU.

        self_sums: whether the sums of prompts that are substrings may be read where the snapshot has them; see
        `lookup`. Raises BackendError for a backend or a device that is unknown, or asked for and not there.
        """
        self.datastore = datastore
        self._self_sums = datastore.self_sums if self_sums else None
        self._wanted = backend, device
        self._there = look(datastore, backend, device)
        self._on_move = on_move
        choice = choose(backend, device, self._there)
        _log.info("%s: %s", datastore.path.name, choice.line)  # a log does not name places on the disk
        try:
            with device_errors():
                self._open(choice)
        except DeviceError as error:
            self._leave_device(error)

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
        profile.require_model(len(self._indexes), self.datastore.manifest.vocabulary_size)
        if not prompts:
            return Predictions([], 0, 0, 0)
        thresholds = profile.thresholds_by_block
        found = self.search(prompts, thresholds, exclude_self=exclude_self, checkpoint=checkpoint)
        searched = time.perf_counter_ns()
        distributions, has_support = combine(profile, [block.freq for block in found.sums], self.datastore.unigram)
        model = softmax(found.logits)
        distances = hellinger(distributions, model)
        answers = [
            Prediction(
                distribution=distributions[row] if has_support[row] else None,
                model=model[row],
                hellinger=float(distances[row]) if has_support[row] else None,
                blocks=tuple(
                    BlockSums(of_block, sums.freq[row], sums.neighbors[row])
                    for of_block, sums in zip(thresholds, found.sums, strict=True)
                ),
                used_tokens=min(len(prompt), self.datastore.window_tokens),
                self_id=found.self_ids[row],
            )
            for row, prompt in enumerate(prompts)
        ]
        return Predictions(answers, found.model_ns, found.search_ns, time.perf_counter_ns() - searched)

    def search(
        self,
        prompts: Sequence[Prompt],
        thresholds: Sequence[Sequence[float]],
        *,
        exclude_self: bool = False,
        checkpoint: Checkpoint = nobody_waits,
    ) -> Found:
        """Run at least one prompt and sum, in each block, the counts above each of its thresholds.

        Prompts are as for `predict`, or queries in their place, which no substring equals: `exclude_self` takes nothing
        from them. thresholds: for each of the K blocks, S of them, in any order. A block without any is not searched.
        """
        return self._or_on_cpu(lambda: self._search(prompts, thresholds, exclude_self, checkpoint))

    def _search(
        self,
        prompts: Sequence[Prompt],
        thresholds: Sequence[Sequence[float]],
        exclude_self: bool,
        checkpoint: Checkpoint,
    ) -> Found:
        started = time.perf_counter_ns()
        queries, self_ids = self._run(prompts)
        modelled = time.perf_counter_ns()
        sums = self._range_sums(queries.vectors, self_ids, thresholds, checkpoint)
        here = _fetched(queries)
        if exclude_self:
            for index, vectors, of_block, block_sums in zip(self._indexes, here.vectors, thresholds, sums, strict=True):
                _subtract(index, vectors, of_block, self_ids, block_sums)
        search_ns = time.perf_counter_ns() - modelled
        return Found(sums, *here, self_ids, modelled - started, search_ns, self.backend)

    def neighbors(
        self,
        prompt: Prompt,
        block: int,
        threshold: float,
        *,
        exclude_self: bool = False,
        checkpoint: Checkpoint = nobody_waits,
    ) -> RankedNeighbors:
        """List all neighbors of one prompt, or of a query in its place, in one block above a threshold, best first."""
        if not 0 <= block < len(self._indexes):
            raise PromptError(
                f"block {block} does not exist: the model has blocks 0 to {len(self._indexes) - 1}",
                reason="BLOCK_OUT_OF_RANGE",
                field="block",
            )

        def search() -> tuple[Neighbors, int | None]:
            queries, (self_id,) = self._run([prompt])
            vectors = _fetched(queries).vectors[block]
            return self._indexes[block].range_search(vectors, threshold, checkpoint=checkpoint), self_id

        found, self_id = self._or_on_cpu(search)
        ids, scores = found.ids, found.scores
        if exclude_self:
            others = ids != self_id
            ids, scores = ids[others], scores[others]
        order = np.lexsort((ids, -scores))
        return RankedNeighbors(ids[order], scores[order])

    def classes(self, ranked: RankedNeighbors, *, classes_max: int, min_share: float) -> list[SuffixClass]:
        """Explain neighbors by at most `classes_max` disjoint classes of substrings that share a suffix.

        Of each class at least a share of `min_share`, in (0, 1], are neighbors. Which are chosen: see `answer.classes`.
        Classes with most neighbors come first. A neighbor may be in none.
        """
        order, counts = self.datastore.suffix_order, self.datastore.counts
        chosen = choose_classes(ranked.ids, order, counts.vocabulary_size, classes_max=classes_max, min_share=min_share)
        classes = []
        for suffix_tokens, members, ranks in chosen:
            inside = RankedNeighbors(ranked.ids[ranks], ranked.scores[ranks])
            tokens = self.datastore.substring(int(inside.ids[0]))[self.datastore.window_tokens - suffix_tokens :]
            classes.append(SuffixClass(tokens, members, inside, counts.total(inside.ids)))
        return classes

    def _open(self, choice: Choice) -> None:
        self.choice = choice
        self.backend, self.device = choice.backend, choice.device
        self._indexes = open_indexes(self.datastore, choice.backend, device=choice.device)
        on_device = [index for index in self._indexes if isinstance(index, DeviceIndex)]
        self._device_search = DeviceSearch(on_device) if on_device else None
        self._device_model = None if self.device == "cpu" else self._model_on(self.device)
        self.approximate = self._indexes[0].approximate
        self.recall = min(index.recall for index in self._indexes)
        self._block_ns = list(range(len(self._indexes)))  # what each took the last time; deeper ones take longer

    def _model_on(self, device: str) -> DeviceModel:
        """The model on a device, in the precision in which it made the keys."""
        datastore = self.datastore
        precision = datastore.manifest.precision
        return DeviceModel(datastore.model, datastore.window_tokens, device=device, precision=precision)

    def _run(self, prompts: Sequence[Prompt]) -> tuple[Queries | DeviceQueries, list[int | None]]:
        """The queries of all prompts, those given among them; for each also the substring that it is, or None."""
        of_tokens = [prompt for prompt in prompts if not isinstance(prompt, GivenQueries)]
        if len(of_tokens) == len(prompts):
            return self._run_model(of_tokens)
        queries, found_ids = self._run_model(of_tokens) if of_tokens else (self._no_queries(), [])
        together = put_together(prompts, _fetched(queries))
        ids = iter(found_ids)
        self_ids = [None if isinstance(prompt, GivenQueries) else next(ids) for prompt in prompts]
        if self._device_model is None or self._device_search is None or self._self_sums is not None:
            return together, self_ids
        return DeviceQueries.brought(together, self._device_model.device), self_ids

    def _no_queries(self) -> Queries:
        """What the model says of no prompts."""
        manifest = self.datastore.manifest
        K, D, V = manifest.blocks, manifest.d_model, manifest.vocabulary_size
        return Queries(np.empty((K, 0, D), dtype=np.float16), np.empty((0, V), dtype=np.float32))

    def _run_model(self, prompts: Sequence[Tokens]) -> tuple[Queries | DeviceQueries, list[int | None]]:
        """Run the model where the search is; for each prompt also the substring that it is, or None.

        Queries stay on the device where the indexes take them there.
        """
        datastore, window_tokens = self.datastore, self.datastore.window_tokens
        queries: Queries | DeviceQueries
        if self._device_model is not None:
            queries = self._device_model.run_prompts(prompts)
        else:
            queries = run_prompts(datastore.packed_model, prompts, window_tokens, cache=datastore.prefix_cache)
        self_ids = datastore.find_all([prompt[-window_tokens:] for prompt in prompts])
        if self._self_sums is not None:
            queries = _fetched(queries)
            lookup.ask_with_keys(queries.vectors, datastore.keys, self_ids)
        elif self._device_search is None:
            queries = _fetched(queries)
        return queries, self_ids

    def _or_on_cpu(self, work: Callable[[], Result]) -> Result:
        """Do work; where it fails on a GPU that the CPU may replace, do it again there from its beginning."""
        with THREADS.all():
            try:
                with device_errors():
                    return work()
            except DeviceError as error:
                self._leave_device(error)
                self._on_move()
            return work()

    def _leave_device(self, error: DeviceError) -> None:
        """Choose again as if there were no GPU. Raises the error where there is no other choice."""
        try:
            choice = choose(*self._wanted, self._there._replace(no_cuda="the GPU was left"))
        except BackendError:
            raise error from None
        self._open(choice)
        _log.warning("%s: %s; %s", self.datastore.path.name, error.message, choice.line)

    def _range_sums(
        self,
        vectors: Any,
        self_ids: list[int | None],
        thresholds: Sequence[Sequence[float]],
        checkpoint: Checkpoint,
    ) -> list[RangeSums]:
        """Search the blocks side by side, each with its share of the threads: none waits for another at every tile.

        The block that took longest the last time begins, so that none is left to run alone at the end. vectors:
        [K, B, D] float16, an array, or a tensor on the device of the indexes, where all blocks are queued at once.
        """
        if self._device_search is not None and isinstance(vectors, torch.Tensor):
            return self._device_search.range_sums(vectors, thresholds, checkpoint)

        def search(block: int) -> RangeSums:
            started = time.perf_counter_ns()
            stored = self._self_sums[block] if self._self_sums else None
            asked = vectors[block], self_ids, thresholds[block]
            sums = lookup.range_sum(self._indexes[block], stored, *asked, checkpoint=checkpoint)
            self._block_ns[block] = time.perf_counter_ns() - started
            return sums

        order = sorted(range(len(self._indexes)), key=lambda block: -self._block_ns[block])
        with shared_out(len(order)) as pool:
            found = dict(zip(order, pool.map(search, order), strict=True))
            return [found[block] for block in range(len(self._indexes))]


def _fetched(queries: Queries | DeviceQueries) -> Queries:
    return queries.fetch() if isinstance(queries, DeviceQueries) else queries


def _subtract(
    index: Index,
    queries: NDArray[np.float16],
    thresholds: Sequence[float],
    excluded: list[int | None],
    sums: RangeSums,
) -> None:
    """Take one substring out of each row's sums, wherever it was counted: scores are exact, so this is too."""
    rows, ids = lookup.known(excluded)
    scores = exact_scores(queries, index.keys, rows, ids)
    for step, threshold in enumerate(thresholds):
        counted = np.flatnonzero(levels_above(scores, np.array([threshold])))
        entries, sizes = index.counts.entries(ids[counted])
        places = np.repeat(rows[counted], sizes), step, index.counts.tokens[entries]
        sums.freq[places] -= index.counts.counts[entries]  # no place comes twice: a row has each token once
        sums.neighbors[rows[counted], step] -= 1

"""How does one open snapshot answer a request? With its predictor, its profiles and the lists that are paged through.

Each kind of call is a generator: it checks its request, yields the work that the engine thread is to do, is sent
what that work gave, and returns the response. Its caller decides on which threads the two halves run.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_indexer.answer.predictor import Predictor, RankedNeighbors, SuffixClass
from ffnsearch_indexer.answer.profile import Profile, profiles_of
from ffnsearch_indexer.errors import CancelledError, DamageError, ProfileError
from ffnsearch_indexer.index.base import Checkpoint
from ffnsearch_indexer.models.queries import GivenQueries, Prompt
from ffnsearch_indexer.progress import Progress, silent
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_indexer.store.manifest import Manifest
from ffnsearch_service.answering.answers import Part, Times, combine_pieces
from ffnsearch_service.answering.batcher import Batch, Work
from ffnsearch_service.answering.call import Call
from ffnsearch_service.answering.pages import page_token
from ffnsearch_service.answering.priority import run_stepped_back
from ffnsearch_service.answering.prompt_replies import Writer, blank_result
from ffnsearch_service.answering.prompts import PromptReader
from ffnsearch_service.answering.ranked import RankedCache
from ffnsearch_service.answering.replies import class_message, info_message, neighbor_message
from ffnsearch_service.answering.requests import BlockSearch, ClassesJob, NeighborsJob, RequestReader
from ffnsearch_service.config import Limits
from ffnsearch_service.profiles import kind_number
from ffnsearch_service.version import software_version

LARGE_RESPONSE_BYTES, EXPLAINED_RESPONSE_BYTES = 64 * 1024, 16 * 1024
"""Responses that may take this much or more are written on a thread: smaller ones take up to two milliseconds. With the
contributions to each token, which take longer, the second bound counts: up to three milliseconds."""

_ENTRY_BYTES_MAX = 6
"""Upper bound of what a page needs for a neighbor beside its own bytes: the number of its field, and its length."""

WARM_UP_PROMPTS = {"cpu": (1, 16), "cuda": (1, 1, 17, 65)}
"""Prompts in the calls of a warm-up, by device: few and many take different compiled code, and a GPU records a call of
few when it is made again."""


class OpenSnapshot:
    """One snapshot, open. The engine thread alone runs its work; all else may be called from any thread.

    name: what requests call it. `close` waits until nothing uses it.
    """

    def __init__(self, predictor: Predictor, limits: Limits | None = None, *, name: str = "") -> None:
        """Take over a predictor and its datastore; `close` closes them."""
        self.name = name
        self.limits = limits or Limits()
        self.predictor = predictor
        self.datastore = predictor.datastore
        manifest = self.datastore.manifest
        self.profiles = profiles_of(manifest.profiles)
        self.reader = RequestReader(
            snapshot_id=manifest.snapshot_id,
            prompts=PromptReader(
                tokenizer=self.datastore.tokenizer,
                window_tokens=self.datastore.window_tokens,
                blocks=manifest.blocks,
                d_model=manifest.d_model,
                prompt_tokens_max=self.limits.prompt_tokens_max,
            ),
            profiles=self.profiles,
            default_profile=manifest.default_profile,
            limits=self.limits,
        )
        self._vocabulary = self.datastore.tokenizer.characters
        self._common = {name: self._common_to(profile, name) for name, profile in self.profiles.items()}
        self._info = self._describe()
        self._ranked = RankedCache(self.limits.ranked_lists_max, self.limits.ranked_bytes_max)
        self._changed = threading.Condition()
        self._users = 0
        self._is_closed = False

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        name: str = "",
        backend: str = "auto",
        device: str = "auto",
        check: Literal["all", "sizes"] = "all",
        limits: Limits | None = None,
        on_move: Callable[[], None] = lambda: None,
        progress: Progress = silent,
    ) -> "OpenSnapshot":
        """Open a snapshot directory. Raises SnapshotError for one that must not be opened, BackendError.

        on_move: called, on the thread of the search, when it has gone from a GPU to the CPU. progress: called with
        how much of the snapshot is read.
        """
        datastore = Datastore.open(path, check=check, progress=progress)
        try:
            predictor = Predictor(datastore, backend=backend, device=device, on_move=on_move)
            return cls(predictor, limits, name=name)
        except ProfileError as error:
            datastore.close()
            raise DamageError(f"the manifest of {path} has a profile that cannot be used: {error.message}") from None
        except BaseException:
            datastore.close()
            raise

    @property
    def manifest(self) -> Manifest:
        """What the snapshot says of itself."""
        return self.datastore.manifest

    @property
    def id(self) -> str:
        """Hash of the content."""
        return self.datastore.manifest.snapshot_id

    @property
    def backend(self) -> str:
        """The name of what searches now."""
        return self.predictor.backend

    @property
    def info(self) -> pb.GetInfoResponse:
        """A description of the snapshot and the limits. Not to be altered: all callers get the same message."""
        if self._info.backend != self.backend:
            self._info = self._describe()
        return self._info

    def warm_up(self) -> None:
        """Answer some prompts, so that no caller waits for compiled code to be loaded. Call it before all else."""
        profile = self.profiles[self.datastore.manifest.default_profile]
        prompt = self.datastore.substring(0)[1 - self.datastore.window_tokens :]  # is no substring, so it is searched

        def answer() -> None:
            for prompts in WARM_UP_PROMPTS[self.predictor.device]:
                self.predictor.predict([prompt] * prompts, profile)

        run_stepped_back(answer)

    def predict(self, request: pb.PredictRequest, call: Call) -> Generator[Work, Sequence[Part], pb.PredictResponse]:
        """Answer prompts. Raises FfnSearchError for a field at fault."""
        arrived_ns = time.perf_counter_ns()
        call.prompts = len(request.prompts)
        job = self.reader.predict_job(request)
        common = self._common[job.profile_name] if job.profile_name else self._common_to(job.profile, "")
        work = Work(
            call,
            [self._tokens_run(prompt) for prompt in job.runnable],
            self._answer,
            key=(self, common.thresholds, job.exclude_self),
            batch_prompts_max=common.prompts_max,
            job=job,
            is_heavy=job.response_bytes_max
            >= (EXPLAINED_RESPONSE_BYTES if job.include_contributions else LARGE_RESPONSE_BYTES),
        )
        tokenized_ns = time.perf_counter_ns()
        parts = yield work
        response = pb.PredictResponse()
        response.CopyFrom(common.response)
        writer = Writer(job, common.result, self._vocabulary, self.datastore.window_tokens, self.datastore.unigram)
        writer.write(response.results, parts)
        timings = response.timings
        timings.tokenize_ns = tokenized_ns - arrived_ns
        timings.queue_ns = work.waited_ns
        for part in parts:
            timings.model_ns += part.times.model_ns
            timings.search_ns += part.times.search_ns
            timings.combine_ns += part.times.combine_ns
            response.backend = part.backend
            response.batch_prompts = max(response.batch_prompts, part.times.prompts)
        timings.total_ns = time.perf_counter_ns() - arrived_ns
        call.timings = timings
        return response

    def list_neighbors(
        self, request: pb.ListNeighborsRequest, call: Call
    ) -> Generator[Work, Sequence[RankedNeighbors], pb.ListNeighborsResponse]:
        """List one page of neighbors. Raises FfnSearchError, as `predict` does."""
        job = self.reader.neighbors_job(request)
        (ranked,) = yield self._unshared_work(call, lambda check: self._rank(job.search, check), job.search)
        return self._page(job, ranked, call)

    def list_classes(
        self, request: pb.ListClassesRequest, call: Call
    ) -> Generator[Work, Sequence[tuple[RankedNeighbors, list[SuffixClass]]], pb.ListClassesResponse]:
        """Explain a list of neighbors by classes. Raises FfnSearchError, as `predict` does."""
        job = self.reader.classes_job(request)
        ((ranked, classes),) = yield self._unshared_work(call, lambda check: self._explain(job, check), job.search)
        return pb.ListClassesResponse(
            classes=[
                class_message(found, self.datastore.tokenizer, next_tokens_max=self.limits.top_n_default)
                for found in classes
            ],
            total_neighbors=len(ranked.ids),
            covered_neighbors=sum(len(found.neighbors.ids) for found in classes),
            threshold=job.search.threshold,
            min_share=job.min_share,
            snapshot_id=self.id,
        )

    @contextmanager
    def use(self) -> Iterator[None]:
        """Keep the snapshot open for the length of a `with`. Raises CancelledError where it is closed already."""
        with self._changed:
            if self._is_closed:
                raise CancelledError("the snapshot was closed: its caller has left")
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Wait until nothing uses it, then close the datastore. May be called twice; nothing else afterwards."""
        with self._changed:
            self._is_closed = True
            self._changed.wait_for(lambda: self._users == 0)
        self.datastore.close()

    def _answer(self, batch: Batch) -> list[Part]:
        with self.use():
            return self._search(batch)

    def _search(self, batch: Batch) -> list[Part]:
        """Search for all prompts of a batch together, and answer each piece with its own profile."""
        jobs = [piece.work.job for piece in batch.pieces]
        prompts = [
            prompt
            for job, piece in zip(jobs, batch.pieces, strict=True)
            for prompt in job.runnable[piece.first : piece.stop]
        ]
        assert len(prompts) == batch.prompts, "a piece is of the prompts that can be run"
        found = self.predictor.search(
            prompts, jobs[0].profile.thresholds_by_block, exclude_self=jobs[0].exclude_self, checkpoint=batch.check
        )
        searched_ns = time.perf_counter_ns()
        pieces = combine_pieces(jobs, [piece.prompts for piece in batch.pieces], found, self.datastore.unigram)
        times = Times(found.model_ns, found.search_ns, time.perf_counter_ns() - searched_ns, len(prompts))
        parts = [Part(answers, first, stop, times, found.backend) for answers, first, stop in pieces]
        return [
            part if piece.is_whole else part.detached(piece.work.job)
            for part, piece in zip(parts, batch.pieces, strict=True)
        ]

    def _common_to(self, profile: Profile, name: str) -> "_Common":
        sum_bytes = 8 * max(1, sum(map(len, profile.blocks))) * self.datastore.manifest.vocabulary_size
        return _Common(
            thresholds=tuple(profile.thresholds_by_block),
            response=pb.PredictResponse(
                snapshot_id=self.id,
                profile_name=name,
                backend=self.predictor.backend,
                approximate=self.predictor.approximate,
                recall=self.predictor.recall,
                profile_kind=kind_number(profile),
            ),
            result=blank_result(profile),
            prompts_max=max(1, self.limits.sums_bytes_max // sum_bytes),
        )

    def _describe(self) -> pb.GetInfoResponse:
        return info_message(
            self.datastore,
            self.profiles,
            self.limits,
            backend=self.predictor.backend,
            approximate=self.predictor.approximate,
            recall=self.predictor.recall,
            version=software_version(),
        )

    def _unshared_work(self, call: Call, run: Callable[[Checkpoint], Any], search: BlockSearch) -> Work:
        """Work of one prompt that shares no batch; writing its response reads from disk."""

        def in_use(batch: Batch) -> list[Any]:
            with self.use():
                return [run(batch.check)]

        return Work(call, [self._tokens_run(search.prompt)], in_use, is_heavy=True)

    def _tokens_run(self, prompt: Prompt) -> int:
        """How much a prompt counts towards the limit of a batch: queries, for which no model is run, as one token."""
        return 1 if isinstance(prompt, GivenQueries) else min(len(prompt), self.datastore.window_tokens)

    def _page(self, job: NeighborsJob, ranked: RankedNeighbors, call: Call) -> pb.ListNeighborsResponse:
        """Write one page; it ends early where the next neighbor would make it larger than a page may be.

        All bytes of the message count. The first neighbor is on it, however large.
        """
        total, place = len(ranked.ids), job.page.offset
        response = pb.ListNeighborsResponse(
            total_neighbors=total,
            threshold=job.search.threshold,
            snapshot_id=self.id,
            next_page_token=page_token(job.page.key, place),  # as long as the one that it will have
        )
        written_bytes = response.ByteSize()
        while place < min(total, job.page.offset + job.page.size):
            call.check()
            neighbor = neighbor_message(
                self.datastore,
                int(ranked.ids[place]),
                float(ranked.scores[place]),
                context_tokens=job.context_tokens,
                places_max=job.places_max,
            )
            written_bytes += neighbor.ByteSize() + _ENTRY_BYTES_MAX
            if written_bytes > self.limits.page_bytes_max and response.neighbors:
                break
            response.neighbors.append(neighbor)
            place += 1
        response.next_page_token = page_token(job.page.key, place) if place < total else ""
        return response

    def _explain(self, job: ClassesJob, check: Checkpoint) -> tuple[RankedNeighbors, list[SuffixClass]]:
        ranked = self._rank(job.search, check)
        check()
        return ranked, self.predictor.classes(ranked, classes_max=job.classes_max, min_share=job.min_share)

    def _rank(self, search: BlockSearch, check: Checkpoint) -> RankedNeighbors:
        ranked = self._ranked.get(search.key)
        if ranked is None:
            ranked = self.predictor.neighbors(
                search.prompt, search.block, search.threshold, exclude_self=search.exclude_self, checkpoint=check
            )
            self._ranked.put(search.key, ranked)
        return ranked


class _Common(NamedTuple):
    """What all calls with a profile have in common.

    response, result: without what was found, to be copied. prompts_max: as many prompts' sums as the budget holds.
    """

    thresholds: tuple[tuple[float, ...], ...]
    response: pb.PredictResponse
    result: pb.PromptResult
    prompts_max: int

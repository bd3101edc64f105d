"""The engine: owns the predictor and the one thread that runs it; takes request messages, returns response messages.

It knows nothing of sockets: the server calls it, and so does a command line that opens a snapshot by itself.
A request is checked and tokenised, and its response written, on the caller's thread; only the model and the search
run on the engine's. Calls run one after the other, in the order of their arrival.
"""

import importlib.metadata
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self, TypeVar

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_indexer.answer.predictor import Prediction, Predictor, RankedNeighbors, SuffixClass
from ffnsearch_indexer.answer.profile import Profile
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_service.call import Call
from ffnsearch_service.config import Limits
from ffnsearch_service.pages import page_token
from ffnsearch_service.profiles import kind_number
from ffnsearch_service.ranked import RankedCache
from ffnsearch_service.replies import class_message, info_message, neighbor_message, prompt_results
from ffnsearch_service.requests import BlockSearch, ClassesJob, NeighborsJob, PredictJob, RequestReader

Result = TypeVar("Result")


class Answers(NamedTuple):
    """The answers to the prompts of a job that can be run, and where the time on the engine's thread went."""

    answers: list[Prediction]
    started_ns: int
    model_ns: int
    search_ns: int
    combine_ns: int


class Engine:
    """Answers the calls of the wire contract from one snapshot. Any thread may call it; close it once, at the end."""

    def __init__(self, predictor: Predictor, limits: Limits | None = None) -> None:
        """Take over a predictor and its datastore; `close` closes them."""
        self.limits = limits or Limits()
        self._predictor = predictor
        self._datastore = predictor.datastore
        manifest = self._datastore.manifest
        self._profiles = {name: Profile.from_json(document) for name, document in manifest.profiles.items()}
        self._reader = RequestReader(
            snapshot_id=manifest.snapshot_id,
            tokenizer=self._datastore.tokenizer,
            window_tokens=self._datastore.window_tokens,
            blocks=manifest.blocks,
            profiles=self._profiles,
            default_profile=manifest.default_profile,
            limits=self.limits,
        )
        self._ranked = RankedCache(self.limits.ranked_lists_max, self.limits.ranked_bytes_max)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ffnsearch-engine")

    @classmethod
    def open(
        cls,
        snapshot: Path,
        *,
        backend: str = "tiles",
        check: Literal["all", "sizes"] = "all",
        limits: Limits | None = None,
    ) -> "Engine":
        """Open a snapshot directory. Raises SnapshotError for one that must not be opened, BackendError."""
        datastore = Datastore.open(snapshot, check=check)
        try:
            return cls(Predictor(datastore, backend=backend), limits)
        except BaseException:
            datastore.close()
            raise

    def predict(self, request: pb.PredictRequest, call: Call | None = None) -> pb.PredictResponse:
        """Answer prompts. Raises FfnSearchError: for a field at fault, or CancelledError once the call is over."""
        arrived_ns = time.perf_counter_ns()
        patience = call or Call()
        job = self._reader.predict_job(request)
        submitted_ns = time.perf_counter_ns()
        found = self._run(lambda: self._answer(job, patience), patience)
        manifest = self._datastore.manifest
        response = pb.PredictResponse(
            snapshot_id=manifest.snapshot_id,
            profile_name=job.profile_name,
            backend=self._predictor.backend,
            approximate=self._predictor.approximate,
            timings=pb.Timings(
                tokenize_ns=submitted_ns - arrived_ns,
                queue_ns=found.started_ns - submitted_ns,
                model_ns=found.model_ns,
                search_ns=found.search_ns,
                combine_ns=found.combine_ns,
            ),
            results=prompt_results(
                job,
                found.answers,
                self._datastore.tokenizer.characters,
                manifest.window_tokens,
                self._datastore.unigram,
            ),
            profile_kind=kind_number(job.profile),
        )
        response.timings.total_ns = time.perf_counter_ns() - arrived_ns
        return response

    def list_neighbors(self, request: pb.ListNeighborsRequest, call: Call | None = None) -> pb.ListNeighborsResponse:
        """List one page of neighbors. Raises FfnSearchError, as `predict` does."""
        patience = call or Call()
        job = self._reader.neighbors_job(request)
        ranked = self._run(lambda: self._rank(job.search, patience), patience)
        return self._page(job, ranked, patience)

    def list_classes(self, request: pb.ListClassesRequest, call: Call | None = None) -> pb.ListClassesResponse:
        """Explain a list of neighbors by classes. Raises FfnSearchError, as `predict` does."""
        patience = call or Call()
        job = self._reader.classes_job(request)
        ranked, classes = self._run(lambda: self._explain(job, patience), patience)
        return pb.ListClassesResponse(
            classes=[
                class_message(found, self._datastore.tokenizer, next_tokens_max=self.limits.top_n_default)
                for found in classes
            ],
            total_neighbors=len(ranked.ids),
            covered_neighbors=sum(len(found.neighbors.ids) for found in classes),
            threshold=job.search.threshold,
            min_share=job.min_share,
            snapshot_id=self._datastore.manifest.snapshot_id,
        )

    def get_info(self, request: pb.GetInfoRequest | None = None, call: Call | None = None) -> pb.GetInfoResponse:
        """Describe the snapshot and the limits; answers at once, whatever the engine is doing."""
        return info_message(
            self._datastore,
            self._profiles,
            self.limits,
            backend=self._predictor.backend,
            approximate=self._predictor.approximate,
            version=software_version(),
        )

    def close(self) -> None:
        """Wait for the running call, then close the datastore. No method may be called afterwards."""
        self._worker.shutdown(wait=True, cancel_futures=True)
        self._datastore.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, work: Callable[[], Result], call: Call) -> Result:
        """Run work on the engine's thread, once it is free, unless the call is over by then."""

        def checked() -> Result:
            call.check()
            return work()

        return self._worker.submit(checked).result()

    def _answer(self, job: PredictJob, call: Call) -> Answers:
        """Answer a job in groups of prompts whose sums fit the budget; an answer does not depend on its group."""
        started_ns = time.perf_counter_ns()
        prompts = job.runnable
        sum_bytes = 8 * max(1, job.steps) * self._datastore.manifest.vocabulary_size
        size = max(1, self.limits.sums_bytes_max // sum_bytes)
        groups = [
            self._predictor.predict(
                prompts[first : first + size], job.profile, exclude_self=job.exclude_self, checkpoint=call.check
            )
            for first in range(0, len(prompts), size)
        ]
        return Answers(
            answers=[answer for group in groups for answer in group.answers],
            started_ns=started_ns,
            model_ns=sum(group.model_ns for group in groups),
            search_ns=sum(group.search_ns for group in groups),
            combine_ns=sum(group.combine_ns for group in groups),
        )

    def _page(self, job: NeighborsJob, ranked: RankedNeighbors, call: Call) -> pb.ListNeighborsResponse:
        """Write one page; it ends early where the next neighbor would make it larger than a page may be."""
        total = len(ranked.ids)
        response = pb.ListNeighborsResponse(
            total_neighbors=total, threshold=job.search.threshold, snapshot_id=self._datastore.manifest.snapshot_id
        )
        written_bytes, place = 0, job.page.offset
        while place < min(total, job.page.offset + job.page.size):
            call.check()
            neighbor = neighbor_message(
                self._datastore,
                int(ranked.ids[place]),
                float(ranked.scores[place]),
                context_tokens=job.context_tokens,
                places_max=job.places_max,
            )
            written_bytes += neighbor.ByteSize()
            if written_bytes > self.limits.page_bytes_max and response.neighbors:
                break
            response.neighbors.append(neighbor)
            place += 1
        if place < total:
            response.next_page_token = page_token(job.page.key, place)
        return response

    def _explain(self, job: ClassesJob, call: Call) -> tuple[RankedNeighbors, list[SuffixClass]]:
        ranked = self._rank(job.search, call)
        call.check()
        return ranked, self._predictor.classes(ranked, classes_max=job.classes_max, min_share=job.min_share)

    def _rank(self, search: BlockSearch, call: Call) -> RankedNeighbors:
        ranked = self._ranked.get(search.key)
        if ranked is None:
            ranked = self._predictor.neighbors(
                search.prompt, search.block, search.threshold, exclude_self=search.exclude_self, checkpoint=call.check
            )
            self._ranked.put(search.key, ranked)
        return ranked


def software_version() -> str:
    """Version of the installed distribution, or `unknown` where it runs from a bare checkout."""
    try:
        return importlib.metadata.version("ffnsearch")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"

"""The calls of the wire contract, in Python: the same for a server and for a snapshot opened in this process."""

import itertools
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Unpack

from ffnsearch_indexer.progress import Progress, silent
from ffnsearch_service.client import many, reading
from ffnsearch_service.client.asking import (
    ClassesOptions,
    NeighborsOptions,
    PredictOptions,
    PromptLike,
    classes_request,
    info_request,
    neighbors_request,
    one_or_several,
    predict_request,
)
from ffnsearch_service.client.results import ClassList, Info, Neighbor, NeighborPage, PredictResult, PromptResult
from ffnsearch_service.closing import Closing


class Calls(Closing):
    """The calls of the wire contract, whoever answers them. A context manager; `close` may be called twice.

    Every method takes `timeout_s`, the time allowed for one call; without it, the client's own.
    Every method raises FfnSearchError.
    """

    def predict(
        self,
        prompts: PromptLike | Sequence[PromptLike],
        *,
        timeout_s: float | None = None,
        **options: Unpack[PredictOptions],
    ) -> PredictResult:
        """Answer one prompt or several, each text, token ids or Queries; one result for each, in their order."""
        return self._predict(one_or_several(prompts), timeout_s, options)

    def predict_many(
        self,
        prompts: Iterable[PromptLike],
        *,
        prompts_per_call: int = many.PROMPTS_PER_CALL,
        concurrency: int = many.CONCURRENCY,
        progress: Progress = silent,
        timeout_s: float | None = None,
        **options: Unpack[PredictOptions],
    ) -> Iterator[PromptResult]:
        """Answer any number of prompts, read as they are needed; one result for each, in their order.

        prompts_per_call: at least 1. concurrency: calls at a time, at most 256. progress: called with how many are
        answered, of a total that is 0 where `prompts` has no length. timeout_s: of each call. A prompt that is refused
        has status INVALID; whatever else a call fails with is raised after the results before it. Where an alias moves
        meanwhile, later prompts are answered by another snapshot: name the snapshot itself to have one for all.
        """

        def ask(batch: Sequence[PromptLike]) -> PredictResult:
            return self._predict(batch, timeout_s, options)

        return many.predict_many(
            ask, prompts, prompts_per_call=prompts_per_call, concurrency=concurrency, progress=progress
        )

    def neighbor_pages(
        self, prompt: PromptLike, block: int, *, timeout_s: float | None = None, **options: Unpack[NeighborsOptions]
    ) -> Iterator[NeighborPage]:
        """Page through the neighbors of a prompt in one block, a call a page, at least one page."""
        request = neighbors_request(prompt, block, options)
        while True:
            page = reading.neighbor_page(self._send("ListNeighbors", request, timeout_s))
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def neighbors(
        self, prompt: PromptLike, block: int, *, timeout_s: float | None = None, **options: Unpack[NeighborsOptions]
    ) -> Iterator[Neighbor]:
        """List the neighbors of a prompt in one block, best first; pages are fetched as they are needed."""
        pages = self.neighbor_pages(prompt, block, timeout_s=timeout_s, **options)
        return itertools.chain.from_iterable(page.neighbors for page in pages)

    def classes(
        self, prompt: PromptLike, block: int, *, timeout_s: float | None = None, **options: Unpack[ClassesOptions]
    ) -> ClassList:
        """Explain the neighbors of a prompt in one block by classes of substrings that share a suffix."""
        request = classes_request(prompt, block, options)
        return reading.class_list(self._send("ListClasses", request, timeout_s), block)

    def info(self, *, snapshot: str = "", timeout_s: float | None = None) -> Info:
        """Describe what is served, and within which limits. snapshot: name or alias."""
        return reading.info(self._send("GetInfo", info_request(snapshot), timeout_s))

    def _predict(
        self, prompts: Sequence[PromptLike], timeout_s: float | None, options: PredictOptions
    ) -> PredictResult:
        return reading.predict_result(self._send("Predict", predict_request(prompts, options), timeout_s))

    @abstractmethod
    def close(self) -> None:
        """Let go of the server or the snapshot."""

    @abstractmethod
    def _send(self, method: str, request: Any, timeout_s: float | None) -> Any:
        """Send a request message and return the response message."""

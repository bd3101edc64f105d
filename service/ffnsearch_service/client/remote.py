"""The clients of a server: a call in, arrays and typed exceptions out.

with Client("127.0.0.1:50051") as client:
    answer = client.predict("And only l", include_model=True)
    print(answer.results[0].distribution.tokens)
"""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

from ffnsearch.v1 import ffnsearch_pb2_grpc as pb_grpc
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
from ffnsearch_service.client.call import Caller
from ffnsearch_service.client.channel import AccessOptions, Bearer, open_async_channel, open_channel
from ffnsearch_service.client.interface import Calls
from ffnsearch_service.client.readiness import health_stub, wait_until_ready, wait_until_ready_async
from ffnsearch_service.client.results import ClassList, Info, Neighbor, NeighborPage, PredictResult, PromptResult
from ffnsearch_service.config import CALL_TIMEOUT_S


class Client(Calls):
    """Calls a server at `address`, `host:port`. Safe to share between threads. Failed calls raise ServiceError.

    timeout_s: time allowed for a call, all tries together, unless the call gives its own. retry_overloaded: send a call
    again that the server refused for being busy, when it asks to be asked again, within the call's time; calls that
    find no server (UNAVAILABLE) are always sent again. The other options are those of AccessOptions, which raise
    CredentialsError; what is no address raises AddressError. The connection is made by the first call. It is direct:
    proxies in the environment are not used.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        retry_overloaded: bool = False,
        **access: Unpack[AccessOptions],
    ) -> None:
        self.address = address
        bearer = Bearer(address, access)
        self._caller = Caller(address, bearer, timeout_s=timeout_s, retry_overloaded=retry_overloaded)
        self._channel = open_channel(address, access)
        self._stub = pb_grpc.PredictionServiceStub(self._channel)
        self._health = health_stub(self._channel)

    def wait_for_ready(self, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Return once the server says that it serves. Raises DeadlineExceededError if it does not within `timeout_s`.

        Raises ServiceError at once for what waiting does not mend, such as a token that is not accepted.
        """
        wait_until_ready(self._caller, self._health, timeout_s)

    def close(self) -> None:
        """Close the connection; calls of other threads end, too."""
        self._caller.close()
        self._channel.close()

    def _send(self, method: str, request: Any, timeout_s: float | None) -> Any:
        return self._caller.call(getattr(self._stub, method), request, timeout_s)


class AsyncClient:
    """`Client` for asyncio: the same methods, awaited. Belongs to the event loop that it is made in."""

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        retry_overloaded: bool = False,
        **access: Unpack[AccessOptions],
    ) -> None:
        self.address = address
        bearer = Bearer(address, access)
        self._caller = Caller(address, bearer, timeout_s=timeout_s, retry_overloaded=retry_overloaded)
        self._channel = open_async_channel(address, access)
        self._stub = pb_grpc.PredictionServiceStub(self._channel)
        self._health = health_stub(self._channel)

    async def predict(
        self,
        prompts: PromptLike | Sequence[PromptLike],
        *,
        timeout_s: float | None = None,
        **options: Unpack[PredictOptions],
    ) -> PredictResult:
        """Answer one prompt or several, each text or token ids; one result for each, in their order."""
        return await self._predict(one_or_several(prompts), timeout_s, options)

    def predict_many(
        self,
        prompts: Iterable[PromptLike] | AsyncIterable[PromptLike],
        *,
        prompts_per_call: int = many.PROMPTS_PER_CALL,
        concurrency: int = many.CONCURRENCY,
        progress: Progress = silent,
        timeout_s: float | None = None,
        **options: Unpack[PredictOptions],
    ) -> AsyncIterator[PromptResult]:
        """Answer any number of prompts, as `Client.predict_many` does; they may come from an asynchronous iterable."""

        async def ask(batch: Sequence[PromptLike]) -> PredictResult:
            return await self._predict(batch, timeout_s, options)

        return many.predict_many_async(
            ask, prompts, prompts_per_call=prompts_per_call, concurrency=concurrency, progress=progress
        )

    async def neighbor_pages(
        self, prompt: PromptLike, block: int, *, timeout_s: float | None = None, **options: Unpack[NeighborsOptions]
    ) -> AsyncIterator[NeighborPage]:
        """Page through the neighbors of a prompt in one block, a call a page, at least one page."""
        request = neighbors_request(prompt, block, options)
        while True:
            page = reading.neighbor_page(await self._send("ListNeighbors", request, timeout_s))
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def neighbors(
        self, prompt: PromptLike, block: int, *, timeout_s: float | None = None, **options: Unpack[NeighborsOptions]
    ) -> AsyncIterator[Neighbor]:
        """List the neighbors of a prompt in one block, best first; pages are fetched as they are needed."""
        async for page in self.neighbor_pages(prompt, block, timeout_s=timeout_s, **options):
            for neighbor in page.neighbors:
                yield neighbor

    async def classes(
        self, prompt: PromptLike, block: int, *, timeout_s: float | None = None, **options: Unpack[ClassesOptions]
    ) -> ClassList:
        """Explain the neighbors of a prompt in one block by classes of substrings that share a suffix."""
        request = classes_request(prompt, block, options)
        return reading.class_list(await self._send("ListClasses", request, timeout_s), block)

    async def info(self, *, snapshot: str = "", timeout_s: float | None = None) -> Info:
        """Describe what is served, and within which limits. snapshot: name or alias."""
        return reading.info(await self._send("GetInfo", info_request(snapshot), timeout_s))

    async def wait_for_ready(self, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Return once the server says that it serves, as `Client.wait_for_ready` does."""
        await wait_until_ready_async(self._caller, self._health, timeout_s)

    async def close(self) -> None:
        """Close the connection; calls of other tasks end, too."""
        self._caller.close()
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _predict(
        self, prompts: Sequence[PromptLike], timeout_s: float | None, options: PredictOptions
    ) -> PredictResult:
        return reading.predict_result(await self._send("Predict", predict_request(prompts, options), timeout_s))

    async def _send(self, method: str, request: Any, timeout_s: float | None) -> Any:
        return await self._caller.call_async(getattr(self._stub, method), request, timeout_s)

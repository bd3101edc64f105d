"""The clients: a call in, arrays and typed exceptions out, the same for a server and for a snapshot opened here.

with Client("127.0.0.1:50051") as client:
    answer = client.predict("And only l", include_model=True)
    print(answer.results[0].distribution.tokens)
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import grpc

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch.v1 import ffnsearch_pb2_grpc as pb_grpc
from ffnsearch_service import reading
from ffnsearch_service.asking import (
    ClassesOptions,
    NeighborsOptions,
    PredictOptions,
    PromptLike,
    classes_request,
    neighbors_request,
    predict_request,
)
from ffnsearch_service.config import Limits
from ffnsearch_service.results import ClassList, Info, Neighbor, NeighborPage, PredictResult
from ffnsearch_service.status import service_error

TIMEOUT_S = 30.0
"""How long a call may take where the caller does not say: gRPC's own default is for ever."""


class Calls(ABC):
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
        """Answer one prompt or several, each text or token ids; one result for each, in their order."""
        return reading.predict_result(self._send("Predict", predict_request(prompts, options), timeout_s))

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

    def info(self, *, timeout_s: float | None = None) -> Info:
        """Tell what is served, and within which limits."""
        return reading.info(self._send("GetInfo", pb.GetInfoRequest(), timeout_s))

    @abstractmethod
    def close(self) -> None:
        """Let go of the server or the snapshot."""

    @abstractmethod
    def _send(self, method: str, request: Any, timeout_s: float | None) -> Any:
        """Send a request message and return the response message."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Client(Calls):
    """Calls a server at `address`, `host:port`. Safe to share between threads. Failed calls raise ServiceError.

    The connection is made by the first call. It is direct: proxies in the environment are not used.
    """

    def __init__(self, address: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(address, options=_channel_options())
        self._stub = pb_grpc.PredictionServiceStub(self._channel)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _send(self, method: str, request: Any, timeout_s: float | None) -> Any:
        try:
            return getattr(self._stub, method)(request, timeout=_or_default(timeout_s, self._timeout_s))
        except grpc.RpcError as error:
            raise service_error(error, self.address) from None


class AsyncClient:
    """`Client` for asyncio: the same methods, awaited. Belongs to the event loop that it is made in."""

    def __init__(self, address: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._channel = grpc.aio.insecure_channel(address, options=_channel_options())
        self._stub = pb_grpc.PredictionServiceStub(self._channel)

    async def predict(
        self,
        prompts: PromptLike | Sequence[PromptLike],
        *,
        timeout_s: float | None = None,
        **options: Unpack[PredictOptions],
    ) -> PredictResult:
        """Answer one prompt or several, each text or token ids; one result for each, in their order."""
        return reading.predict_result(await self._send("Predict", predict_request(prompts, options), timeout_s))

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

    async def info(self, *, timeout_s: float | None = None) -> Info:
        """Tell what is served, and within which limits."""
        return reading.info(await self._send("GetInfo", pb.GetInfoRequest(), timeout_s))

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _send(self, method: str, request: Any, timeout_s: float | None) -> Any:
        try:
            return await getattr(self._stub, method)(request, timeout=_or_default(timeout_s, self._timeout_s))
        except grpc.RpcError as error:
            raise service_error(error, self.address) from None


def _channel_options() -> list[tuple[str, int]]:
    limits = Limits()
    return [
        ("grpc.max_send_message_length", -1),  # the server's limit counts, and its refusal says so
        ("grpc.max_receive_message_length", limits.response_bytes_max),
        ("grpc.enable_http_proxy", 0),
    ]


def _or_default(timeout_s: float | None, default_s: float) -> float:
    return default_s if timeout_s is None else timeout_s

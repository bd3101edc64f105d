"""The engine: the one thread that runs the models and the search, and two ways to get an answer from it.

It knows nothing of sockets. Request messages go in and response messages come out: `call` waits for the answer, for a
command line that opens a snapshot by itself; `answer` is for an event loop, takes and gives bytes, and does on the
loop only what is quick. Both drive the generators of `opened.py`, and share one queue.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_indexer.progress import Progress, silent
from ffnsearch_service.answering.batcher import Batch, Batcher, Work
from ffnsearch_service.answering.call import Call
from ffnsearch_service.answering.mailbox import Mailbox
from ffnsearch_service.answering.opened import OpenSnapshot
from ffnsearch_service.answering.priority import step_back
from ffnsearch_service.closing import Closing
from ffnsearch_service.config import DEFAULT_ALIAS, Limits
from ffnsearch_service.errors import AbsentError, RequestError

Lease = Callable[[str], AbstractContextManager[OpenSnapshot]]
"""Gives the open snapshot of a name for the length of one request; raises FfnSearchError where there is none."""

Observer = Callable[[Batch, Sequence[Any]], None]
"""Called with each batch that was answered, and its parts, on the engine's thread: it has to be quick."""

Result = TypeVar("Result")

LARGE_REQUEST_BYTES = 2048
"""Requests of this size or more are read and checked on a thread: it takes half a millisecond for some 60 prompts."""

READERS = 2
"""Threads that check large requests and write large responses: they share an interpreter, so more gain nothing."""

_log = logging.getLogger(__name__)


class Method(NamedTuple):
    """One kind of call: what its requests are, and who answers them."""

    request: type[Message]
    begin: Callable[[OpenSnapshot, Any, Call], Generator[Work, Any, Message]]


METHODS = {
    "Predict": Method(pb.PredictRequest, lambda snapshot, *asked: snapshot.predict(*asked)),
    "ListNeighbors": Method(pb.ListNeighborsRequest, lambda snapshot, *asked: snapshot.list_neighbors(*asked)),
    "ListClasses": Method(pb.ListClassesRequest, lambda snapshot, *asked: snapshot.list_classes(*asked)),
}


class Engine(Closing):
    """Answers the calls of the wire contract. Any thread may call it; close it once, at the end.

    batcher: what waits and what runs, for reading only.
    """

    def __init__(
        self, lease: Lease, limits: Limits | None = None, *, on_close: Callable[[], None] | None = None
    ) -> None:
        """Answer from the snapshots that are leased. on_close: called when no work runs any more."""
        self.limits = limits or Limits()
        self.lease = lease
        self.batcher = Batcher(self.limits)
        self._on_close = on_close
        self._observers: list[Observer] = []
        self._mailbox: Mailbox | None = None
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="ffnsearch-reader")
        self._thread = threading.Thread(target=self._work, name="ffnsearch-engine", daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, snapshot: OpenSnapshot) -> "Engine":
        """Answer from one snapshot, by its own limits; `close` closes it."""
        return cls(_sole(snapshot), snapshot.limits, on_close=snapshot.close)

    @classmethod
    def open(
        cls,
        snapshot: Path,
        *,
        backend: str = "auto",
        device: str = "auto",
        check: Literal["all", "sizes"] = "all",
        limits: Limits | None = None,
        progress: Progress = silent,
    ) -> "Engine":
        """Open one snapshot directory. Raises SnapshotError for one that must not be opened, BackendError."""
        return cls.of(
            OpenSnapshot.open(snapshot, backend=backend, device=device, check=check, limits=limits, progress=progress)
        )

    def predict(self, request: pb.PredictRequest, call: Call | None = None) -> pb.PredictResponse:
        """Answer prompts. Raises FfnSearchError: for a field at fault, or CancelledError once the call is over."""
        return self.call("Predict", request, call)  # type: ignore[return-value]

    def list_neighbors(self, request: pb.ListNeighborsRequest, call: Call | None = None) -> pb.ListNeighborsResponse:
        """List one page of neighbors. Raises FfnSearchError, as `predict` does."""
        return self.call("ListNeighbors", request, call)  # type: ignore[return-value]

    def list_classes(self, request: pb.ListClassesRequest, call: Call | None = None) -> pb.ListClassesResponse:
        """Explain a list of neighbors by classes. Raises FfnSearchError, as `predict` does."""
        return self.call("ListClasses", request, call)  # type: ignore[return-value]

    def get_info(self, request: pb.GetInfoRequest | None = None) -> pb.GetInfoResponse:
        """Describe the snapshot and the limits; answers at once, whatever the engine is doing."""
        with self.lease(request.snapshot if request else "") as snapshot:
            return snapshot.info

    def call(self, method: str, request: Any, call: Call | None = None) -> Message:
        """Answer any call of the wire contract, and wait for it on the caller's own thread. Raises FfnSearchError."""
        if method == "GetInfo":
            return self.get_info(request)
        patience = call or Call()
        self.batcher.enter()
        try:
            with self.lease(request.snapshot) as snapshot:
                steps = METHODS[method].begin(snapshot, request, patience)
                work = next(steps)
                ended = threading.Event()
                self.batcher.submit(work, ended.set)
                if not ended.wait(patience.remaining_s):
                    self.batcher.drop(work)
                return _finish(steps, work)
        finally:
            self.batcher.leave()

    async def answer(self, method: str, data: bytes, call: Call) -> bytes:
        """Answer one of METHODS: serialized request in, serialized response out. Raises FfnSearchError.

        Where the task is cancelled, the call is over. For an event loop: what takes long is done elsewhere.
        """
        kind, begin = METHODS[method]
        is_large = len(data) >= LARGE_REQUEST_BYTES
        self.batcher.enter()
        try:
            request = await self._elsewhere(None, _read, kind, data) if is_large else _read(kind, data)
            call.snapshot = request.snapshot
            with self.lease(request.snapshot) as snapshot:
                steps = begin(snapshot, request, call)
                work = await self._elsewhere(snapshot, next, steps) if is_large else next(steps)
                await self._ended(work)
                return await self._elsewhere(snapshot, _write, steps, work) if work.is_heavy else _write(steps, work)
        except asyncio.CancelledError:
            call.cancel()
            raise
        finally:
            self.batcher.leave()

    def observe(self, observer: Observer) -> None:
        """Call an observer with every batch from now on."""
        self._observers.append(observer)

    def close(self) -> None:
        """End what waits, wait for what runs, then close what is open. No method may be called afterwards."""
        self.batcher.close()
        self._thread.join()
        self._readers.shutdown()
        if self._on_close is not None:
            self._on_close()

    async def _ended(self, work: Work) -> None:
        """Wait until work has ended; it ends now where the task is cancelled."""
        loop = asyncio.get_running_loop()
        if self._mailbox is None or self._mailbox.loop is not loop:
            self._mailbox = Mailbox(loop)
        future: asyncio.Future[None] = loop.create_future()
        self.batcher.submit(work, partial(self._mailbox.put, future))
        try:
            await future
        except asyncio.CancelledError:
            work.call.cancel()
            self.batcher.drop(work)
            raise

    async def _elsewhere(self, snapshot: OpenSnapshot | None, step: Callable[..., Result], *arguments: Any) -> Result:
        """Run a step that takes too long for the loop on a thread; the snapshot stays open meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, _using, snapshot, step, *arguments)

    def _work(self) -> None:
        """Run one batch after the other, until the end: what the engine's thread does."""
        step_back()
        while self._run_next():
            pass  # while the next call waits, nothing refers to the previous batch and its snapshot

    def _run_next(self) -> bool:
        """Run one batch as soon as there is one; False at the end."""
        batch = self.batcher.take()
        if batch is None:
            return False
        try:
            parts = batch.run()
        except Exception as error:
            self.batcher.fail(batch, error)
        else:
            self.batcher.complete(batch, parts)
            self._report(batch, parts)
        return True

    def _report(self, batch: Batch, parts: Sequence[Any]) -> None:
        for observer in self._observers:
            try:
                observer(batch, parts)
            except Exception:
                _log.exception("an observer of batches failed")


def _read(kind: type[Message], data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise RequestError(
            f"the request is not a {kind.DESCRIPTOR.full_name}: check that both sides have the same .proto file",
            reason="MALFORMED_REQUEST",
        ) from None


def _finish(steps: Generator[Work, Any, Message], work: Work) -> Message:
    """Write the response to work that has ended, or raise the error that it ended with."""
    if work.error is not None:
        raise work.error
    try:
        steps.send(work.parts)
    except StopIteration as end:
        response: Message = end.value
        return response
    raise AssertionError("a call has one piece of work")


def _write(steps: Generator[Work, Any, Message], work: Work) -> bytes:
    return _finish(steps, work).SerializeToString()


def _using(snapshot: OpenSnapshot | None, step: Callable[..., Result], *arguments: Any) -> Result:
    with snapshot.use() if snapshot else nullcontext():
        return step(*arguments)


def _sole(snapshot: OpenSnapshot) -> Lease:
    """Lease the one snapshot that there is; it stays open until the engine closes it."""
    held = nullcontext(snapshot)

    def lease(name: str) -> AbstractContextManager[OpenSnapshot]:
        if name not in ("", DEFAULT_ALIAS, snapshot.name):
            raise AbsentError(
                f"snapshot: there is none with the name {name[:80]!r}: leave it out to ask the one that is open",
                reason="SNAPSHOT_NOT_FOUND",
                field="snapshot",
            )
        return held

    return lease

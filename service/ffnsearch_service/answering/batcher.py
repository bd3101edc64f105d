"""What runs next? The bounded queue in front of the one engine thread.

Calls bring work, the engine thread takes batches: whatever waits when it is free, with nothing waited for. Work of
equal keys shares a batch. A batch gives each work a piece of at most so many prompts, in the order of the queue, and
then what room is left, in the same order. Work that is not done yet goes to the end of the queue. So the first in the
queue is in every batch, and no work waits for more batches than there is work before it, however large that is.

Work that cannot be expected to be done before its caller's deadline is refused at the door: taken in, it would push
back other work, and be thrown away at the deadline, often after the engine has worked on it.

A state machine without threads of its own: it holds what waits and what runs, under one lock.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ffnsearch_indexer.errors import CancelledError
from ffnsearch_service.answering.backlog import Backlog
from ffnsearch_service.answering.call import Call
from ffnsearch_service.answering.pace import Pace
from ffnsearch_service.config import Limits
from ffnsearch_service.errors import OverloadedError, ShuttingDownError

RETRY_UNMEASURED_S = 1.0
"""How long a refused caller is asked to wait while no batch has been measured yet."""

RETRY_MIN_S = 0.01
"""Shortest time that a refused caller is asked to wait: sending a call takes as long."""

WAIT_SHARE_MAX = 0.3
"""Share of a caller's time that may go into the expected wait: what is left is for batches that are slower than the
last ones, and for writing the answer."""


@dataclass(eq=False)
class Work:
    """What one call wants of the engine thread. One thread at a time has it: the caller's, or the batcher.

    call: says how long its caller waits. prompt_tokens: how many tokens each prompt has; at least one prompt. run:
    returns one part for each piece of a batch of such work. key: work with equal keys may share a batch; by default it
    shares none. batch_prompts_max: most prompts in a batch of this key, the same for equal keys; by default
    one. job: what `run` needs to know. is_heavy: whether writing the response takes long.

    Once it has ended: parts, what each of its pieces gave, in order, or error, why it gave none. waited_ns: time in the
    queue, before its first piece and between pieces.
    """

    call: Call
    prompt_tokens: Sequence[int]
    run: Callable[["Batch"], Sequence[Any]]
    key: Hashable = field(default_factory=object)
    batch_prompts_max: int = 1
    job: Any = None
    is_heavy: bool = False

    parts: list[Any] = field(default_factory=list, init=False)
    error: Exception | None = field(default=None, init=False)
    waited_ns: int = field(default=0, init=False)
    _on_end: Callable[[], None] | None = field(default=None, init=False, repr=False)
    _taken: int = field(default=0, init=False)
    _since_ns: int = field(default=0, init=False)

    @property
    def left(self) -> int:
        """Prompts that have not been in a batch."""
        return len(self.prompt_tokens) - self._taken


class Piece(NamedTuple):
    """Consecutive prompts of one work: `first` to `stop`, exclusive."""

    work: Work
    first: int
    stop: int

    @property
    def prompts(self) -> int:
        """How many."""
        return self.stop - self.first

    @property
    def is_whole(self) -> bool:
        """Whether these are all prompts of the work."""
        return self.prompts == len(self.work.prompt_tokens)


class Batch:
    """Pieces that run together, one of each work, at least one. Made by the batcher."""

    def __init__(self, pieces: Sequence[Piece], started_ns: int) -> None:
        self.pieces = pieces
        self.started_ns = started_ns
        self.prompts = sum(piece.prompts for piece in pieces)
        self._patient = 0

    def run(self) -> Sequence[Any]:
        """Do the work: one part for each piece."""
        return self.pieces[0].work.run(self)

    def check(self) -> None:
        """Raise CancelledError once no caller in the batch waits any more. The search's checkpoint; any thread."""
        patient = self._patient  # read once: other threads check at the same time, and move it on
        while (error := self.pieces[patient].work.call.over()) is not None:
            patient += 1
            if patient == len(self.pieces):
                raise error
        self._patient = patient  # a call that is over stays so: those before it need no second look


class Batcher:
    """Holds the work that waits, within limits, and forms batches of it. Any thread may call any method.

    Every work that was taken in ends exactly once: answered, failed, dropped or closed. Its `on_end` is then called,
    without any lock held, by the thread that ended it.
    """

    def __init__(self, limits: Limits, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        """Begin empty. clock: gives nanoseconds, which only grow."""
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._queue: deque[Work] = deque()
        self._running: Batch | None = None
        self._calls = 0
        self._backlog = Backlog(limits.piece_prompts_max)
        self._is_closed = False
        self._pace = Pace()

    @property
    def calls(self) -> int:
        """Calls that have entered and not left."""
        return self._calls

    @property
    def waiting_calls(self) -> int:
        """Calls of which at least one prompt waits."""
        return len(self._queue)

    @property
    def waiting_prompts(self) -> int:
        """Prompts that wait; those of the running batch do not."""
        return self._backlog.load.prompts

    def enter(self) -> None:
        """Take a place for a call, before anything is done for it. Raises OverloadedError where none is free."""
        with self._lock:
            self._require_open()
            limit = self._limits.calls_max
            if self._calls >= limit:
                raise self._refusal(f"{limit} calls wait or run, the most that are taken", calls_max=limit)
            self._calls += 1

    def leave(self) -> None:
        """Give a place back; once for each `enter`."""
        with self._lock:
            assert self._calls > 0, "nobody has entered"
            self._calls -= 1

    def submit(self, work: Work, on_end: Callable[[], None]) -> None:
        """Put new work at the end of the queue.

        Raises OverloadedError where its prompts have no room, or would be answered too late for the caller.
        """
        assert work.prompt_tokens, "work has at least one prompt"
        with self._lock:
            self._require_open()
            waiting, more, limit = self.waiting_prompts, work.left, self._limits.queue_prompts_max
            if waiting + more > limit:
                raise self._refusal(
                    f"{waiting} prompts wait, and {more} more pass the limit of {limit}",
                    queue_prompts_max=limit,
                )
            self._require_time(work)
            work._on_end = on_end
            work._since_ns = self._clock()
            self._append(work)
            self._changed.notify()

    def take(self, *, wait: bool = True) -> Batch | None:
        """Form the next batch, as soon as there is work. Returns None once closed; without `wait`, also if none waits.

        The previous batch must have ended. Work whose call is over ends here without having run.
        """
        batch = None
        is_last = False
        while batch is None and not is_last:
            with self._lock:
                assert self._running is None, "a batch runs already"
                while wait and not self._queue and not self._is_closed:
                    self._changed.wait()
                is_last = self._is_closed or not wait
                ended = self._let_go()
                batch = self._running = self._form() if self._queue else None
            _tell(ended)
        return batch

    def complete(self, batch: Batch, parts: Sequence[Any]) -> None:
        """End the running batch with one part for each piece. Work that has had its last part ends."""
        with self._lock:
            self._pace.measure(batch.prompts, self._stop(batch))
            ended = []
            for piece, part in zip(batch.pieces, parts, strict=True):
                piece.work.parts.append(part)
                if piece.stop == len(piece.work.prompt_tokens):
                    ended.append(_settle(piece.work))
        _tell(ended)

    def fail(self, batch: Batch, error: Exception) -> None:
        """End the running batch, and all work that has a piece in it, with an error."""
        with self._lock:
            spent_ns = self._stop(batch)
            if spent_ns > self._pace.ns(batch.prompts, 1):  # it would have taken at least that
                self._pace.measure(batch.prompts, spent_ns)
            ended = [_settle(piece.work, piece.work.call.over() or error) for piece in batch.pieces]
            for piece in batch.pieces:
                self._forget(piece.work)
        _tell(ended)

    def drop(self, work: Work) -> None:
        """End work now because its caller has left. A piece that is running runs on; work that has ended stays so."""
        with self._lock:
            ended = [_settle(work, work.call.over() or CancelledError("the caller has cancelled the call"))]
            self._forget(work)
        _tell(ended)

    def close(self) -> None:
        """Take in no more work, and end all that waits; the running batch may go on. May be called twice."""
        with self._lock:
            self._is_closed = True
            ended = [_settle(work, ShuttingDownError()) for work in self._queue]
            self._queue.clear()
            self._backlog = Backlog(self._limits.piece_prompts_max)
            self._changed.notify_all()
        _tell(ended)

    def _let_go(self) -> list[Callable[[], None] | None]:
        """Take work whose call is over out of the queue. Returns its callbacks."""
        over = [(work, error) for work in self._queue if (error := work.call.over()) is not None]
        for work, _ in over:
            self._forget(work)
        return [_settle(work, error) for work, error in over]

    def _form(self) -> Batch:
        """Choose the next batch's pieces, and put work that is not done yet at the end of the queue."""
        stops = self._share()
        now_ns = self._clock()
        batch = Batch([Piece(work, work._taken, stop) for work, stop in stops.items()], now_ns)
        for work, stop in stops.items():
            self._backlog.remove(work.key, work.left)
            work.waited_ns += now_ns - work._since_ns
            work._taken = stop
        self._queue = deque(work for work in self._queue if work not in stops)
        for work in stops:
            if work.left:
                self._append(work)
        return batch

    def _append(self, work: Work) -> None:
        """Put work at the end of the queue."""
        self._queue.append(work)
        self._backlog.add(work.key, work.left, self._batch_prompts_max(work))

    def _share(self) -> dict[Work, int]:
        """For each work in the next batch, in the order of the queue, the prompt up to which it is taken, exclusive."""
        head, limits = self._queue[0], self._limits
        members = [work for work in self._queue if work.key == head.key]
        stops: dict[Work, int] = {}
        prompts_left = self._batch_prompts_max(head)
        tokens_left = limits.batch_tokens_max
        for piece_prompts_max in (limits.piece_prompts_max, prompts_left):
            for work in members:
                begin = stop = stops.get(work, work._taken)
                end = min(len(work.prompt_tokens), begin + min(piece_prompts_max, prompts_left))
                while stop < end and (
                    work.prompt_tokens[stop] <= tokens_left or (work is head and stop == work._taken)
                ):
                    tokens_left -= work.prompt_tokens[stop]
                    stop += 1
                if stop > begin:
                    stops[work] = stop
                    prompts_left -= stop - begin
            if all(stop == len(work.prompt_tokens) for work, stop in stops.items()):
                break
        return stops

    def _stop(self, batch: Batch) -> int:
        """Clear the running batch. Returns its duration in nanoseconds."""
        assert batch is self._running, "another batch runs"
        self._running = None
        now_ns = self._clock()
        for piece in batch.pieces:
            piece.work._since_ns = now_ns
        return now_ns - batch.started_ns

    def _forget(self, work: Work) -> None:
        """Take work out of the queue, where it is there."""
        if work in self._queue:
            self._queue.remove(work)
            self._backlog.remove(work.key, work.left)

    def _batch_prompts_max(self, work: Work) -> int:
        """Most prompts in a batch with this work."""
        return min(self._limits.batch_prompts_max, work.batch_prompts_max)

    def _require_open(self) -> None:
        if self._is_closed:
            raise ShuttingDownError()

    def _require_time(self, work: Work) -> None:
        """Refuse work that is not expected to be answered in time. An idle engine takes any work."""
        remaining_s = work.call.remaining_s
        if remaining_s is None or not (self._queue or self._running):
            return
        usual_prompts = round(self._pace.batch_prompts)
        until = self._backlog.until(work.key, work.left, self._batch_prompts_max(work), usual_prompts)
        expected_s = self._ns_until(*until) / 1e9
        if expected_s > WAIT_SHARE_MAX * remaining_s:
            raise self._refusal(
                f"an answer would take some {expected_s:.2g} s and the deadline is in {remaining_s:.2g} s, too close",
                expected_ms=round(1e3 * expected_s),
            )

    def _refusal(self, full: str, **metadata: int) -> OverloadedError:
        retry_after_s = self._retry_after_s()
        return OverloadedError(f"{full}: try again in {retry_after_s:.2g} s", retry_after_s=retry_after_s, **metadata)

    def _retry_after_s(self) -> float:
        """Seconds until all that waits and runs now is answered, at the pace of the last batches."""
        if not self._pace.is_measured:
            return RETRY_UNMEASURED_S
        load = self._backlog.load
        return max(RETRY_MIN_S, self._ns_until(load.prompts, load.batches) / 1e9)

    def _ns_until(self, prompts: int, batches: int) -> float:
        """Nanoseconds until what runs, and so many prompts in so many batches after it, are done.

        If the running batch takes longer than expected, all others are expected to take longer too, unless it is the
        first that is so large.
        """
        waiting_ns = self._pace.ns(prompts, batches)
        if self._running is None or not self._pace.is_measured:
            return waiting_ns
        expected_ns = self._pace.ns(self._running.prompts, 1)
        spent_ns = self._clock() - self._running.started_ns
        slower = max(1.0, spent_ns / expected_ns) if self._pace.has_run(self._running.prompts) else 1.0
        return max(0.0, expected_ns - spent_ns) + waiting_ns * slower


def _settle(work: Work, error: Exception | None = None) -> Callable[[], None] | None:
    """Mark work as ended. Returns its callback, or None if it had ended before."""
    on_end, work._on_end = work._on_end, None
    if on_end is not None:
        work.error = error
    return on_end


def _tell(ended: Sequence[Callable[[], None] | None]) -> None:
    """Make the callbacks of work that has ended, after the lock is released: they are others' code."""
    for on_end in ended:
        if on_end is not None:
            on_end()

"""All blocks searched at once on a device, which is told of them together and waited for once.

Calls of a few prompts wait for the host, which tells the device of every step of every block. So such a call is
recorded as a CUDA graph when it is made again, and told in one launch from then on: as many prompts with the same
thresholds, which is what callers with one profile ask.

Shapes: K blocks, B queries, D d_model.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ffnsearch_indexer.hardware.gpu import device_errors
from ffnsearch_indexer.hardware.graphs import GraphRecorder
from ffnsearch_indexer.index.base import Checkpoint, RangeSums, nobody_waits
from ffnsearch_indexer.index.device import DeviceIndex, QueuedSums

GRAPHS_MAX = 64
"""Most graphs of a search, and calls that are remembered; where there would be more, all are given back."""

GRAPH_BYTES_MAX = 1 << 24
"""Most bytes of the results of a call that is recorded: each graph keeps its own."""


class _Call(NamedTuple):
    """What decides which work a search is: how many queries, and the thresholds of each block."""

    queries: int
    thresholds: tuple[tuple[float, ...], ...]


class _Queued(NamedTuple):
    """A search that is queued. searches: K, None where a block cannot be. results: theirs, one behind the other."""

    searches: list[QueuedSums | None]
    results: Tensor | None

    def fetch(self) -> list[RangeSums | None]:
        """Wait for the device; the sums of each block, None where it must be searched in the usual way."""
        if self.results is None:
            return [None] * len(self.searches)
        here, first = self.results.cpu().numpy(), 0
        done: list[RangeSums | None] = []
        for search in self.searches:
            size = search.result.shape[0] if search else 0
            done.append(search.finish(here[first : first + size]) if search else None)
            first += size
        return done


class _Graph(NamedTuple):
    """A recorded search. queries: [K, B, D] float16, from which it reads."""

    queries: Tensor
    run: Callable[[], _Queued]


class DeviceSearch:
    """Range sums in K blocks, whose indexes are on one device. One thread at a time may call it.

    Graphs share one piece of the device's memory, as large as the lists of one block.
    """

    graph_queries_max: ClassVar[int] = 16
    """Most queries of a call that is recorded: with more, the host is done before the device."""

    def __init__(self, indexes: Sequence[DeviceIndex]) -> None:
        self._indexes = indexes
        self._made: deque[_Call] = deque(maxlen=GRAPHS_MAX)
        self._forget()

    def range_sums(
        self, queries: Tensor, thresholds: Sequence[Sequence[float]], checkpoint: Checkpoint = nobody_waits
    ) -> list[RangeSums]:
        """Sum in each block for its own queries, of [K, B, D] float16 on the device, and its own thresholds.

        Blocks that cannot be queued are searched one after the other. Raises DeviceError where the device fails.
        """
        checkpoint()
        call = _Call(queries.shape[1], tuple(map(tuple, thresholds)))
        with device_errors():
            done = self._done(queries, call)
        checkpoint()
        return [
            sums if sums is not None else index.range_sum(of_block, levels, checkpoint=checkpoint)
            for sums, index, of_block, levels in zip(done, self._indexes, queries, call.thresholds, strict=True)
        ]

    def _done(self, queries: Tensor, call: _Call) -> list[RangeSums | None]:
        """What could be queued, in one graph where the call was made before."""
        graph = self._graph(queries, call)
        if graph:
            graph.queries.copy_(queries)
        queued = graph.run() if graph else self._queue(queries, call)
        done = queued.fetch()
        is_whole = all(sums is not None or not levels for sums, levels in zip(done, call.thresholds, strict=True))
        if graph:
            if not is_whole:
                self._forget()  # its lists are too short, or there is no room for them
        elif is_whole and self._may_be_graph(queued, call):
            self._made.append(call)
        return done

    def _may_be_graph(self, queued: _Queued, call: _Call) -> bool:
        is_small = call.queries <= self.graph_queries_max
        return is_small and queued.results is not None and queued.results.nbytes <= GRAPH_BYTES_MAX

    def _graph(self, queries: Tensor, call: _Call) -> _Graph | None:
        """The graph of a call that was made before, recorded now where that is the first time since."""
        if call not in self._graphs and call in self._made:
            if len(self._graphs) == GRAPHS_MAX:
                self._forget()
            self._made.remove(call)
            own = queries.clone()
            self._graphs[call] = _Graph(own, self._recorder.record(lambda: self._queue(own, call)))
        return self._graphs.get(call)

    def _queue(self, queries: Tensor, call: _Call) -> _Queued:
        asked = zip(self._indexes, queries, call.thresholds, strict=True)
        searches = [index.queue_sums(of_block, levels) for index, of_block, levels in asked]
        results = [search.result for search in searches if search]
        return _Queued(searches, torch.cat(results) if results else None)

    def _forget(self) -> None:
        """Give the graphs back, and with them their memory, which is the recorder's: the next ones need another."""
        self._graphs: dict[_Call, _Graph] = {}
        self._recorder = GraphRecorder(self._indexes[0].device)

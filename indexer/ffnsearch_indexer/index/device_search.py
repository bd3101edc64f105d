"""All blocks searched at once on a device, which is told of them together and waited for once.

Calls of a few prompts wait for the host, which tells the device of every step of every block. So such a call is
recorded as a CUDA graph when it is made again, and told in one launch from then on: as many prompts with the same
thresholds, which is what callers with one profile ask.

Shapes: K blocks, B queries, D d_model.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ffnsearch_indexer.hardware.gpu import device_errors
from ffnsearch_indexer.hardware.graphs import GraphRecorder
from ffnsearch_indexer.index.base import Checkpoint, Int64, RangeSums, nobody_waits
from ffnsearch_indexer.index.device import DeviceIndex

GRAPH_QUERIES_MAX = 16
"""Most queries of a call that is recorded: with more, the host is done before the device."""

GRAPH_BYTES_MAX = 1 << 24
"""Most bytes of the results of a call that is recorded: each graph keeps its own."""

CALLS_MAX = 64
"""Most calls that are remembered, with their graphs; where there would be more, all are forgotten."""


class _Call(NamedTuple):
    """What decides which work a search is: how many queries, and the thresholds of each block."""

    queries: int
    thresholds: tuple[tuple[float, ...], ...]


class _Queued(NamedTuple):
    """A search that is queued.

    results: [n] int64, of all blocks, one behind the other; None where no block could be queued. readers: for each
    block, how many of the results are its own, and what turns these into sums; None where it could not be queued.
    """

    results: Tensor | None
    readers: list[tuple[int, Callable[[Int64], RangeSums | None]] | None]

    def fetch(self) -> list[RangeSums | None]:
        """Wait for the device; the sums of each block, None where it must be searched in the usual way."""
        if self.results is None:
            return [None] * len(self.readers)
        here, done = self.results.cpu().numpy(), list[RangeSums | None]()
        for reader in self.readers:
            size, read = reader or (0, lambda _: None)
            done.append(read(here[:size]))
            here = here[size:]
        return done


class _Graph(NamedTuple):
    """A recorded search. queries: [K, B, D] float16, from which it reads."""

    queries: Tensor
    run: Callable[[], _Queued]


class DeviceSearch:
    """Range sums in K blocks, whose indexes are on one device. One thread at a time may call it.

    Its graphs share one piece of the device's memory, in which the lists of one block have room; each has queries and
    results of its own. graph_queries_max: most queries of a call that is recorded.
    """

    def __init__(self, indexes: Sequence[DeviceIndex], *, graph_queries_max: int = GRAPH_QUERIES_MAX) -> None:
        assert len(set(map(id, indexes))) == len(indexes), "an index keeps the thresholds of one block"
        self._indexes = indexes
        self._graph_queries_max = graph_queries_max
        self._forget()

    @property
    def graphs(self) -> int:
        """How many calls are recorded now."""
        return sum(graph is not None for graph in self._calls.values())

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
        if is_whole and not graph and self._may_be_graph(queued, call):
            if len(self._calls) == CALLS_MAX:
                self._forget()
            self._calls[call] = None
        elif graph and not is_whole:  # its lists are too short, or there was no room for them
            self._forget()
        return done

    def _may_be_graph(self, queued: _Queued, call: _Call) -> bool:
        is_small = call.queries <= self._graph_queries_max
        return is_small and queued.results is not None and queued.results.nbytes <= GRAPH_BYTES_MAX

    def _graph(self, queries: Tensor, call: _Call) -> _Graph | None:
        """The graph of a call that was made before, recorded now where that was once."""
        if call in self._calls and self._calls[call] is None:
            own = queries.clone()
            self._calls[call] = _Graph(own, self._recorder.record(lambda: self._queue(own, call)))
        return self._calls.get(call)

    def _queue(self, queries: Tensor, call: _Call) -> _Queued:
        asked = zip(self._indexes, queries, call.thresholds, strict=True)
        searches = [index.queue_sums(of_block, levels) for index, of_block, levels in asked]
        results = [search.result for search in searches if search]
        readers = [(search.result.shape[0], search.read) if search else None for search in searches]
        return _Queued(torch.cat(results) if results else None, readers)

    def _forget(self) -> None:
        """Forget all calls, and with their graphs the recorder, whose memory is theirs."""
        self._calls: dict[_Call, _Graph | None] = {}
        self._recorder = GraphRecorder(self._indexes[0].device)

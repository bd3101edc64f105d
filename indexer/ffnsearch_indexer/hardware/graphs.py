"""Work on a GPU that is told once and done many times: CUDA graphs, each launched as one piece."""

import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch

WARM_UPS = 3
"""Times that work is done before it is recorded: libraries choose kernels and allocate in the first ones."""

Result = TypeVar("Result")

_log = logging.getLogger(__name__)
_recording = threading.Lock()
"""Held while a graph is recorded: torch records one at a time in a process, and two models may be opened at once."""

_failed = threading.Event()
"""Set where recording failed: torch may then count as begun, for as long as the process lives, what has not ended."""


class GraphRecorder:
    """Records work on one device. One thread at a time may record and run what it recorded.

    What one recorder recorded shares memory: use the result of one piece of work before the next is run. Once all of it
    is deleted, take another recorder. Where nothing can be recorded, work is done anew each time: on a CPU, which has
    no graphs, and after recording failed in this process.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._place: tuple[torch.cuda.Stream, Any] | None = None

    def record(self, work: Callable[[], Result]) -> Callable[[], Result]:
        """Work as one launch, on the current stream; each run overwrites the tensors of the result before.

        work: of fixed shapes. It waits for nothing, copies nothing from this machine's memory, and gives what it reads
        as part of its result, unless its owner keeps that: a graph remembers addresses, not tensors. Raises what work
        raises, outside a graph too.
        """
        if self._device.type != "cuda":
            return work
        with _recording:  # the warm-ups too: torch may give two threads the same stream
            return work if _failed.is_set() else self._recorded(work)

    def _recorded(self, work: Callable[[], Result]) -> Callable[[], Result]:
        if self._place is None:
            self._place = torch.cuda.Stream(self._device), torch.cuda.graph_pool_handle()
        stream, pool = self._place
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):  # it also leaves the stream where a graph that failed does not
            for _ in range(WARM_UPS):
                work()
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                    result = work()
            except RuntimeError as error:
                _failed.set()
                _log.warning("no CUDA graph could be recorded, and none will be: %s", error)
                return work

        def replay() -> Result:
            graph.replay()
            return result

        return replay

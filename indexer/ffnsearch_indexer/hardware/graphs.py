"""Work on a GPU that is told once and done many times: CUDA graphs, each launched as one piece."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch

WARM_UPS = 3
"""Times that work is done before it is recorded: libraries choose kernels and allocate in the first ones."""

_recording = threading.Lock()
"""Held while a graph is recorded: torch records one at a time in a process, and two models may be opened at once."""

Result = TypeVar("Result")


class GraphRecorder:
    """Records work on one device. One thread at a time may record and run what it recorded.

    What one recorder recorded shares memory: use the result of one piece of work before the next is run. The memory
    goes with the last of them, and after that torch refuses to record there: take another recorder. On a CPU there are
    no graphs: there work is done anew each time.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._place: tuple[torch.cuda.Stream, Any] | None = None

    def record(self, work: Callable[[], Result]) -> Callable[[], Result]:
        """Work as one launch, on the current stream; each run overwrites the tensors of the result before.

        work: of fixed shapes. It waits for nothing, copies nothing from this machine's memory, and gives what it reads
        as part of its result, unless its owner keeps that: a graph remembers addresses, not tensors.
        """
        if self._device.type != "cuda":
            return work
        if self._place is None:
            self._place = torch.cuda.Stream(self._device), torch.cuda.graph_pool_handle()
        stream, pool = self._place
        current = torch.cuda.current_stream(self._device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                work()
        current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with _recording, torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            result = work()

        def replay() -> Result:
            graph.replay()
            return result

        return replay

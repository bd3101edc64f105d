"""CUDA graphs without a GPU: what work does is written down, step by step, and done again with the same tensors."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from ffnsearch_indexer.hardware.graphs import GraphRecorder

WAITS = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.masked_select)
"""What a device cannot do without the host."""

WORK_STEPS_MIN = 9
"""Fewer would not be a search."""


class _Steps(TorchDispatchMode):
    """Torch's operations and Triton's kernels, in order, and how each is done again."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Callable[[], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        assert func.overloadpacket not in WAITS, f"{func} waits for the device"
        given = func(*args, **kwargs)
        kept = [leaf for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor)]

        def again() -> None:
            anew = [leaf for leaf in tree_leaves(func(*args, **kwargs)) if isinstance(leaf, torch.Tensor)]
            for old, new in zip(kept, anew, strict=True):
                if old.data_ptr() != new.data_ptr():  # else it is a view, or written in place
                    old.copy_(new)

        self.steps.append(again)
        return given


def watch_graphs(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Let GraphRecorder record on the CPU, where there is no GPU, as it does there; a list of what will be recorded."""
    recorded: list[object] = []
    record = GraphRecorder.record if torch.cuda.is_available() else _on_cpu(monkeypatch)

    def watched(self: GraphRecorder, work: Callable[[], Any]) -> Callable[[], Any]:
        run = record(self, work)
        recorded.append(run)
        return run

    monkeypatch.setattr(GraphRecorder, "record", watched)
    return recorded


def _on_cpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[GraphRecorder, Callable[[], Any]], Callable[[], Any]]:
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    launch = interpreter.GridExecutor.__call__
    recording: list[_Steps] = []

    def launched(executor: Any, *arguments: Any, **options: Any) -> None:
        with _disable_current_modes():
            launch(executor, *arguments, **options)
        if recording:
            recording[-1].steps.append(lambda: launch(executor, *arguments, **options))

    def record(self: GraphRecorder, work: Callable[[], Any]) -> Callable[[], Any]:
        work()  # as the warm-ups
        steps = _Steps()
        recording.append(steps)
        with steps, monkeypatch.context() as patch:
            patch.setattr("ffnsearch_indexer.index.fused.to_device", _refuse)
            result = work()
        recording.pop()
        assert len(steps.steps) > WORK_STEPS_MIN, "kernels and operations are recorded"

        def replay() -> Any:
            for step in steps.steps:
                step()
            return result

        return replay

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", launched)
    return record


def _refuse(*_: object) -> None:
    raise AssertionError("what is recorded copies nothing to the device")

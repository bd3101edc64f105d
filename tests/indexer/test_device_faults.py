"""A GPU that fails ends in a typed error or in the CPU's whole answer, never in a wrong or a partial one."""

import logging
from collections.abc import Callable, Sequence
from subprocess import CalledProcessError
from typing import Any

import numpy as np
import pytest
import torch

from ffnsearch_indexer.answer import backends
from ffnsearch_indexer.answer import predictor as predicting
from ffnsearch_indexer.answer.backends import BACKENDS, Backend
from ffnsearch_indexer.answer.predictor import Predictor
from ffnsearch_indexer.corpora.tokenizer import Tokens
from ffnsearch_indexer.errors import DEVICE_FAILED, DEVICE_MEMORY, BackendError, CancelledError, DeviceError
from ffnsearch_indexer.hardware.gpu import device_errors
from ffnsearch_indexer.index.base import Index, Neighbors, RangeSums
from ffnsearch_indexer.index.exact import ExactIndex
from ffnsearch_indexer.store.datastore import Datastore
from tiny import model_on_cpu

THRESHOLDS = [[0.9, 0.5], [0.99]]
FAILURES = {
    DEVICE_MEMORY: (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("Error in virtual void* faiss::gpu::alloc: GPU: CUDA error 2 out of memory"),
    ),
    DEVICE_FAILED: (
        torch.AcceleratorError("CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
        RuntimeError("No CUDA GPUs are available"),
    ),
}
EACH = [(reason, error) for reason, errors in FAILURES.items() for error in errors]


class FaultyIndex(ExactIndex):
    """As if on a GPU: searches until it is told to fail, in one block after another has been summed."""

    failure: Exception | None = None

    def range_sum(self, *arguments: Any, **options: Any) -> RangeSums:
        sums = super().range_sum(*arguments, **options)
        self._fail()
        return sums

    def range_search(self, *arguments: Any, **options: Any) -> Neighbors:
        found = super().range_search(*arguments, **options)
        self._fail()
        return found

    def _fail(self) -> None:
        if self.failure:
            raise self.failure


class Gpu:
    """What stands in for a GPU in a test: the last block's index, which can be told to fail."""

    def __init__(self) -> None:
        self.indexes: list[FaultyIndex] = []

    def open(self, datastore: Datastore, device: str) -> list[Index]:
        if device == "cpu":
            return [ExactIndex(keys, datastore.counts) for keys in datastore.keys]
        self.indexes = [FaultyIndex(keys, datastore.counts) for keys in datastore.keys]
        return list(self.indexes)

    def fail(self, error: Exception) -> None:
        self.indexes[-1].failure = error


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """A machine with a GPU, on which `kernel` and `exact` search; the model runs as it would there."""
    found = Gpu()
    table = {
        "kernel": Backend(found.open, devices=("cuda",)),
        "tiles": BACKENDS["tiles"],
        "exact": Backend(found.open, devices=("cuda", "cpu")),
    }
    monkeypatch.setattr(backends, "BACKENDS", table)
    monkeypatch.setattr(backends, "cuda_problem", lambda: None)
    monkeypatch.setattr(predicting, "DeviceModel", model_on_cpu)
    return found


@pytest.fixture
def prompts(datastore: Datastore) -> list[Tokens]:
    return [datastore.substring(0), datastore.substring(100), datastore.tokenizer.encode("the")]


def require_same(found: Sequence[RangeSums], expected: Sequence[RangeSums]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.freq, other.freq)
        np.testing.assert_array_equal(one.neighbors, other.neighbors)


@pytest.mark.parametrize(("reason", "error"), EACH)
def test_what_a_library_says_becomes_a_typed_error(reason: str, error: RuntimeError) -> None:
    with pytest.raises(DeviceError) as caught, device_errors():
        raise error
    assert caught.value.reason == reason
    assert "--device cpu" in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "error",
    [CalledProcessError(1, "gcc"), FileNotFoundError("/.triton"), AssertionError("libcuda.so cannot be found!")],
)
def test_what_triton_cannot_compile_with_is_a_failing_device(error: Exception) -> None:
    of_triton: dict[str, Any] = {"__name__": "triton.runtime.build"}
    exec("def build(error): raise error", of_triton)
    with pytest.raises(DeviceError) as caught, device_errors():
        of_triton["build"](error)
    assert caught.value.reason == DEVICE_FAILED
    with pytest.raises(type(error)), device_errors():
        raise error.with_traceback(None)  # as it is outside of Triton


@pytest.mark.parametrize("error", [RuntimeError("expected a tensor"), ValueError("CUDA error"), CancelledError("gone")])
def test_other_errors_pass_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, device_errors():
        raise error
    assert caught.value is error


@pytest.mark.parametrize("asked", [("auto", "auto"), ("exact", "auto")])
@pytest.mark.parametrize(("reason", "error"), EACH[::4])
def test_the_cpu_answers_the_whole_call_and_all_that_follow(
    asked: tuple[str, str],
    reason: str,
    error: RuntimeError,
    gpu: Gpu,
    datastore: Datastore,
    prompts: list[Tokens],
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend, device = asked
    moved: list[str] = []
    predictor = Predictor(datastore, backend=backend, device=device, on_move=lambda: moved.append(predictor.backend))
    on_cpu = Predictor(datastore, backend="exact", device="cpu")
    before = predictor.search(prompts, THRESHOLDS)
    assert (before.backend, predictor.device) == ("kernel" if backend == "auto" else "exact", "cuda")
    gpu.fail(error)
    with caplog.at_level(logging.WARNING):
        found = predictor.search(prompts, THRESHOLDS, exclude_self=True)
    then = "tiles" if backend == "auto" else "exact"
    assert (found.backend, predictor.backend, predictor.device) == (then, then, "cpu")
    assert moved == [then]
    assert len(caplog.messages) == 1
    assert f"searching with {then} on the CPU: the GPU was left" in caplog.messages[0]
    require_same(found.sums, on_cpu.search(prompts, THRESHOLDS, exclude_self=True).sums)
    require_same(predictor.search(prompts, THRESHOLDS).sums, on_cpu.search(prompts, THRESHOLDS).sums)
    assert len(caplog.messages) == 1


def test_neighbors_come_from_the_cpu_too(gpu: Gpu, datastore: Datastore, prompts: list[Tokens]) -> None:
    predictor = Predictor(datastore)
    gpu.fail(FAILURES[DEVICE_FAILED][0])
    found = predictor.neighbors(prompts[0], 1, 0.5)
    expected = Predictor(datastore, backend="exact", device="cpu").neighbors(prompts[0], 1, 0.5)
    assert predictor.backend == "tiles"
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.scores, expected.scores)


@pytest.mark.parametrize("asked", [("auto", "cuda"), ("kernel", "auto"), ("exact", "cuda")])
def test_what_was_asked_for_by_name_fails_instead(
    asked: tuple[str, str], gpu: Gpu, datastore: Datastore, prompts: list[Tokens]
) -> None:
    backend, device = asked
    predictor = Predictor(datastore, backend=backend, device=device)
    before = predictor.search(prompts, THRESHOLDS)
    gpu.fail(FAILURES[DEVICE_MEMORY][0])
    calls: list[Callable[[], object]] = [
        lambda: predictor.search(prompts, THRESHOLDS),
        lambda: predictor.neighbors(prompts[0], 1, 0.5),
    ]
    for call in calls:
        with pytest.raises(DeviceError) as caught:
            call()
        assert caught.value.reason == DEVICE_MEMORY
    gpu.indexes[-1].failure = None
    require_same(predictor.search(prompts, THRESHOLDS).sums, before.sums)
    assert predictor.device == "cuda"


def test_a_gpu_that_fails_at_the_start_is_left_at_once(
    gpu: Gpu, datastore: Datastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise FAILURES[DEVICE_MEMORY][0]

    monkeypatch.setattr(predicting, "DeviceModel", full)
    assert Predictor(datastore).backend == "tiles"
    with pytest.raises(DeviceError):
        Predictor(datastore, device="cuda")


def test_no_gpu_at_all(datastore: Datastore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "cuda_problem", lambda: "no CUDA device")
    assert Predictor(datastore).choice.line == "searching with tiles on the CPU: no CUDA device"
    with pytest.raises(BackendError, match="no CUDA device"):
        Predictor(datastore, device="cuda")


def test_the_choice_is_logged_once(datastore: Datastore, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        Predictor(datastore, device="cpu")
    assert caplog.messages == [f"{datastore.path.name}: searching with tiles on the CPU: --device cpu"]

"""Whether there is a GPU to work on, and what its failures mean."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from subprocess import SubprocessError
from traceback import walk_tb

import torch

from ffnsearch_indexer.errors import DEVICE_FAILED, DEVICE_MEMORY, BackendError, DeviceError

DEVICES = ("auto", "cpu", "cuda")
"""What a user can ask for; `auto` is CUDA where it can be used, and the CPU elsewhere."""

_OF_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
_OF_DEVICE = (
    "CUDA error",
    "CUDA driver error",
    "Triton Error [CUDA]",
    "PassManager::run failed",
    "Failed to find C compiler",
    "CUBLAS_STATUS_",
    "CUDNN_STATUS_",
    "NVIDIA",
    "GPU",
)


def cuda_problem() -> str | None:
    """Why no CUDA device can be used, as the end of a sentence; None where one can.

    It tries the device. The first call of a process may take a second, because it makes the device's context.
    """
    if not torch.cuda.is_available():
        return "no CUDA device" if torch.version.cuda else "no CUDA device, and a torch without CUDA"
    try:
        torch.ones(1, device="cuda").sum().item()
    except RuntimeError as error:
        return f"the CUDA device cannot be used ({_first_line(error)})"
    return None


def triton_problem() -> str | None:
    """Why kernels cannot be compiled for a GPU, as the end of a sentence; None where they can."""
    return None if find_spec("triton") else "triton is not installed"


def choose_device(wanted: str) -> str:
    """The device, `cpu` or `cuda`, that one of DEVICES means on this machine.

    Raises BackendError for another name, and for `cuda` where it cannot be used.
    """
    require_known(wanted)
    if wanted == "cpu":
        return "cpu"
    problem = cuda_problem()
    if problem and wanted == "cuda":
        raise BackendError(
            f"--device cuda cannot be used: {problem}; choose --device cpu", reason="DEVICE_UNAVAILABLE", device=wanted
        )
    return "cpu" if problem else "cuda"


def require_known(device: str) -> None:
    """Refuse (BackendError) what is not one of DEVICES."""
    if device not in DEVICES:
        raise BackendError(
            f"the device {device!r} is unknown: choose one of {', '.join(DEVICES)}",
            reason="UNKNOWN_DEVICE",
            device=device,
        )


@contextmanager
def device_errors() -> Iterator[None]:
    """Raise what a failing GPU raises in torch, Triton or faiss as DeviceError; other errors pass as they are."""
    try:
        yield
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise DeviceError(_message(reason, error), reason=reason) from error


def _reason(error: Exception) -> str | None:
    """The reason of a device's error, None for other errors: mostly by the text, for few have a class of their own."""
    text = str(error)
    is_worded = isinstance(error, RuntimeError) and any(words in text for words in _OF_DEVICE)
    is_of_device = isinstance(error, torch.AcceleratorError) or _is_of_triton(error) or is_worded
    if isinstance(error, torch.OutOfMemoryError) or (is_of_device and any(words in text for words in _OF_MEMORY)):
        return DEVICE_MEMORY
    return DEVICE_FAILED if is_of_device else None


def _is_of_triton(error: Exception) -> bool:
    """Whether a kernel could not be compiled for the device, or not started there; a mistake in a kernel is our own.

    Triton compiles with programs and files of this machine, and passes on their errors.
    """
    if type(error).__module__.startswith("triton."):
        return type(error).__name__ in ("OutOfResources", "PTXASError")
    is_of_machine = isinstance(error, OSError | SubprocessError) or "libcuda.so" in str(error)
    return is_of_machine and any(
        str(frame.f_globals.get("__name__")).startswith("triton.") for frame, _ in walk_tb(error.__traceback__)
    )


def _message(reason: str, error: Exception) -> str:
    if reason == DEVICE_MEMORY:
        return "the GPU's memory is full: free some of it, give it less at a time, or choose --device cpu"
    return f"the GPU failed ({_first_line(error)}): start again, or choose --device cpu"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), repr(error)).rstrip(" .:")

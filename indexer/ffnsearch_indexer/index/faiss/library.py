"""The faiss that is installed. Only this module imports it, when it is first needed."""

from types import ModuleType

from ffnsearch_indexer.errors import BackendError


def library() -> ModuleType:
    """The module faiss. Raises BackendError where it is not installed."""
    try:
        import faiss
    except ImportError:
        raise BackendError(
            "the backend faiss is not installed: pip install faiss-cpu, or choose the backend exact",
            reason="BACKEND_NOT_INSTALLED",
            backend="faiss",
        ) from None
    module: ModuleType = faiss
    return module


def gpu_problem() -> str | None:
    """Why faiss can use no GPU, as the end of a sentence; None where it can. Raises as `library` does."""
    if not hasattr(library(), "StandardGpuResources"):
        return "this faiss was built for CPUs"
    return None if count_gpus() else "faiss sees no GPU"


def count_gpus() -> int:
    """How many GPUs faiss can use: none without a GPU build of it, or without a GPU."""
    faiss = library()
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0

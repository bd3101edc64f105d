"""The choice of the backend that searches the blocks of a snapshot, and of its device.

BACKENDS is the table of all backends. `choose` takes the first that was asked for and can be used.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ffnsearch_indexer.errors import BackendError
from ffnsearch_indexer.hardware.gpu import cuda_problem, require_known, triton_problem
from ffnsearch_indexer.index.base import Index
from ffnsearch_indexer.index.tiles import Tiles
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_indexer.store.layout import FAISS_IVF_FOLDER, TILES_FOLDER

AUTO = "auto"
"""The name that leaves the choice of a backend, or of a device, to what is there."""

_MAKING = {TILES_FOLDER: "", FAISS_IVF_FOLDER: " --faiss ivf"}
"""The options of `ffnsearch index` that make a part."""

_DEVICE_WORDS = {"cpu": "the CPU", "cuda": "the GPU"}


class Backend(NamedTuple):
    """One way to search.

    open: gives the index of each block, on a device. devices: where it can search, the faster one first. part: which
    of a snapshot's parts it needs. needs: what else it needs to search on a GPU, one of _ON_GPUS. is_automatic: whether
    `auto` may choose it.
    """

    open: Callable[[Datastore, str], list[Index]]
    devices: tuple[str, ...] = ("cpu",)
    part: str | None = None
    needs: str | None = None
    is_automatic: bool = True


class Present(NamedTuple):
    """What there is to choose from.

    snapshot: where it is, for messages. parts: what it has. no_cuda: why no GPU can be used, or None. missing: which of
    _ON_GPUS cannot be used, and why.
    """

    snapshot: str
    parts: frozenset[str]
    no_cuda: str | None
    missing: Mapping[str, str]


class Choice(NamedTuple):
    """What searches: a name of BACKENDS, `cpu` or `cuda`, and why, as the end of a sentence."""

    backend: str
    device: str
    why: str

    @property
    def line(self) -> str:
        """The choice as a sentence for a log."""
        return f"searching with {self.backend} on {_DEVICE_WORDS[self.device]}: {self.why}"


def look(datastore: Datastore, backend: str = AUTO, device: str = AUTO) -> Present:
    """What a snapshot and this machine have. The GPU is not touched where nothing that is asked for uses one."""
    for_gpu = [name for name, place in _candidates(backend, device) if place == "cuda"]
    problems = {needed: _ON_GPUS[needed]() for name in for_gpu if (needed := BACKENDS[name].needs)}
    missing = {needed: problem for needed, problem in problems.items() if problem}
    could_use_one = any(BACKENDS[name].needs not in missing for name in for_gpu)
    return Present(
        snapshot=str(datastore.path),
        parts=datastore.manifest.parts,
        no_cuda=cuda_problem() if could_use_one else None,
        missing=missing,
    )


def choose(backend: str, device: str, there: Present) -> Choice:
    """The first of BACKENDS, on the first of its devices, that is asked for and there.

    backend: a name, or `auto`. device: `auto`, `cpu` or `cuda`. Raises BackendError for an unknown name, and where
    nothing that was asked for is there; what was asked for by name is never replaced.
    """
    require_known(device)
    if backend not in (AUTO, *BACKENDS):
        raise BackendError(
            f"the backend {backend!r} is unknown: choose one of {', '.join((AUTO, *BACKENDS))}",
            reason="UNKNOWN_BACKEND",
        )
    problems: list[str] = []
    for name, place in _candidates(backend, device):
        problem = _problem(name, place, there)
        if problem is None:
            return Choice(name, place, _why(backend, device, place, problems, there))
        problems.append(problem)
    raise _refusal(backend, device, problems, there)


def open_indexes(datastore: Datastore, backend: str, *, device: str = "cpu") -> list[Index]:
    """The index of each block; a backend is imported only when it is wanted.

    backend, device: those of a Choice. Keys go to a device when they are first searched.
    """
    return BACKENDS[backend].open(datastore, device)


def _candidates(backend: str, device: str) -> Iterator[tuple[str, str]]:
    for name, entry in BACKENDS.items():
        if name == backend or (backend == AUTO and entry.is_automatic):
            yield from ((name, place) for place in entry.devices if device in (AUTO, place))


def _problem(name: str, device: str, there: Present) -> str | None:
    """Why a backend cannot search on a device, or None."""
    entry = BACKENDS[name]
    if device == "cuda" and there.no_cuda:
        return there.no_cuda
    if device == "cuda" and entry.needs and entry.needs in there.missing:
        return there.missing[entry.needs]
    if entry.part is not None and entry.part not in there.parts:
        return f"the snapshot has no {entry.part}"
    return None


def _why(backend: str, device: str, place: str, problems: list[str], there: Present) -> str:
    """Why the candidates before it were not chosen, or else which options asked for it."""
    without = [there.no_cuda] if there.no_cuda and place == "cpu" else []
    if passed_over := list(dict.fromkeys([*without, *problems])):
        return ", and ".join(passed_over)
    asked = [f"--{name} {value}" for name, value in (("backend", backend), ("device", device)) if value != AUTO]
    return " ".join(asked) or ("a CUDA device is there" if place == "cuda" else "nothing faster is there")


def _refusal(backend: str, device: str, problems: list[str], there: Present) -> BackendError:
    wanted = f"--backend {backend}" if device == AUTO else f"--backend {backend} --device {device}"
    missing = None if backend == AUTO else BACKENDS[backend].part
    if missing is not None and missing not in there.parts:
        return BackendError(
            f"{there.snapshot} has no {missing}: make them with `ffnsearch index {there.snapshot}{_MAKING[missing]}`, "
            "or choose --backend exact",
            reason=f"NO_{missing.upper().replace('-', '_')}",
        )
    if not problems:
        places = " or ".join(BACKENDS[backend].devices)
        return BackendError(
            f"{wanted} is not possible: {backend} runs only on {places}; choose another backend or device",
            reason="DEVICE_UNAVAILABLE",
            device=device,
        )
    return BackendError(
        f"{wanted} cannot be used: {', and '.join(dict.fromkeys(problems))}; choose --backend auto --device auto",
        reason="DEVICE_UNAVAILABLE",
        device=device,
    )


def _open_tiles(datastore: Datastore, _: str) -> list[Index]:
    from ffnsearch_indexer.index.tiled import TiledIndex

    assert datastore.tiles is not None, "what is chosen is there"
    blocks = zip(datastore.keys, datastore.tiles, strict=True)
    return [TiledIndex(keys, datastore.counts, tiles) for keys, tiles in blocks]


def _open_exact(datastore: Datastore, device: str) -> list[Index]:
    from ffnsearch_indexer.index.exact import ExactIndex
    from ffnsearch_indexer.index.exact_device import ExactDeviceIndex

    if device == "cpu":
        return [ExactIndex(keys, datastore.counts) for keys in datastore.keys]
    return [ExactDeviceIndex(keys, datastore.counts, device=device) for keys in datastore.keys]


def _open_fused(datastore: Datastore, device: str) -> list[Index]:
    from ffnsearch_indexer.index.fused import FusedIndex

    tiles: Sequence[Tiles | None] = datastore.tiles or [None] * len(datastore.keys)
    blocks = zip(datastore.keys, tiles, strict=True)
    return [FusedIndex(keys, datastore.counts, of_block, device=device) for keys, of_block in blocks]


def _open_faiss(datastore: Datastore, device: str) -> list[Index]:
    from ffnsearch_indexer.store.faiss import open_flat

    return open_flat(datastore, on_gpus=device == "cuda")


def _open_lists(datastore: Datastore, device: str) -> list[Index]:
    from ffnsearch_indexer.store.faiss import open_lists

    return open_lists(datastore, on_gpus=device == "cuda")


def _faiss_problem() -> str | None:
    from ffnsearch_indexer.index.faiss.library import gpu_problem

    return gpu_problem()


_ON_GPUS: dict[str, Callable[[], str | None]] = {"triton": triton_problem, "a GPU build of faiss": _faiss_problem}
"""What some backends need to search on a GPU, and why it cannot be used."""

BACKENDS: dict[str, Backend] = {
    "fused": Backend(_open_fused, devices=("cuda",), needs="triton"),
    "tiles": Backend(_open_tiles, part=TILES_FOLDER),
    "exact": Backend(_open_exact, devices=("cuda", "cpu")),
    "faiss": Backend(_open_faiss, devices=("cuda", "cpu"), needs="a GPU build of faiss", is_automatic=False),
    "faiss-ivf": Backend(
        _open_lists,
        devices=("cuda", "cpu"),
        part=FAISS_IVF_FOLDER,
        needs="a GPU build of faiss",
        is_automatic=False,
    ),
}
"""All backends by name; `auto` takes the first that can be used."""

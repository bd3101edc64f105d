"""How faiss' indexes of blocks are made, kept and mapped, and the recall of its lists measured."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ffnsearch_indexer.corpora.substrings import NextTokenCounts
from ffnsearch_indexer.errors import BackendError, DamageError
from ffnsearch_indexer.files import require_readable, save_text, unreadable, write_whole
from ffnsearch_indexer.index.base import Float16, Index
from ffnsearch_indexer.index.exact import ExactIndex
from ffnsearch_indexer.index.faiss.flat import FaissFlatIndex, flat_bytes, flat_of
from ffnsearch_indexer.index.faiss.gpu import FaissGpuFlatIndex, Gpus
from ffnsearch_indexer.index.faiss.ivf import SEED, FaissIvfIndex, ivf_bytes, ivf_of, measure
from ffnsearch_indexer.index.faiss.library import count_gpus, library
from ffnsearch_indexer.parts import parts_of
from ffnsearch_indexer.progress import Progress
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_indexer.store.layout import FAISS_FLAT_FOLDER, FAISS_IVF_FOLDER, faiss_file, recall_file

FaissKind = Literal["flat", "ivf"]

FOLDERS: dict[FaissKind, str] = {"flat": FAISS_FLAT_FOLDER, "ivf": FAISS_IVF_FOLDER}
"""The part of a snapshot that each kind of index is."""

RECALL_QUERIES = 256
"""Keys that recall is measured with, each a query."""

RECALL_FILE_BYTES = 1 << 10
"""More than a file with the recall of a block takes."""

RECALL_BYTES = 300 << 20
"""What it takes to measure recall, beside the index."""

PAGE_KEYS = 1 << 14
"""Keys whose neighbors are listed at once: of all queries, 270 MB when all match."""


@dataclass(frozen=True)
class MeasuredRecall:
    """What the lists of a block were measured to find; kept in a file beside them.

    probes: lists searched of `lists`, also the `nprobe` in faiss' file. recall: the share of its neighbors above
    `threshold` that one of `queries` keys finds on average; recall_of_all: the same share of all their neighbors taken
    together.
    """

    lists: int
    probes: int
    recall: float
    recall_of_all: float
    queries: int
    threshold: float


@dataclass(frozen=True)
class FaissPlan:
    """What it takes to make indexes, known before the work starts."""

    memory_bytes: int
    disk_bytes: int


def plan_faiss(blocks: Mapping[FaissKind, int], substrings: int, d_model: int) -> FaissPlan:
    """What it takes to make indexes of each kind for so many blocks. Lists that grow may take twice their size."""
    disk = {"flat": flat_bytes(substrings, d_model), "ivf": ivf_bytes(substrings, d_model) + RECALL_FILE_BYTES}
    memory = {"flat": disk["flat"], "ivf": 2 * disk["ivf"] + RECALL_BYTES}
    return FaissPlan(
        memory_bytes=max((memory[kind] for kind, missing in blocks.items() if missing), default=0),
        disk_bytes=sum(missing * disk[kind] for kind, missing in blocks.items()),
    )


def kinds_of(text: str | None) -> list[FaissKind]:
    """The kinds of index that names separated by commas stand for; no kind for None.

    Raises BackendError for another name, and where faiss is not installed.
    """
    if text is None:
        return []
    names = text.split(",")
    kinds = [kind for kind in FOLDERS if kind in names]
    if unknown := set(names) - set(kinds):
        raise BackendError(
            f"there is no faiss index of the kind {min(unknown)!r}: choose flat, ivf, or flat,ivf",
            reason="UNKNOWN_FAISS_KIND",
        )
    library()
    return kinds


def write_faiss(
    kind: FaissKind,
    folder: Path,
    keys: Sequence[Float16],
    counts: NextTokenCounts,
    thresholds: Sequence[float],
    progress: Progress,
) -> None:
    """Make the index of each block that is not there, whole, one block after the other.

    folder: the snapshot's. keys: [N, D] of each block. thresholds: of each block, the one that recall is measured at.
    """
    missing = missing_blocks(kind, folder, len(keys), *keys[0].shape)
    progress(FOLDERS[kind], len(keys) - len(missing), len(keys))
    for done, block in enumerate(missing, len(keys) - len(missing) + 1):
        if kind == "flat":
            _write_index(folder / faiss_file(FAISS_FLAT_FOLDER, block), flat_of(keys[block]))
        else:
            _write_lists(folder, block, keys[block], counts, thresholds[block])
        progress(FOLDERS[kind], done, len(keys))


def missing_blocks(kind: FaissKind, folder: Path, blocks: int, substrings: int, d_model: int) -> list[int]:
    """The blocks whose index is not there, or is not that of such a snapshot."""

    def opens(block: int) -> bool:
        try:
            _load_index(kind, folder, block, (substrings, d_model))
            return kind == "flat" or bool(load_recall(folder, block))
        except DamageError:
            return False

    return [block for block in range(blocks) if not opens(block)]


def open_flat(datastore: Datastore, *, on_gpus: bool = False) -> list[Index]:
    """The backend `faiss` of each block: the stored index, mapped, or one that is made.

    Raises DamageError for a file that is not that index, BackendError where faiss is not installed.
    """
    is_stored = FAISS_FLAT_FOLDER in datastore.manifest.parts
    opened: list[Index] = []
    for block, keys in enumerate(datastore.keys):
        flat = _load_index("flat", datastore.path, block, keys.shape) if is_stored else None
        opened.append(
            FaissGpuFlatIndex(keys, datastore.counts, flat, device=Gpus())
            if on_gpus
            else FaissFlatIndex(keys, datastore.counts, flat)
        )
    return opened


def open_lists(datastore: Datastore, *, on_gpus: bool = False) -> list[Index]:
    """The backend `faiss-ivf` of each block of a snapshot that has its part. Raises as `open_flat` does."""
    opened: list[Index] = []
    for block, keys in enumerate(datastore.keys):
        ivf = _load_index("ivf", datastore.path, block, keys.shape)
        recall = load_recall(datastore.path, block).recall
        device = Gpus() if on_gpus else None
        opened.append(FaissIvfIndex(keys, datastore.counts, ivf, recall=recall, device=device))
    return opened


def load_recall(folder: Path, block: int) -> MeasuredRecall:
    """What the lists of a block find; raises DamageError for a file that does not say so."""
    path = folder / recall_file(block)
    try:
        return MeasuredRecall(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise unreadable(path, error) from None


def _write_lists(folder: Path, block: int, keys: Float16, counts: NextTokenCounts, threshold: float) -> None:
    ivf = ivf_of(keys, Gpus() if count_gpus() else None)
    sample = np.sort(np.random.default_rng(SEED).permutation(len(keys))[:RECALL_QUERIES])
    queries, exact = keys[sample], ExactIndex(keys, counts)
    pages = [range(len(keys))[part] for part in parts_of(len(keys), PAGE_KEYS)]
    found = measure(ivf, queries, (exact.range_search(queries, threshold, ids=page) for page in pages))
    ivf.nprobe = found.probes
    measured = MeasuredRecall(ivf.nlist, *found, len(queries), threshold)
    save_text(folder / recall_file(block), json.dumps(asdict(measured), indent=1) + "\n")
    _write_index(folder / faiss_file(FAISS_IVF_FOLDER, block), ivf)


def _write_index(path: Path, index: Any) -> None:
    """Write an index in faiss' format, whole or not at all."""

    def write(partial: Path) -> None:
        faiss = library()
        # Faiss' own writer leaves the last buffer to C's fclose, and a full disk unnoticed.
        with partial.open("wb") as file:
            faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))

    write_whole(path, write)


def _load_index(kind: FaissKind, folder: Path, block: int, shape: tuple[int, ...]) -> Any:
    """Map faiss' index of a block into memory; raises DamageError for a file that is not that of keys [N, D]."""
    faiss, path = library(), folder / faiss_file(FOLDERS[kind], block)
    wanted = faiss.IndexFlatIP if kind == "flat" else faiss.IndexIVFFlat
    require_readable(path)
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise DamageError(
            f"{path} cannot be read as an index of faiss ({str(error).splitlines()[0]}): build the snapshot again",
            file=path.name,
        ) from None
    if not isinstance(index, wanted) or (index.ntotal, index.d) != shape:
        raise DamageError(
            f"{path} holds a {type(index).__name__} of {index.ntotal} x {index.d} where the manifest says "
            f"{wanted.__name__} of {shape[0]} x {shape[1]}: build the snapshot again",
            file=path.name,
        )
    return index

"""Long work over many items, chunk by chunk: what is done is kept in a folder, and a killed run goes on there.

work.json       what the work is
chunk-I.npz     the arrays of one chunk, whole or not at all
"""

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.alone import Identity
from ffnsearch_indexer.answer.predictor import Predictor
from ffnsearch_indexer.errors import BackendError
from ffnsearch_indexer.files import disk_errors, write_whole
from ffnsearch_indexer.progress import Progress, silent
from ffnsearch_indexer.store.work import claim, clear

CHUNK_PROMPTS = 512
"""Prompts searched at once, at most: enough for wide matrix products, and all that a kill can lose."""

CHUNK_SUMS = 1 << 26
"""Most sums of a chunk, over its prompts, all steps and endings, and tokens: half a gigabyte, if V is large."""

Arrays = dict[str, NDArray[Any]]
"""The results of a chunk by name; the first axis of each is the chunk's items."""


def identity_of_search(predictor: Predictor, prompts: NDArray[np.uint16], *, exclude_self: bool) -> Identity:
    """All that decides what a predictor finds for prompts [n, L], but the thresholds."""
    files = predictor.datastore.manifest.files
    content = json.dumps({name: entry.sha256 for name, entry in files.items()}, sort_keys=True)
    return {
        "snapshot_sha256": hashlib.sha256(content.encode()).hexdigest(),
        "set_of_prompts_sha256": hashlib.sha256(prompts.tobytes()).hexdigest(),
        "exclude_self": exclude_self,
        "backend": predictor.backend,
    }


def require_exact(predictor: Predictor) -> None:
    """Refuse (BackendError) to keep what an approximate search finds: a manifest's figures are of an exact one."""
    if predictor.approximate:
        raise BackendError(
            f"the backend {predictor.backend} is approximate, and a snapshot keeps figures of exact ones: "
            "choose another, or --no-save",
            reason="APPROXIMATE_BACKEND",
        )


@contextmanager
def work_in(folder: Path, identity: Identity) -> Iterator[None]:
    """Claim a folder for this work alone, or go on with what is there; it is deleted when the work is done.

    identity: all that decides the results, in values that survive JSON. After an error or a kill the folder stays,
    unless nothing is in it. Raises OutputError for a folder in use or with the chunks of other work, and where the
    disk refuses.
    """
    advice = "make room or choose another place; what is done is kept, the same command continues it"
    with disk_errors(advice), claim(folder, identity):
        yield
        clear(folder)


def map_chunks(
    folder: Path,
    items: int,
    compute: Callable[[range], Arrays],
    *,
    chunk_items: int,
    stage: str,
    progress: Progress = silent,
) -> Iterator[Arrays]:
    """Yield the arrays of each chunk of `items` in order: those in the folder, or else computed and kept there.

    To be used within `work_in`, and with the same `chunk_items` each time: let it be part of the identity.
    """
    progress(stage, 0, items)
    for first in range(0, items, chunk_items):
        rows = range(first, min(first + chunk_items, items))
        path = folder / f"chunk-{first // chunk_items:05}.npz"
        arrays = _load(path)
        if arrays is None:
            arrays = compute(rows)
            _save(path, arrays)
        progress(stage, rows.stop, items)
        yield arrays


def chunk_prompts(sums: int) -> int:
    """How many prompts make a chunk, where so many sums are found for each."""
    return max(1, min(CHUNK_PROMPTS, CHUNK_SUMS // max(1, sums)))


def concatenated(chunks: Iterable[Arrays]) -> Arrays:
    """All chunks, at least one, as one, array by array; for a moment they are held twice."""
    parts = list(chunks)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _load(path: Path) -> Arrays | None:
    """The arrays of a chunk; None where it is missing, or damaged and to be computed again."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:  # np.load leaves a damaged one open
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _save(path: Path, arrays: Arrays) -> None:
    def write(partial: Path) -> None:
        with partial.open("wb") as file:  # np.savez would change the name of a path
            np.savez(file, allow_pickle=False, **arrays)

    write_whole(path, write)

"""What is to be built, of what, and where."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ffnsearch_indexer.corpora.corpus import Corpus, Split
from ffnsearch_indexer.errors import OutputError
from ffnsearch_indexer.files import disk_errors
from ffnsearch_indexer.store.faiss import FaissKind


@dataclass(frozen=True)
class BuildRequest:
    """What is to be built, of which corpus and model, and where.

    device: where the model runs and tiles are measured, `auto`, `cpu` or `cuda`. precision: of the model on a GPU, one
    of PRECISIONS. faiss: the indexes that are to follow the build: their room is asked for, too.
    """

    corpus: Corpus
    model_folder: Path
    out: Path
    window_tokens: int = 10
    split: Split = "all"
    device: str = "auto"
    precision: str = "float32"
    faiss: Sequence[FaissKind] = ()


def is_there(out: Path) -> bool:
    """Whether anything has the name of a snapshot to be; raises OutputError where that cannot be told."""
    with disk_errors("choose another place"):
        return out.exists() or out.is_symlink()  # a link to nothing is there too


def require_new(out: Path) -> None:
    """Raise OutputError where a snapshot cannot get this name."""
    try:
        str(out).encode()
    except UnicodeEncodeError:
        raise OutputError(
            f"the name {out} is not UTF-8, which LMDB and others need: choose another name", path=out
        ) from None
    if is_there(out):
        raise OutputError(
            f"{out} exists already: choose another name, delete it, or go on with what follows its build: --resume",
            reason="OUTPUT_EXISTS",
            path=out,
        )

"""What is a corpus: one text, read from a file, a folder of files, or a built-in source."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ffnsearch_indexer.corpora import shakespeare
from ffnsearch_indexer.errors import CorpusError

BUILT_IN = {"shakespeare": shakespeare.render}
TRAIN_FRACTION = 0.9
"""Share of the characters, from the start, that a model trains on; the rest is for validation."""


@dataclass(frozen=True)
class Corpus:
    """One text and the name it is known by. Immutable, safe to share between threads."""

    name: str
    text: str

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the UTF-8 bytes, in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def train_tokens(self) -> int:
        """How many characters from the start belong to the training split."""
        return int(TRAIN_FRACTION * len(self.text))


def read_corpus(source: str) -> Corpus:
    """Read the corpus named by `source`: a built-in name, a UTF-8 file, or a folder of `*.txt` files.

    The files of a folder are joined in the order of their relative paths, a newline added where one
    does not end in it. Raises CorpusError, which names the file, and the offset of undecodable bytes.
    """
    if source in BUILT_IN:
        return Corpus(source, BUILT_IN[source]())
    path = Path(source)
    if path.is_dir():
        text = _read_folder(path)
    elif path.is_file():
        text = _read_file(path)
    else:
        known = ", ".join(sorted(BUILT_IN))
        raise CorpusError(
            f"no corpus at {source}: give a UTF-8 text file, a folder of .txt files, or a built-in name ({known})",
            reason="CORPUS_NOT_FOUND",
            corpus=source,
        )
    if not text:
        raise CorpusError(
            f"the corpus {source} is empty: there is nothing to index", reason="EMPTY_CORPUS", corpus=source
        )
    return Corpus(path.stem or path.resolve().name, text)


def _read_folder(folder: Path) -> str:
    paths = sorted(path for path in folder.rglob("*.txt") if path.is_file())
    if not paths:
        raise CorpusError(
            f"no .txt file in {folder}: put the texts there, or name one file", reason="EMPTY_CORPUS", corpus=folder
        )
    texts = [_read_file(path) for path in paths]
    return "".join(text if text.endswith("\n") or not text else text + "\n" for text in texts)


def _read_file(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path} is not UTF-8 text: byte 0x{error.object[error.start]:02x} at offset {error.start}; "
            "convert it (for example with iconv) or leave it out",
            reason="UNDECODABLE_CORPUS",
            file=path,
            offset_bytes=error.start,
        ) from None
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror}", reason="CORPUS_UNREADABLE", file=path) from None

"""A corpus: one text, read from a file, a folder of files, or a built-in source."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NoReturn

from ffnsearch_indexer.corpora import shakespeare
from ffnsearch_indexer.errors import CorpusError

BUILT_IN = {"shakespeare": shakespeare.render}
Split = Literal["all", "train"]
"""Which part of a corpus is indexed: the whole, or what a model trains on."""

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
        return train_part(len(self.text))


def train_part(tokens: int) -> int:
    """How many of `tokens` tokens, from the start, belong to the training split."""
    return int(TRAIN_FRACTION * tokens)


def read_corpus(source: str) -> Corpus:
    """Read the corpus named by `source`: a built-in name, a UTF-8 file, or a folder of `.txt` files.

    The ending `.txt` may be in any case. The files of a folder are joined in the order of their relative paths; one
    that does not end in a newline gets one. A text is always whole: links to folders and files that cannot be read
    are refused. What is not UTF-8 in the name of the corpus is replaced. Raises CorpusError, which names the file, and
    the offset of undecodable bytes.
    """
    if source in BUILT_IN:
        return Corpus(source, BUILT_IN[source]())
    path = Path(source)
    try:
        text = _read(path) if source else None  # Path("") is the current folder
    except OSError as error:
        where = error.filename or source
        raise CorpusError(
            f"cannot read {where}: {error.strerror}; check the name and the permissions",
            reason="CORPUS_UNREADABLE",
            file=where,
        ) from None
    if text is None:
        known = ", ".join(sorted(BUILT_IN))
        raise CorpusError(
            f"no corpus at {source!r}: give a UTF-8 text file, a folder of .txt files, or a built-in name ({known})",
            reason="CORPUS_NOT_FOUND",
            corpus=source,
        )
    if not text:
        raise CorpusError(
            f"the corpus {source} is empty: there is nothing to index", reason="EMPTY_CORPUS", corpus=source
        )
    name = path.stem or path.resolve().name
    return Corpus(name.encode(errors="surrogateescape").decode(errors="replace"), text)


def _read(path: Path) -> str | None:
    if path.is_dir():
        return _read_folder(path)
    return _read_file(path) if path.is_file() else None


def _read_folder(folder: Path) -> str:
    paths = sorted(_texts_in(folder))
    if not paths:
        raise CorpusError(
            f"no .txt file in {folder}: put the texts there, or name one file", reason="EMPTY_CORPUS", corpus=folder
        )
    texts = [_read_file(path) for path in paths]
    return "".join(text if text.endswith("\n") or not text else text + "\n" for text in texts)


def is_text(name: str) -> bool:
    """Whether a file of this name belongs to the corpus of its folder."""
    return name.lower().endswith(".txt")


def _texts_in(folder: Path) -> Iterator[Path]:
    """The .txt files of a folder and its subfolders. Raises OSError and CorpusError rather than leave one out."""
    for parent, folders, files in os.walk(folder, onerror=_raise):
        texts = [Path(parent, name) for name in files if is_text(name)]
        links = [path for name in folders if (path := Path(parent, name)).is_symlink()]
        if refused := links + [path for path in texts if not path.is_file()]:
            raise CorpusError(
                f"{refused[0]} is a link to a folder, or not a file: put the texts themselves there, or remove it",
                reason="CORPUS_UNREADABLE",
                file=refused[0],
            )
        yield from texts


def _raise(error: OSError) -> NoReturn:
    raise error


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

"""Which file of an allowed folder does a caller's name mean? Nothing outside it, whatever the name."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ffnsearch_indexer.corpora.corpus import is_text
from ffnsearch_service.errors import AbsentError, RequestError, StateError

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_PARTS_MAX = 8


@dataclass(frozen=True)
class Folders:
    """The folders that callers may name things in, absolute paths, each None where the operator allows none.

    snapshots: read by loads, written by builds. corpora: texts to build from. models: folders of trained models.
    """

    snapshots: Path | None = None
    corpora: Path | None = None
    models: Path | None = None

    def snapshot(self, name: str, *, field: str) -> Path:
        """Where a snapshot is or will be. Raises RequestError, StateError where the operator allows no folder."""
        return _inside(self.snapshots, name, "snapshots", field)

    def corpus(self, name: str, *, field: str) -> Path:
        """A file or a folder of texts that is there. Raises as `snapshot` does, and AbsentError."""
        path = _present(_inside(self.corpora, name, "corpora", field), name, "CORPUS_NOT_FOUND", field)
        for text in _texts_and_links(path):
            _require_inside(self.corpora, text, field)  # a link in the folder may lead out of it
        return path

    def model(self, name: str, *, field: str) -> Path:
        """The folder of a model that is there. Raises as `corpus` does."""
        path = _present(_inside(self.models, name, "models", field), name, "MODEL_NOT_FOUND", field)
        for file in path.iterdir() if path.is_dir() else ():
            _require_inside(self.models, file, field)
        return path

    def name_of(self, snapshot: Path) -> str:
        """How a caller names the folder of a snapshot; "" for one outside the allowed folder."""
        if self.snapshots is None or not snapshot.is_relative_to(self.snapshots):
            return ""
        return snapshot.relative_to(self.snapshots).as_posix()


def _texts_and_links(folder: Path) -> Iterator[Path]:
    """What a corpus is read from, where it is a folder: its texts, and links to other folders."""
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent, name) for name in files if is_text(name))
        yield from (path for name in folders if (path := Path(parent, name)).is_symlink())


def _inside(folder: Path | None, name: str, kind: str, field: str) -> Path:
    if folder is None:
        raise StateError(
            f"{field}: this server allows no {kind}: its operator sets {kind}_folder in [admin]",
            reason="FOLDER_NOT_SET",
            field=field,
        )
    parts = name.split("/")
    if len(parts) > _PARTS_MAX or not all(_PART.fullmatch(part) for part in parts):
        raise _not_allowed(field)
    path = folder.joinpath(*parts)
    _require_inside(folder, path, field)
    return path


def _require_inside(folder: Path | None, path: Path, field: str) -> None:
    """Follow every link of a path, and refuse one that ends outside the folder."""
    assert folder is not None
    try:
        end = path.resolve()
        is_inside = end.is_relative_to(folder.resolve()) and not any(part.is_symlink() for part in (end, *end.parents))
    except (OSError, RuntimeError, ValueError):  # links in a circle, which Python 3.13 leaves as they are
        is_inside = False
    if not is_inside:
        raise _not_allowed(field)


def _present(path: Path, name: str, reason: str, field: str) -> Path:
    if not (path.is_file() or path.is_dir()):
        raise AbsentError(f"{field}: there is no {name[:80]} in the allowed folder", reason=reason, field=field)
    return path


def _not_allowed(field: str) -> RequestError:
    return RequestError(
        f"{field}: name something in the allowed folder by parts of letters, digits, dots, hyphens and underscores, "
        f"at most {_PARTS_MAX} joined by /, none of which begins with a dot or leads out of the folder",
        reason="PATH_NOT_ALLOWED",
        field=field,
    )

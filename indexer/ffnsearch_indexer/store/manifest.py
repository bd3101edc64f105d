"""What identifies a snapshot: its manifest, how it is read, written, and changed by one process at a time."""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ffnsearch_indexer.errors import DamageError, FormatError, SnapshotError
from ffnsearch_indexer.files import disk_errors, hash_files, save_text, unreadable
from ffnsearch_indexer.progress import Progress, silent
from ffnsearch_indexer.store.layout import MANIFEST_FILE, PARTS, TILES_FOLDER, file_names

FORMAT_VERSION = 1


@dataclass(frozen=True)
class FileEntry:
    """One file of a snapshot."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """All that identifies a snapshot. `snapshot_id` is the SHA-256 of everything else in it.

    trained_on: `corpus` and `corpus_sha256` of what the model was trained on. Where that is not known it is None, and
    the file leaves it out, as files of earlier versions do.
    """

    model_sha256: str
    tokenizer_sha256: str
    corpus_name: str
    corpus_sha256: str
    corpus_characters: int
    split: str
    window_tokens: int
    blocks: int
    d_model: int
    substrings: int
    distinct_prefixes: int
    vocabulary_size: int
    shards: int
    profiles: dict[str, dict[str, Any]]
    default_profile: str
    files: dict[str, FileEntry]
    written_by: dict[str, str]
    fidelity: dict[str, Any] | None = None
    trained_on: dict[str, str] | None = None
    key_dtype: str = "float16"
    format_version: int = FORMAT_VERSION
    snapshot_id: str = ""

    def content_sha256(self) -> str:
        """What `snapshot_id` must be."""
        content = self._document() | {"snapshot_id": ""}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """The text of the manifest file."""
        return json.dumps(self._document(), indent=1, sort_keys=True) + "\n"

    @property
    def parts(self) -> frozenset[str]:
        """Which of PARTS the snapshot has."""
        return frozenset(name.split("/")[0] for name in self.files) & PARTS.keys()

    @property
    def precision(self) -> str:
        """The precision of the model that made the keys; a GPU runs it likewise for queries."""
        return self.written_by.get("precision", "float32")

    @property
    def is_of_training_text(self) -> bool:
        """Whether the corpus is known to be what the model was trained on."""
        return self.trained_on is not None and self.trained_on["corpus_sha256"] == self.corpus_sha256

    def total_bytes(self) -> int:
        """Size of all files but the manifest."""
        return sum(entry.bytes for entry in self.files.values())

    def _document(self) -> dict[str, Any]:
        document = asdict(self)
        if self.trained_on is None:
            del document["trained_on"]
        return document


def write_manifest(folder: Path, manifest: Manifest, progress: Progress = silent) -> Manifest:
    """Complete a manifest with the sizes and hashes of the folder's files and its id; write it, and return it."""
    names = file_names(manifest.blocks, [TILES_FOLDER])
    return _write_with_id(folder, replace(manifest, files=_entries(folder, names, progress)))


def list_part(folder: Path, part: str, progress: Progress = silent) -> Manifest:
    """Add the files of one of PARTS, which have been written into the folder, to its manifest, and return that."""
    names = PARTS[part](read_manifest(folder).blocks)
    entries = _entries(folder, names, progress)  # reads gigabytes: nobody waits for it
    with _changing(folder) as manifest:
        return _write_with_id(folder, replace(manifest, files=manifest.files | entries))


def drop_part(folder: Path, part: str) -> Manifest:
    """Take the files of one of PARTS out of a snapshot's manifest, and return that; the files stay where they are."""
    with _changing(folder) as manifest:
        files = {name: entry for name, entry in manifest.files.items() if name not in PARTS[part](manifest.blocks)}
        return _write_with_id(folder, replace(manifest, files=files))


def revise_manifest(folder: Path, change: Callable[[Manifest], Manifest]) -> Manifest:
    """Change what a snapshot's manifest says of anything but its files; write it in one step, and return it.

    change: gives the new manifest of the one that is there then: another process may have changed it since it was
    read. The snapshot gets a new id; no file is read again. Raises as `read_manifest` does, and OutputError where the
    manifest cannot be written: the old one is still there.
    """
    with disk_errors("the snapshot is as it was; make room, or make it writable"), _changing(folder) as manifest:
        changed = change(manifest)
        assert changed.files == manifest.files, "files are listed and dropped as parts"
        return _write_with_id(folder, changed)


def read_manifest(folder: Path) -> Manifest:
    """Read and check a manifest.

    Raises SnapshotError where there is none or it cannot be read, FormatError for another version, DamageError for an
    altered one.
    """
    path = folder / MANIFEST_FILE
    try:
        text = path.read_bytes().decode()
        document = json.loads(text)
        version = document["format_version"]
    except (FileNotFoundError, NotADirectoryError):
        raise SnapshotError(
            f"{folder} is no snapshot: it has no {MANIFEST_FILE}; make one with `ffnsearch build`",
            reason="SNAPSHOT_NOT_FOUND",
            snapshot=folder,
        ) from None
    except KeyError:
        raise DamageError(f"{path} has no format_version: build the snapshot again", file=MANIFEST_FILE) from None
    except (OSError, ValueError, TypeError) as error:
        raise unreadable(path, error) from None
    if version != FORMAT_VERSION:
        raise FormatError(
            f"{folder} has format {version}, this version reads format {FORMAT_VERSION}: "
            "build it again, or use the version of ffnsearch that wrote it",
            format_version=version,
        )
    if unknown := document.keys() - Manifest.__dataclass_fields__.keys():
        raise FormatError(
            f"{folder} has in its manifest what this version does not know ({', '.join(sorted(unknown))}): "
            "use the version of ffnsearch that wrote it, or build it again",
            format_version=version,
        )
    try:
        files = {name: FileEntry(**entry) for name, entry in document.pop("files").items()}
        manifest = Manifest(files=files, **document)
    except (KeyError, TypeError, AttributeError) as error:
        raise DamageError(
            f"{path} lacks a field, or has one that is wrong ({error}): build the snapshot again", file=MANIFEST_FILE
        ) from None
    if manifest.content_sha256() != manifest.snapshot_id or manifest.to_json() != text:
        raise DamageError(
            f"{path} was altered: its content is not that of its id; build the snapshot again", file=MANIFEST_FILE
        )
    if sorted(manifest.files) != file_names(manifest.blocks, manifest.parts):
        raise DamageError(f"{path} does not list the files of a snapshot; build it again", file=MANIFEST_FILE)
    return manifest


def _entries(folder: Path, names: list[str], progress: Progress) -> dict[str, FileEntry]:
    paths = [folder / name for name in names]
    hashes = hash_files(paths, stage="checksums, MB", progress=progress)
    return {
        name: FileEntry(path.stat().st_size, sha256) for name, path, sha256 in zip(names, paths, hashes, strict=True)
    }


@contextmanager
def _changing(folder: Path) -> Iterator[Manifest]:
    """The manifest, which nobody else changes meanwhile; waits for another process or thread that does."""
    read_manifest(folder)  # refuses what is no snapshot
    path = folder / MANIFEST_FILE
    while True:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):  # else another has put a new one in its place
                yield read_manifest(folder)
                return


def _write_with_id(folder: Path, manifest: Manifest) -> Manifest:
    whole = replace(manifest, snapshot_id=manifest.content_sha256())
    save_text(folder / MANIFEST_FILE, whole.to_json())
    return whole

"""What a snapshot is: a folder with a manifest that names, sizes and hashes every file in it.

model/              weights, sizes and tokenizer: a snapshot answers prompts by itself
corpus/tokens.npy   [T] uint16, the whole corpus, also what lies outside the indexed split
substrings/first_positions.npy   [N] int64
keys/block-K.npy    [N, D] float16, one file a block
counts/offsets.npy, tokens.npy, counts.npy   next-token counts in compressed rows
counts/counts.lmdb  records by the tokens of a substring
tiles/block-K/      what the `tiles` backend knows of the keys; a part, which a snapshot may lack
self-sums/          what every substring finds, at some thresholds; a part, too
faiss-flat/block-K.faiss   faiss' index of the keys, in its own format; a part, too
faiss-ivf/block-K.faiss, block-K.json   faiss' lists of the keys, and how many neighbors they find; a part, too
manifest.json       written last; the folder gets its final name after it
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ffnsearch_indexer.errors import DamageError, FormatError, SnapshotError
from ffnsearch_indexer.files import disk_errors, hash_files, require_readable, unreadable, write_whole
from ffnsearch_indexer.index.tiles import Tiles
from ffnsearch_indexer.models.transformer import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from ffnsearch_indexer.progress import Progress, silent

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
MODEL_FOLDER, KEYS_FOLDER, TILES_FOLDER, SELF_SUMS_FOLDER = "model", "keys", "tiles", "self-sums"
FAISS_FLAT_FOLDER, FAISS_IVF_FOLDER = "faiss-flat", "faiss-ivf"
CORPUS_FILE = "corpus/tokens.npy"
FIRST_POSITIONS_FILE = "substrings/first_positions.npy"
OFFSETS_FILE, TOKENS_FILE, COUNTS_FILE = "counts/offsets.npy", "counts/tokens.npy", "counts/counts.npy"
RECORDS_FILE = "counts/counts.lmdb"
SELF_SUMS_THRESHOLDS_FILE = f"{SELF_SUMS_FOLDER}/thresholds.json"


def keys_file(block: int) -> str:
    """Where the keys of a block are, relative to the snapshot."""
    return f"{KEYS_FOLDER}/block-{block}.npy"


def tiles_files(block: int) -> dict[str, str]:
    """Where the arrays of a block's tiles are, by name, relative to the snapshot."""
    return {name: f"{TILES_FOLDER}/block-{block}/{name}.npy" for name in Tiles._fields}


def self_sums_files(block: int) -> dict[str, str]:
    """Where the arrays of a block's self-sums are, by name, relative to the snapshot."""
    names = ("offsets", "tokens", "sums", "neighbors")
    return {name: f"{SELF_SUMS_FOLDER}/block-{block}/{name}.npy" for name in names}


def faiss_file(part: str, block: int) -> str:
    """Where faiss' index of a block is, relative to the snapshot."""
    return f"{part}/block-{block}.faiss"


def recall_file(block: int) -> str:
    """Where it says how many neighbors the lists of a block find, relative to the snapshot."""
    return f"{FAISS_IVF_FOLDER}/block-{block}.json"


PARTS: dict[str, Callable[[int], list[str]]] = {
    TILES_FOLDER: lambda blocks: [name for block in range(blocks) for name in tiles_files(block).values()],
    SELF_SUMS_FOLDER: lambda blocks: [
        SELF_SUMS_THRESHOLDS_FILE,
        *(name for block in range(blocks) for name in self_sums_files(block).values()),
    ],
    FAISS_FLAT_FOLDER: lambda blocks: [faiss_file(FAISS_FLAT_FOLDER, block) for block in range(blocks)],
    FAISS_IVF_FOLDER: lambda blocks: [
        name for block in range(blocks) for name in (faiss_file(FAISS_IVF_FOLDER, block), recall_file(block))
    ],
}
"""What a snapshot has or lacks as a whole: a folder each, and the files in it by the number of blocks."""


def file_names(blocks: int, parts: Collection[str]) -> list[str]:
    """All files of a snapshot with some of PARTS but the manifest, relative to it."""
    model = [f"{MODEL_FOLDER}/{name}" for name in (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE)]
    arrays = [CORPUS_FILE, FIRST_POSITIONS_FILE, OFFSETS_FILE, TOKENS_FILE, COUNTS_FILE, RECORDS_FILE]
    keys = [keys_file(block) for block in range(blocks)]
    return sorted([*model, *arrays, *keys, *(name for part in parts for name in PARTS[part](blocks))])


@dataclass(frozen=True)
class FileEntry:
    """One file of a snapshot."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """All that identifies a snapshot. `snapshot_id` is the SHA-256 of everything else in it.

    trained_on: `corpus` and `corpus_sha256` of what the model was trained on, None where that is not known; the file
    lacks it then, as an older one does.
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


def revise_manifest(folder: Path, **changes: Any) -> Manifest:
    """Replace fields of a snapshot's manifest that say nothing about its files; write it in one step, and return it.

    changes: `profiles`, `default_profile`, `fidelity`, `trained_on`, or functions that give them of the manifest as it
    is then: another process may have changed it since it was read. The snapshot gets a new id; no file is read again.
    Raises as `read_manifest` does, and OutputError where the manifest cannot be written: the old one is still there.
    """
    assert changes.keys() <= {"profiles", "default_profile", "fidelity", "trained_on"}, (
        f"these belong to the files: {changes}"
    )
    with disk_errors("the snapshot is as it was; make room, or make it writable"), _changing(folder) as manifest:
        revised = {name: change(manifest) if callable(change) else change for name, change in changes.items()}
        return _write_with_id(folder, replace(manifest, **revised))


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


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Raise DamageError for the first file that is missing or has another size, SnapshotError for an unreadable one."""
    for name, entry in manifest.files.items():
        path = folder / name
        try:
            found_bytes = path.stat().st_size if path.is_file() else None
        except OSError as error:
            raise unreadable(path, error) from None
        if found_bytes is None:
            raise DamageError(f"{folder} lacks {name}: copy the snapshot again, or build it again", file=name)
        if found_bytes != entry.bytes:
            raise DamageError(
                f"{name} in {folder} has {found_bytes} bytes, the manifest says {entry.bytes}: "
                "copy the snapshot again, or build it again",
                file=name,
            )
        require_readable(path)


def check_content(folder: Path, manifest: Manifest, progress: Progress = silent) -> None:
    """Read every byte; raise DamageError for the first file whose hash is not the manifest's, or as `check_sizes`."""
    names = list(manifest.files)
    try:
        hashes = hash_files([folder / name for name in names], stage="verify, MB", progress=progress)
    except OSError as error:
        raise unreadable(Path(error.filename), error) from None
    for name, sha256 in zip(names, hashes, strict=True):
        if sha256 != manifest.files[name].sha256:
            raise DamageError(
                f"{name} in {folder} was altered: its hash is not the manifest's; "
                "copy the snapshot again, or build it again",
                file=name,
            )


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
    write_whole(folder / MANIFEST_FILE, lambda path: _write_text(path, whole.to_json()))
    return whole


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")

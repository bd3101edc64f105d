"""Are the files of a snapshot those that its manifest names? By their sizes, or byte by byte."""

from pathlib import Path

from ffnsearch_indexer.errors import DamageError
from ffnsearch_indexer.files import hash_files, require_readable, unreadable
from ffnsearch_indexer.progress import Progress, silent
from ffnsearch_indexer.store.manifest import Manifest


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

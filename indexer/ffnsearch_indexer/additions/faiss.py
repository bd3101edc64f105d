"""How a snapshot gets indexes of faiss', block by block."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ffnsearch_indexer.answer.profile import choose_profiles, default_profile
from ffnsearch_indexer.files import disk_errors, require_free_disk
from ffnsearch_indexer.progress import Progress, silent
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_indexer.store.faiss import FOLDERS, FaissKind, FaissPlan, missing_blocks, plan_faiss, write_faiss
from ffnsearch_indexer.store.manifest import Manifest, list_part
from ffnsearch_indexer.store.work import claim, part_folder


def add_faiss(
    folder: Path,
    kinds: Sequence[FaissKind],
    *,
    announce: Callable[[FaissPlan], None] = lambda plan: None,
    progress: Progress = silent,
) -> Manifest:
    """Make faiss' indexes of some kinds for a snapshot that lacks them, and return the new manifest.

    Recall is measured at the lowest thresholds of the default profile. announce: called once with what the work will
    take, unless there is none. Raises what opening a snapshot raises, BackendError where faiss is not installed, and
    OutputError where the disk refuses or another process makes the same; what is done is kept then, and the same call
    continues it.
    """
    with Datastore.open(folder, check="sizes") as datastore, disk_errors("make room; the same command continues"):
        manifest, keys = datastore.manifest, datastore.keys
        wanted = [kind for kind in kinds if FOLDERS[kind] not in manifest.parts]
        missing = {kind: len(missing_blocks(kind, folder, len(keys), *keys[0].shape)) for kind in wanted}
        plan = plan_faiss(missing, manifest.substrings, manifest.d_model)
        require_free_disk(folder, plan.disk_bytes)
        if wanted:
            announce(plan)
        for kind in wanted:
            with claim(part_folder(folder, FOLDERS[kind]), {}):
                write_faiss(kind, folder, keys, datastore.counts, _lowest_thresholds(manifest), progress)
                manifest = list_part(folder, FOLDERS[kind], progress)
        return manifest


def _lowest_thresholds(manifest: Manifest) -> list[float]:
    """Of each block the lowest of the default profile, or of the usual one where that does not look at a block."""
    (profile,) = choose_profiles(manifest.profiles, [manifest.default_profile])
    usual = default_profile(manifest.blocks).thresholds_by_block
    return [min(own or other) for own, other in zip(profile.thresholds_by_block, usual, strict=True)]

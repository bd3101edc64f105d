"""How a snapshot that was built without tiles gets them, block by block."""

from pathlib import Path

from ffnsearch_indexer.files import disk_errors, require_free_disk
from ffnsearch_indexer.index.tiles import ENDING_TOKENS, tiles_bytes
from ffnsearch_indexer.progress import Progress, silent
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_indexer.store.layout import TILES_FOLDER
from ffnsearch_indexer.store.manifest import Manifest, list_part
from ffnsearch_indexer.store.tiles import missing_tiles, write_tiles
from ffnsearch_indexer.store.work import claim, part_folder


def add_tiles(folder: Path, *, progress: Progress = silent) -> Manifest:
    """Make what the `tiles` backend needs for a snapshot that lacks it, and return the new manifest.

    Raises what opening a snapshot raises, and OutputError where the disk refuses or another process makes the same;
    what is done is kept then, and the same call continues it.
    """
    with Datastore.open(folder, check="sizes") as datastore, disk_errors("make room; the same command continues"):
        if datastore.tiles:
            return datastore.manifest
        manifest, counts = datastore.manifest, datastore.counts
        missing = missing_tiles(folder, manifest.blocks, manifest.substrings, manifest.d_model)
        require_free_disk(folder, len(missing) * tiles_bytes(manifest.substrings, manifest.d_model, counts))
        endings = datastore.windows[datastore.first_positions, -ENDING_TOKENS:]
        with claim(part_folder(folder, TILES_FOLDER), {}):
            write_tiles(folder, datastore.keys, counts, endings, progress)
            return list_part(folder, TILES_FOLDER, progress)

"""Which backend searches the blocks of a snapshot? Each is imported only when it is wanted."""

from collections.abc import Iterable
from itertools import repeat

from ffnsearch_indexer.errors import BackendError
from ffnsearch_indexer.index.base import Index
from ffnsearch_indexer.index.tiles import Tiles
from ffnsearch_indexer.store.datastore import Datastore

BACKENDS = ("tiles", "exact", "faiss", "fused")


def open_indexes(datastore: Datastore, backend: str) -> list[Index]:
    """The index of each block; a backend is imported only when it is wanted.

    Raises BackendError for a backend that does not exist, or that the snapshot has no files for.
    """
    if backend == "tiles":
        from ffnsearch_indexer.index.tiled import TiledIndex

        if datastore.tiles is None:
            raise BackendError(
                f"{datastore.path} has no tiles: make them with `ffnsearch index {datastore.path}`, "
                "or choose --backend exact",
                reason="NO_TILES",
            )
        blocks = zip(datastore.keys, datastore.tiles, strict=True)
        return [TiledIndex(keys, datastore.counts, tiles) for keys, tiles in blocks]
    if backend == "exact":
        from ffnsearch_indexer.index.exact import ExactIndex

        return [ExactIndex(keys, datastore.counts) for keys in datastore.keys]
    if backend == "faiss":
        from ffnsearch_indexer.index.faiss import FaissFlatIndex

        return [FaissFlatIndex(keys, datastore.counts) for keys in datastore.keys]
    if backend == "fused":
        from ffnsearch_indexer.index.fused import FusedIndex

        of_blocks: Iterable[Tiles | None] = datastore.tiles or repeat(None, len(datastore.keys))
        return [
            FusedIndex(keys, datastore.counts, tiles) for keys, tiles in zip(datastore.keys, of_blocks, strict=True)
        ]
    raise BackendError(
        f"the backend {backend!r} is unknown: choose one of {', '.join(BACKENDS)}", reason="UNKNOWN_BACKEND"
    )

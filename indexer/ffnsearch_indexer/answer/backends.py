"""Which backend searches the blocks of a snapshot? Each is imported only when it is wanted."""

from ffnsearch_indexer.errors import BackendError
from ffnsearch_indexer.index.base import Index
from ffnsearch_indexer.store.datastore import Datastore

BACKENDS = ("tiles", "exact", "faiss", "faiss-ivf")


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
        from ffnsearch_indexer.store.faiss import open_flat

        return open_flat(datastore)
    if backend == "faiss-ivf":
        from ffnsearch_indexer.store.faiss import open_lists

        return open_lists(datastore)
    raise BackendError(
        f"the backend {backend!r} is unknown: choose one of {', '.join(BACKENDS)}", reason="UNKNOWN_BACKEND"
    )

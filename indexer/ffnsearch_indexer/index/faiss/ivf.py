"""faiss' inverted lists: only the lists nearest to a query are searched, so neighbors in others are missed."""

import math
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ffnsearch_indexer.corpora.substrings import NextTokenCounts
from ffnsearch_indexer.index.base import Float16, Float32, Neighbors
from ffnsearch_indexer.index.faiss.flat import HEADER_BYTES
from ffnsearch_indexer.index.faiss.gpu import IndexCopier, best_above, within
from ffnsearch_indexer.index.faiss.library import library
from ffnsearch_indexer.index.scan import Pairs, ScanIndex
from ffnsearch_indexer.parts import parts_of

SEED = 1
"""Of the sample of keys that the lists are found from, and of faiss' first guess of their centres."""

LIST_SAMPLE_KEYS = 64
"""Keys in that sample for each list."""

RECALL_MIN = 0.95
"""As many lists are searched as it takes for queries of a sample to find this share of their neighbors on average."""

PROBES_MIN = 2
"""So that a key that is a query is found: its list is the nearest to it, or by rounding the second."""

ADDED_KEYS = 1 << 16
"""Keys that are widened to float32 at once."""

PAIRS_MAX = 1 << 20
"""Most pairs that a call may find, where it has several queries."""


class Recall(NamedTuple):
    """What was measured when lists were made. probes: how many are searched.

    recall: the share of its neighbors that a query finds, in the mean. recall_of_all: the share of all queries'
    neighbors together, which is far lower where few queries have most of them, more than the lists hold.
    """

    probes: int
    recall: float
    recall_of_all: float


def lists_of(substrings: int) -> int:
    """How many lists there are for so many substrings: as many as each list then has keys."""
    return max(1, round(math.sqrt(substrings)))


def ivf_bytes(substrings: int, d_model: int) -> int:
    """How many bytes the lists of one block take on disk, at most; in memory they take up to twice that."""
    return 4 * (substrings + lists_of(substrings)) * (d_model + 4) + HEADER_BYTES


def ivf_of(keys: Float16, device: IndexCopier | None = None) -> Any:
    """Put keys [N, D] into an `IndexIVFFlat`. The same keys give the same bytes on the same machine.

    device: where the centres are found, the CPU by default; others round otherwise, and give other lists.
    """
    faiss, (N, D) = library(), keys.shape
    ivf = faiss.IndexIVFFlat(faiss.IndexFlatIP(D), D, lists_of(N), faiss.METRIC_INNER_PRODUCT)
    ivf.cp.seed = SEED
    ivf.cp.min_points_per_centroid = 1  # fewer than faiss likes are no reason to write to stderr
    if device:
        ivf.clustering_index = device.copy(faiss.IndexFlatIP(D))
    sample = np.random.default_rng(SEED).permutation(N)[: LIST_SAMPLE_KEYS * ivf.nlist]
    ivf.train(keys[np.sort(sample)].astype(np.float32))
    ivf.clustering_index = None
    for part in parts_of(N, ADDED_KEYS):
        ivf.add(keys[part].astype(np.float32))
    return ivf


def measure(ivf: Any, queries: Float16, neighbors: Iterable[Neighbors]) -> Recall:
    """The fewest lists in which queries [B, D] find RECALL_MIN of their neighbors, and what they do find there.

    neighbors: all there are of each query, in parts. A query without any does not count.
    """
    lists = np.empty(ivf.ntotal, np.int64)
    for number in range(ivf.nlist):
        lists[_ids_in(ivf, number)] = number
    order = ivf.quantizer.search(queries.astype(np.float32), ivf.nlist)[1]
    places = np.argsort(order, axis=1)  # [B, lists]: as which each list is searched
    found = np.zeros(order.shape)
    for part in neighbors:
        rows = np.repeat(np.arange(len(queries)), np.diff(part.lims))
        np.add.at(found, (rows, places[rows, lists[part.ids]]), 1)
    found = found[found.any(axis=1)]
    recall = (
        (found.cumsum(axis=1) / found.sum(axis=1, keepdims=True)).mean(axis=0) if len(found) else np.ones(ivf.nlist)
    )
    probes = min(max(PROBES_MIN, 1 + int(np.argmax(recall >= RECALL_MIN))), ivf.nlist)
    of_all = float(found[:, :probes].sum() / found.sum()) if len(found) else 1.0
    return Recall(probes, float(recall[probes - 1]), of_all)


class FaissIvfIndex(ScanIndex):
    """Scores by the range search of `IndexIVFFlat`, or of the best that a device lists: exact, but not of all keys.

    What is found are neighbors, with their exact scores; a query misses those in lists that are not among the
    `nprobe` nearest to it. With nprobe = nlist none is missed. A search takes up to 70 bytes a pair, for PAIRS_MAX
    pairs or, where there are more keys than that, for those of one query.

    ivf: `ivf_of` the keys, its `nprobe` set; it may be mapped. recall: as measured. device: where it is copied to.
    """

    approximate: ClassVar[bool] = True
    pairs_max: ClassVar[int] = PAIRS_MAX

    def __init__(
        self,
        keys: Float16,
        counts: NextTokenCounts,
        ivf: Any,
        *,
        recall: float = 0.0,
        device: IndexCopier | None = None,
    ) -> None:
        super().__init__(keys, counts)
        assert (ivf.ntotal, ivf.d) == keys.shape, "the lists are those of the keys"
        self.recall = recall
        self._ivf = ivf
        self._best_max = device.best_max if device else 0
        self._copy = device.copy(ivf) if device else None

    def scan(self, queries: Float16, cut_score: np.float32, ids: range) -> Iterator[Pairs]:
        """Search the nearest lists, some queries at a time; the contract is the base's, but for what is missed."""
        vectors = queries.astype(np.float32)
        step = max(1, self.pairs_max // len(self.keys))
        for part in parts_of(len(vectors), step):
            for pairs in self._search(vectors[part], cut_score):
                yield within(ids, Pairs(pairs.rows + part.start, pairs.ids, pairs.scores))

    def _search(self, vectors: Float32, cut_score: np.float32) -> Iterator[Pairs]:
        """Ask the device for the best, and the CPU for queries that have more."""
        fuller = np.arange(len(vectors))
        if self._copy:
            pairs, fuller = best_above(self._copy, vectors, cut_score, self._best_max)
            yield pairs
        if len(fuller):
            lims, scores, found = self._ivf.range_search(vectors[fuller], float(cut_score))
            yield Pairs(np.repeat(fuller, np.diff(lims.astype(np.int64))), found, scores)


def _ids_in(ivf: Any, number: int) -> Any:
    """The ids in a list: faiss' own memory, which stays while the index does."""
    lists = ivf.invlists
    return library().rev_swig_ptr(lists.get_ids(number), lists.list_size(number))

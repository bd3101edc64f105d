"""What every search backend must do: one contract, checked against integer arithmetic, and one class a backend.

The oracle shares nothing with the product: a float16 value is a whole number of 2^-24, so a score is a
whole number of 2^-48, and a neighbor is found by comparing whole numbers.
"""

import sys
from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ffnsearch_indexer.corpora.substrings import NextTokenCounts
from ffnsearch_indexer.errors import BackendError, CancelledError
from ffnsearch_indexer.index import fused, scan
from ffnsearch_indexer.index.base import Checkpoint, Index, Neighbors, RangeSums
from ffnsearch_indexer.index.device import DeviceIndex
from ffnsearch_indexer.index.device_search import DeviceSearch
from ffnsearch_indexer.index.exact import ExactIndex
from ffnsearch_indexer.index.exact_device import ExactDeviceIndex
from ffnsearch_indexer.index.faiss.flat import FaissFlatIndex
from ffnsearch_indexer.index.faiss.gpu import FaissGpuFlatIndex
from ffnsearch_indexer.index.faiss.ivf import FaissIvfIndex, ivf_of
from ffnsearch_indexer.index.fused import FusedIndex
from ffnsearch_indexer.index.fused_tilings import SearchSettings, Tiling
from ffnsearch_indexer.index.tiled import TiledIndex
from ffnsearch_indexer.index.tiles import tiles_of

BYTES_PEAK_MAX = 200 << 20
"""More than any backend says that a search takes, less than one that keeps all pairs of the test would."""

contract = settings(max_examples=60, suppress_health_check=[HealthCheck.differing_executors])


class Case(NamedTuple):
    """Keys [N, D] and queries [B, D] float16, thresholds, and the counts of the keys' substrings."""

    keys: np.ndarray
    queries: np.ndarray
    thresholds: list[float]
    counts: NextTokenCounts


def unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float16)


def make_counts(rows: Sequence[Sequence[tuple[int, int]]], vocabulary_size: int) -> NextTokenCounts:
    """Counts from rows of (token, count)."""
    pairs = [pair for row in rows for pair in row]
    return NextTokenCounts(
        np.cumsum([0, *map(len, rows)]).astype(np.int64),
        np.array([token for token, _ in pairs], dtype=np.uint16),
        np.array([count for _, count in pairs], dtype=np.uint32),
        vocabulary_size,
    )


def random_counts(rng: np.random.Generator, rows: int, vocabulary_size: int) -> NextTokenCounts:
    """Rows of 0 to 4 different tokens, some with a count that fills 32 bits."""
    lengths = np.minimum(rng.integers(0, 5, rows), vocabulary_size)
    tokens = [np.sort(rng.choice(vocabulary_size, length, replace=False)) for length in lengths]
    return make_counts(
        [[(int(t), int(rng.choice([1, 2, 7, 2**32 - 1]))) for t in row] for row in tokens], vocabulary_size
    )


def whole(values: np.ndarray) -> np.ndarray:
    """Float16 values as whole numbers of 2^-24."""
    return (values.astype(np.float64) * 2**24).astype(np.int64)


def oracle_scores(case: Case) -> np.ndarray:
    """All scores [B, N], exactly."""
    return (whole(case.queries) @ whole(case.keys).T).astype(np.float64) / 2**48


def oracle_sums(case: Case) -> RangeSums:
    scores = oracle_scores(case)
    shape = len(case.queries), len(case.thresholds)
    freq = np.zeros((*shape, case.counts.vocabulary_size), dtype=np.int64)
    neighbors = np.zeros(shape, dtype=np.int64)
    for row in range(shape[0]):
        for step, threshold in enumerate(case.thresholds):
            for substring_id in np.flatnonzero(scores[row] > threshold):
                neighbors[row, step] += 1
                tokens, counts = case.counts.row(substring_id)
                freq[row, step, tokens] += counts
    return RangeSums(freq, neighbors)


def relative(rng: np.random.Generator, base: np.ndarray, kind: str) -> np.ndarray:
    """A vector [D] in a chosen relation to another, both float16."""
    if kind == "same":
        return base
    if kind == "opposite":
        return -base
    if kind == "zero":
        return np.zeros_like(base)
    if kind == "orthogonal":
        other = rng.standard_normal(len(base))
        return unit(other - (other @ base) * base / max(1e-9, float(base.astype(np.float64) @ base)))
    if kind == "one step off":
        near = base.copy()
        place = rng.integers(len(base))
        near[place] = np.nextafter(near[place], np.float16(rng.choice([-2, 2])))
        return near
    return unit(rng.standard_normal(len(base)))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Small cases full of ties: keys made from queries, thresholds at scores and one float64 step beside them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    d_model = draw(st.sampled_from([1, 2, 3, 16, 65]))
    queries = unit(rng.standard_normal((draw(st.integers(0, 7)), d_model)))
    bases = queries if len(queries) else unit(rng.standard_normal((1, d_model)))
    kinds = ["same", "opposite", "zero", "orthogonal", "one step off", "random"]
    keys = np.stack(
        [
            relative(rng, bases[rng.integers(len(bases))], kind)
            for kind in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=70))
        ]
    )
    counts = random_counts(rng, len(keys), draw(st.sampled_from([1, 3, 65, 50_000])))
    scores = oracle_scores(Case(keys, bases, [], counts)).ravel()
    near = [float(score) for score in rng.choice(scores, 2)]
    steps = [float(np.nextafter(score, side)) for score in near for side in (-2, 2)]
    levels = [-1.0, 0.0, 1.0, *near, *steps, *rng.uniform(-1, 1, 3).tolist()]
    return Case(keys, queries, draw(st.lists(st.sampled_from(levels), max_size=5)), counts)


def clustered(keys: int = 2000, d_model: int = 48, vocabulary_size: int = 65) -> Case:
    """Keys around 20 centres, with queries among them: what FFN outputs look like."""
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((20, d_model))
    vectors = unit(centres[rng.integers(20, size=keys)] + 0.4 * rng.standard_normal((keys, d_model)))
    queries = np.concatenate([vectors[:: keys // 30], unit(rng.standard_normal((5, d_model)))])
    return Case(vectors, queries, [0.85, -1.0, 0.7, 0.85, 0.0], random_counts(rng, keys, vocabulary_size))


def rows_of(found: Neighbors) -> list[tuple[list[int], list[float]]]:
    """The neighbors of each query, (ids, scores)."""
    rows = [slice(first, last) for first, last in zip(found.lims[:-1], found.lims[1:], strict=True)]
    return [(found.ids[row].tolist(), found.scores[row].tolist()) for row in rows]


def peak_bytes() -> int:
    """Most memory resident at once since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


class IndexContract:
    """The contract. A backend's class says how it is made, and how with tiles that small cases fill."""

    in_small_tiles: ClassVar[type[Index]]
    as_shipped: ClassVar[type[Index]]
    clustered_keys: ClassVar[int] = 2000

    def small(self, case: Case) -> Index:
        return self.in_small_tiles(case.keys, case.counts)

    def index(self, case: Case) -> Index:
        return self.as_shipped(case.keys, case.counts)

    @contract
    @given(case=cases())
    def test_sums_are_those_of_the_oracle(self, case: Case) -> None:
        found, expected = self.small(case).range_sum(case.queries, case.thresholds), oracle_sums(case)
        np.testing.assert_array_equal(found.neighbors, expected.neighbors)
        np.testing.assert_array_equal(found.freq, expected.freq)
        assert found.freq.dtype == found.neighbors.dtype == np.int64

    @contract
    @given(case=cases())
    def test_neighbors_are_those_of_the_oracle(self, case: Case) -> None:
        index, scores = self.small(case), oracle_scores(case)
        for threshold in case.thresholds:
            found = index.range_search(case.queries, threshold)
            wanted = [np.flatnonzero(row > threshold) for row in scores]
            expected = [(ids.tolist(), row[ids].tolist()) for ids, row in zip(wanted, scores, strict=True)]
            assert rows_of(found) == expected
            assert (found.lims.dtype, found.ids.dtype, found.scores.dtype) == (np.int64, np.int64, np.float64)

    @contract
    @given(case=cases(), data=st.data())
    def test_ranges_of_ids_put_together_are_the_whole(self, case: Case, data: st.DataObject) -> None:
        index, size = self.small(case), len(case.keys)
        cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=3)))
        parts = [range(first, last) for first, last in zip([0, *cuts], [*cuts, size], strict=True)]
        for threshold in case.thresholds[:2]:
            pieces = [rows_of(index.range_search(case.queries, threshold, ids=part)) for part in parts]
            joined = [
                tuple(list(chain(*column)) for column in zip(*row, strict=True)) for row in zip(*pieces, strict=True)
            ]
            assert joined == rows_of(index.range_search(case.queries, threshold))

    def test_as_shipped_it_agrees_with_small_tiles_and_the_oracle(self) -> None:
        case = clustered(self.clustered_keys)
        expected = oracle_sums(case)
        for index in (self.small(case), self.index(case)):
            found = index.range_sum(case.queries, case.thresholds)
            np.testing.assert_array_equal(found.freq, expected.freq)
            np.testing.assert_array_equal(found.neighbors, expected.neighbors)

    def test_scores_that_float32_cannot_tell_apart_are_decided_exactly(self) -> None:
        rng = np.random.default_rng(3)
        keys, queries = unit(rng.standard_normal((300, 384))), unit(rng.standard_normal((4, 384)))
        case = Case(keys, queries, [], make_counts([[(0, 1)]] * 300, 1))
        scores, index = oracle_scores(case), self.index(case)
        rounded = (queries.astype(np.float32) @ keys.T.astype(np.float32)).astype(np.float64)
        wrong_in_float32 = 0
        for threshold in scores[0, :40]:
            expected = (scores > threshold).sum(axis=1)
            wrong_in_float32 += int((rounded[0] > threshold).sum() != expected[0])
            assert index.range_sum(queries, [threshold]).neighbors[:, 0].tolist() == expected.tolist()
        assert wrong_in_float32 > 5, "the case is not as hard as it should be"

    def test_sums_do_not_depend_on_the_other_thresholds_or_on_their_order(self) -> None:
        case = clustered(self.clustered_keys)
        index = self.index(case)
        together = index.range_sum(case.queries, case.thresholds)
        for step, threshold in enumerate(case.thresholds):
            alone = index.range_sum(case.queries, [threshold])
            np.testing.assert_array_equal(together.freq[:, step], alone.freq[:, 0])
            np.testing.assert_array_equal(together.neighbors[:, step], alone.neighbors[:, 0])

    def test_raising_the_threshold_only_removes_neighbors(self) -> None:
        case = clustered(self.clustered_keys)
        index = self.index(case)
        thresholds = np.linspace(-1, 1, 9).tolist()
        sets = [[set(ids) for ids, _ in rows_of(index.range_search(case.queries, t))] for t in thresholds]
        for lower, higher in pairwise(sets):
            assert all(above <= below for above, below in zip(higher, lower, strict=True))
        assert all(len(ids) == len(case.keys) for ids in sets[0])

    def test_an_answer_does_not_depend_on_the_rest_of_the_batch(self) -> None:
        case = clustered(self.clustered_keys)
        index = self.index(case)
        together = index.range_sum(case.queries, case.thresholds)
        for size in (1, 2, 5, 16):
            parts = [
                index.range_sum(case.queries[row : row + size], case.thresholds)
                for row in range(0, len(case.queries), size)
            ]
            np.testing.assert_array_equal(np.concatenate([part.freq for part in parts]), together.freq)
            np.testing.assert_array_equal(np.concatenate([part.neighbors for part in parts]), together.neighbors)

    def test_the_counts_of_the_neighbors_add_up_to_the_sums(self) -> None:
        case = clustered(self.clustered_keys)
        index = self.index(case)
        found = index.range_search(case.queries, 0.6)
        freq = np.zeros((len(case.queries), 65), dtype=np.int64)
        for row, (ids, _) in enumerate(rows_of(found)):
            for substring_id in ids:
                tokens, counts = case.counts.row(substring_id)
                freq[row, tokens] += counts
        sums_found = index.range_sum(case.queries, [0.6])
        np.testing.assert_array_equal(sums_found.freq[:, 0], freq)
        np.testing.assert_array_equal(sums_found.neighbors[:, 0], np.diff(found.lims))

    def test_a_row_with_a_whole_vocabulary_of_successors(self) -> None:
        keys = unit(np.random.default_rng(0).standard_normal((3, 8)))
        rows = [[(token, 1 + token % 3) for token in range(50_000)], [], [(49_999, 5)]]
        case = Case(keys, keys[:2], [-1.0, 0.99], make_counts(rows, 50_000))
        found, expected = self.index(case).range_sum(case.queries, case.thresholds), oracle_sums(case)
        np.testing.assert_array_equal(found.freq, expected.freq)
        assert found.freq[0, 0, 49_999] == 1 + 49_999 % 3 + 5

    def test_deciding_pairs_in_small_parts_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        case = clustered(keys=300)
        expected = self.index(case).range_sum(case.queries, case.thresholds)
        monkeypatch.setattr(scan, "PAIRS_MAX", 11)
        found = self.index(case).range_sum(case.queries, case.thresholds)
        np.testing.assert_array_equal(found.freq, expected.freq)
        np.testing.assert_array_equal(found.neighbors, expected.neighbors)

    def test_a_checkpoint_stops_the_work_and_the_index_stays_usable(self) -> None:
        case = clustered(keys=300)
        index = self.small(case)
        calls: list[None] = []
        expected = index.range_sum(case.queries, [0.5], checkpoint=lambda: calls.append(None))
        assert len(calls) > 10

        def failing_after(count: int) -> Checkpoint:
            left = [None] * count

            def checkpoint() -> None:
                try:
                    left.pop()
                except IndexError:  # again and again, in every thread
                    raise CancelledError("the caller left") from None

            return checkpoint

        for count in (0, 1, len(calls) // 2, len(calls) - 1):
            with pytest.raises(CancelledError):
                index.range_sum(case.queries, [0.5], checkpoint=failing_after(count))
            with pytest.raises(CancelledError):
                index.range_search(case.queries, 0.5, checkpoint=failing_after(min(count, 5)))
        np.testing.assert_array_equal(index.range_sum(case.queries, [0.5]).freq, expected.freq)

    def test_keys_in_a_read_only_map_are_read_and_nothing_is_written(self, tmp_path: Path) -> None:
        case = clustered(keys=200)
        np.save(tmp_path / "keys.npy", case.keys)
        mapped = np.load(tmp_path / "keys.npy", mmap_mode="r")
        queries, thresholds = case.queries.copy(), list(case.thresholds)
        queries.setflags(write=False)
        index = self.index(case._replace(keys=mapped))
        np.testing.assert_array_equal(index.range_sum(queries, thresholds).freq, oracle_sums(case).freq)
        index.range_search(queries, 0.0)
        assert thresholds == case.thresholds
        np.testing.assert_array_equal(queries, case.queries)
        np.testing.assert_array_equal(np.load(tmp_path / "keys.npy"), case.keys)

    def test_no_queries_and_no_thresholds_give_empty_results(self) -> None:
        case = clustered(keys=50)
        index = self.index(case)
        assert index.range_sum(case.queries[:0], [0.5, 0.1]).freq.shape == (0, 2, 65)
        assert index.range_sum(case.queries, []).freq.shape == (len(case.queries), 0, 65)
        found = index.range_search(case.queries[:0], 0.5)
        assert (found.lims.tolist(), len(found.ids), len(found.scores)) == ([0], 0, 0)
        assert index.range_search(case.queries, -1.0, ids=range(7, 7)).lims.tolist() == [0] * (len(case.queries) + 1)

    @pytest.mark.parametrize("threshold", [float("nan"), np.nan])
    def test_a_threshold_that_is_no_number_is_our_own_bug(self, threshold: float) -> None:
        case = clustered(keys=50)
        with pytest.raises(AssertionError):
            self.index(case).range_sum(case.queries, [0.5, threshold])
        with pytest.raises(AssertionError):
            self.index(case).range_search(case.queries, threshold)

    def test_memory_stays_bounded_when_every_pair_matches(self) -> None:
        rng = np.random.default_rng(0)
        keys = unit(rng.standard_normal((20_000, 16)))
        counts = make_counts([[(0, 1)]] * len(keys), 1)
        index, queries = self.index(Case(keys, keys, [], counts)), np.tile(keys[:50], (11, 1))
        index.range_sum(queries[:2], [-1.0])
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
        before = peak_bytes()
        found = index.range_sum(queries, [-1.0])
        assert (found.neighbors == len(keys)).all()
        assert peak_bytes() - before < BYTES_PEAK_MAX  # eleven million pairs, 20 bytes each at the very least


class ExactInSmallTiles(ExactIndex):
    tile_values: ClassVar = 20


class TestExact(IndexContract):
    in_small_tiles = ExactInSmallTiles
    as_shipped = ExactIndex

    def test_reduced_precision_is_refused(self) -> None:
        case = clustered(keys=50)
        torch.set_float32_matmul_precision("medium")
        try:
            with pytest.raises(BackendError, match="full float32"):
                ExactIndex(case.keys, case.counts).range_sum(case.queries, [0.5])
        finally:
            torch.set_float32_matmul_precision("highest")

    def test_precision_reduced_for_one_library_is_refused(self) -> None:
        case, of_library = clustered(keys=50), torch.backends.mkldnn.matmul
        before, of_library.fp32_precision = of_library.fp32_precision, "bf16"
        try:
            with pytest.raises(BackendError, match="full float32"):
                ExactIndex(case.keys, case.counts).range_sum(case.queries, [0.5])
        finally:
            of_library.fp32_precision = before
            torch.set_float32_matmul_precision("highest")
        ExactIndex(case.keys, case.counts).range_sum(case.queries, [0.5])


class DeviceInSmallTiles(ExactDeviceIndex):
    queries_max: ClassVar = 3
    scores_max: ClassVar = 120
    scores_min: ClassVar = 120
    values_max: ClassVar = 2048


class OnDeviceContract(IndexContract):
    """What an index keeps to that searches on a device of torch's."""

    device: ClassVar = "cuda" if torch.cuda.is_available() else "cpu"

    def test_queries_that_are_on_the_device_are_taken_as_they_are(self) -> None:
        case = clustered(keys=100)
        there = torch.from_numpy(case.queries).to(self.device)
        for index in (self.small(case), self.index(case)):
            found, expected = (index.range_sum(queries, case.thresholds) for queries in (there, case.queries))
            np.testing.assert_array_equal(found.freq, expected.freq)
            np.testing.assert_array_equal(found.neighbors, expected.neighbors)

    def test_several_blocks_together_are_each_as_alone(self) -> None:
        """Whether a block can be queued or not, and one that is not searched among them."""
        first, second = (case._replace(queries=case.queries[:3]) for case in (clustered(keys=100), clustered(keys=60)))
        for indexes in ([self.small(first), self.index(second)], [self.index(first), self.small(second)]):
            search = DeviceSearch([cast(DeviceIndex, index) for index in (self.small(first), *indexes)])
            queries = torch.from_numpy(np.stack([first.queries, first.queries, second.queries])).to(self.device)
            thresholds: list[list[float]] = [[], [0.3, 0.9, 0.3], [0.85]]
            for _ in range(3):  # the second time it is recorded, where it can be
                found = search.range_sums(queries, thresholds)
                for case, of_block, sums in zip((first, first, second), thresholds, found, strict=True):
                    expected = oracle_sums(case._replace(thresholds=of_block))
                    np.testing.assert_array_equal(sums.freq, expected.freq)
                    np.testing.assert_array_equal(sums.neighbors, expected.neighbors)
            assert all(not len(sums.freq) for sums in search.range_sums(queries[:, :0], thresholds))

    def test_queries_elsewhere_or_of_another_type_are_our_own_bug(self) -> None:
        case = clustered(keys=50)
        for wrong in (
            torch.from_numpy(case.queries).float().to(self.device),
            torch.empty_like(torch.from_numpy(case.queries), device="meta"),
        ):
            with pytest.raises(AssertionError, match="queries are"):
                self.small(case).range_sum(wrong, [0.5])


class TestExactOnDevice(OnDeviceContract):
    """On a CUDA device where there is one; else the same code on a CPU."""

    def small(self, case: Case) -> Index:
        return DeviceInSmallTiles(case.keys, case.counts, device=self.device)

    def index(self, case: Case) -> Index:
        return ExactDeviceIndex(case.keys, case.counts, device=self.device)


class FaissFlatInSmallTiles(FaissFlatIndex):
    tile_keys: ClassVar = 7
    queries_max: ClassVar = 3


class TestFaissFlat(IndexContract):
    in_small_tiles = FaissFlatInSmallTiles
    as_shipped = FaissFlatIndex

    def test_without_the_package_the_error_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        case = clustered(keys=50)
        monkeypatch.setitem(sys.modules, "faiss", None)
        with pytest.raises(BackendError, match="pip install faiss-cpu"):
            FaissFlatIndex(case.keys, case.counts).range_sum(case.queries, [0.5])


class BestFirst:
    """What a GPU makes of an index: the best of each query, and at most so many."""

    def __init__(self, index: Any, best_max: int) -> None:
        self.index, self.ntotal, self.best_max = index, index.ntotal, best_max
        self.searches = 0

    def search(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        assert 0 < k <= self.best_max, "a GPU refuses this"
        self.searches += 1
        return self.index.search(vectors, k)


class FakeGpus:
    """The one seam where a device enters: it copies indexes to where they list few."""

    def __init__(self, best_max: int) -> None:
        self.best_max = best_max
        self.copies: list[BestFirst] = []

    def copy(self, index: Any) -> BestFirst:
        self.copies.append(BestFirst(index, self.best_max))
        return self.copies[-1]


class GpuFlatInSmallTiles(FaissGpuFlatIndex):
    tile_keys: ClassVar = 7
    queries_max: ClassVar = 3


class TestFaissFlatOnGpus(IndexContract):
    """Small cases list 3 of a query: many have more, in the whole and in tiles of 7."""

    def small(self, case: Case) -> Index:
        return GpuFlatInSmallTiles(case.keys, case.counts, device=FakeGpus(best_max=3))

    def index(self, case: Case) -> Index:
        return FaissGpuFlatIndex(case.keys, case.counts, device=FakeGpus(best_max=2048))

    def test_only_queries_with_more_than_it_lists_are_searched_again(self) -> None:
        case, gpus = clustered(), FakeGpus(best_max=200)
        index = FaissGpuFlatIndex(case.keys, case.counts, device=gpus)
        most = oracle_sums(case._replace(thresholds=[0.85])).neighbors.max()
        assert 0 < most <= gpus.best_max
        index.range_sum(case.queries, [0.85])
        assert [(copy.ntotal, copy.searches) for copy in gpus.copies] == [(len(case.keys), 1)]
        index.range_sum(case.queries, [-1.0])
        assert [(copy.ntotal, copy.searches) for copy in gpus.copies] == [(len(case.keys), 3)]  # the only tile is all

    def test_tiles_are_copied_once(self) -> None:
        case, gpus = clustered(keys=300), FakeGpus(best_max=100)
        index = GpuFlatInSmallTiles(case.keys, case.counts, device=gpus)
        for ids in (None, range(3, 20), range(150, 151)):
            index.range_search(case.queries, -1.0, ids=ids)
        assert len(gpus.copies) == 1 + -(-300 // 7)

    def test_what_fails_on_the_device_is_told_in_one_line(self) -> None:
        case = clustered(keys=50)

        class Lost(FakeGpus):
            def copy(self, index: Any) -> Any:
                lost = super().copy(index)
                lost.index = None
                lost.search = fail
                return lost

        def fail(*_: Any) -> None:
            raise RuntimeError("Error in search: CUDA error 2 out of memory\nmore")

        with pytest.raises(BackendError, match="out of memory") as caught:
            FaissGpuFlatIndex(case.keys, case.counts, device=Lost(10)).range_sum(case.queries, [0.5])
        assert caught.value.reason == "DEVICE_MEMORY"
        assert "\n" not in caught.value.message


def all_lists(case: Case) -> Any:
    """Inverted lists of which all are searched."""
    lists = ivf_of(case.keys)
    lists.nprobe = lists.nlist
    return lists


class IvfInSmallSteps(FaissIvfIndex):
    pairs_max: ClassVar = 60


class TestFaissIvfWithAllLists(IndexContract):
    def small(self, case: Case) -> Index:
        return IvfInSmallSteps(case.keys, case.counts, all_lists(case))

    def index(self, case: Case) -> Index:
        return FaissIvfIndex(case.keys, case.counts, all_lists(case))

    @pytest.mark.parametrize("probes", [1, 9])
    @pytest.mark.parametrize("best_max", [None, 10, 2048])
    def test_with_fewer_lists_it_finds_some_of_the_neighbors_with_exact_scores(
        self, probes: int, best_max: int | None
    ) -> None:
        case = clustered()
        lists = ivf_of(case.keys)
        lists.nprobe = probes
        index = FaissIvfIndex(case.keys, case.counts, lists, device=FakeGpus(best_max) if best_max else None)
        exact = rows_of(ExactIndex(case.keys, case.counts).range_search(case.queries, 0.0))
        found = index.range_search(case.queries, 0.0)
        for (ids, scores), (all_ids, all_scores) in zip(rows_of(found), exact, strict=True):
            expected = dict(zip(all_ids, all_scores, strict=True))
            assert {row: expected[row] for row in ids} == dict(zip(ids, scores, strict=True))
        assert 0 < len(found.ids) < sum(len(ids) for ids, _ in exact)
        np.testing.assert_array_equal(index.range_sum(case.queries, [0.0]).neighbors[:, 0], np.diff(found.lims))
        assert index.approximate

    def test_a_device_changes_nothing(self) -> None:
        case = clustered()
        lists = ivf_of(case.keys)
        lists.nprobe = 5
        cpu = FaissIvfIndex(case.keys, case.counts, lists)
        gpu = FaissIvfIndex(case.keys, case.counts, lists, device=FakeGpus(20))
        for threshold in (0.3, 0.85):
            assert rows_of(cpu.range_search(case.queries, threshold)) == rows_of(
                gpu.range_search(case.queries, threshold)
            )


class TiledInSmallSteps(TiledIndex):
    queries_max: ClassVar = 3
    pairs_max: ClassVar = 6
    candidates_max: ClassVar = 64


class TestTiles(IndexContract):
    in_small_tiles = TiledInSmallSteps
    as_shipped = TiledIndex


def few_cases(test: Callable[..., None], **others: st.SearchStrategy) -> Callable[..., None]:
    """A test of the contract with 8 cases instead of 60."""
    return settings(contract, max_examples=8)(given(case=cases(), **others)(test.hypothesis.inner_test))


class FusedInSmallTiles(FusedIndex):
    queries_max: ClassVar = 3
    settings: ClassVar = SearchSettings(
        centres=16,
        programs=2,
        room=32,
        pairs=256,
        tilings=(Tiling(2, 32, 32, 1, 1, queries_first=True), Tiling(16, 64, 32, 1, 1, resident=False)),
    )


class FusedInLargeTiles(FusedIndex):
    """What the interpreter runs in tolerable time: its steps cost the same, however large."""

    settings: ClassVar = SearchSettings(
        centres=16,
        programs=1,
        room=1 << 12,
        pairs=1 << 9,
        tilings=(Tiling(4, 512, 128, 1, 1), Tiling(64, 512, 64, 1, 1, queries_first=True)),
    )


class TestFused(OnDeviceContract):
    in_small_tiles = FusedInSmallTiles
    as_shipped = FusedIndex if torch.cuda.is_available() else FusedInLargeTiles
    clustered_keys = 2000 if torch.cuda.is_available() else 400

    def small(self, case: Case) -> Index:
        return self.in_small_tiles(case.keys, case.counts, tiles_of(case.keys, case.counts), device=self.device)

    def index(self, case: Case) -> Index:
        return self.as_shipped(case.keys, case.counts, tiles_of(case.keys, case.counts), device=self.device)

    def test_memory_stays_bounded_when_every_pair_matches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A list takes a quarter of what is free, and the work comes in pieces that it holds."""
        free = 1 << 22
        monkeypatch.setattr(fused, "free_bytes", lambda _: free)
        rng = np.random.default_rng(0)
        keys = unit(rng.standard_normal((1000, 16)))
        index = self.as_shipped(keys, make_counts([[(0, 1)]] * len(keys), 1), device=self.device)
        index._room = 16
        found = index.range_sum(keys[:8], [-1.5])
        assert (found.neighbors == len(keys)).all()
        assert 16 < index._room <= free // 4 // 8, "longer, as far as it may be"

    # The interpreter takes 20 ms a kernel: fewer cases, the same contract.
    test_sums_are_those_of_the_oracle = few_cases(IndexContract.test_sums_are_those_of_the_oracle)
    test_neighbors_are_those_of_the_oracle = few_cases(IndexContract.test_neighbors_are_those_of_the_oracle)
    test_ranges_of_ids_put_together_are_the_whole = few_cases(
        IndexContract.test_ranges_of_ids_put_together_are_the_whole, data=st.data()
    )

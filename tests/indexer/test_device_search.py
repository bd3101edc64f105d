"""All blocks at once: told of together, waited for once, and as a graph where a call is made again."""

import gc
import weakref
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from test_fused import DEVICE, failing_once, small_case
from test_index_contract import Case, FusedInSmallTiles, oracle_sums

from ffnsearch_indexer.hardware.graphs import GraphRecorder
from ffnsearch_indexer.index import device_search, fused
from ffnsearch_indexer.index.device_search import DeviceSearch
from ffnsearch_indexer.index.tiles import tiles_of

BLOCKS = 3


def indexes_of(case: Case) -> list[FusedInSmallTiles]:
    tiles = tiles_of(case.keys, case.counts)
    return [FusedInSmallTiles(case.keys, case.counts, tiles, device=DEVICE) for _ in range(BLOCKS)]


def is_right(search: DeviceSearch, case: Case, rows: slice, thresholds: Sequence[float] | None = None) -> bool:
    """Whether some queries of a case, asked in all blocks at once, get the oracle's integers."""
    asked = case._replace(queries=case.queries[rows], thresholds=list(thresholds or case.thresholds))
    expected = oracle_sums(asked)
    queries = torch.from_numpy(np.stack([asked.queries] * BLOCKS)).to(DEVICE)
    return all(
        np.array_equal(sums.freq, expected.freq) and np.array_equal(sums.neighbors, expected.neighbors)
        for sums in search.range_sums(queries, [asked.thresholds] * BLOCKS)
    )


def test_blocks_are_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    case, waits = small_case(), []
    indexes = indexes_of(case)
    search = DeviceSearch(indexes)
    assert is_right(search, case, slice(2)), "which puts the blocks on the device"
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: waits.append(tensor) or cpu(tensor))
    for wanted, room in ((1, 1 << 9), (4, 1)):  # where lists are too short, each block is searched again as usual
        waits.clear()
        for index in indexes:
            index._room = room
        assert is_right(search, case, slice(2, 4), [0.7])
        assert len(waits) == wanted


def test_a_device_without_room_for_all_blocks_takes_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    case = small_case()
    failing_once(monkeypatch, "_counted", torch.OutOfMemoryError("CUDA out of memory"))
    assert is_right(DeviceSearch(indexes_of(case)), case, slice(2))


def test_a_call_that_is_made_again_is_a_graph_for_any_queries(graphs: list[object]) -> None:
    case = small_case()
    search = DeviceSearch(indexes_of(case))
    for first in range(4):
        assert is_right(search, case, slice(first, first + 1))
        assert len(graphs) == (1 if first else 0)


def test_other_thresholds_and_numbers_of_queries_are_other_graphs(graphs: list[object]) -> None:
    case = small_case()
    search = DeviceSearch(indexes_of(case))
    calls = [(1, [0.85]), (2, [0.85]), (1, [0.3]), (1, [0.3, 0.85])]
    for made in range(1, 4):
        for queries, thresholds in calls:
            assert is_right(search, case, slice(made, made + queries), thresholds)
        assert len(graphs) == (0 if made == 1 else len(calls))


@pytest.mark.parametrize(("queries_max", "bytes_max"), [(1, 1 << 24), (16, 1000)])
def test_large_calls_are_not_recorded(
    queries_max: int, bytes_max: int, graphs: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = small_case()
    search = DeviceSearch(indexes_of(case), graph_queries_max=queries_max)
    monkeypatch.setattr(device_search, "GRAPH_BYTES_MAX", bytes_max)
    for _ in range(3):
        assert is_right(search, case, slice(2))
    assert not graphs


def test_a_graph_whose_lists_are_too_short_is_left_and_made_anew(graphs: list[object]) -> None:
    """Queries that no key is near are recorded with short lists; then come some that are near many."""
    case = small_case()
    far = case._replace(queries=np.concatenate([-case.keys[:1], case.queries]))
    indexes = indexes_of(case)
    for index in indexes:
        index._room = 1
    search = DeviceSearch(indexes)
    for _ in range(2):
        assert is_right(search, far, slice(1), [0.9])
    assert len(graphs) == 1
    for made in (1, 1, 2, 2):
        assert is_right(search, far, slice(1, 2), [0.9])
        assert len(graphs) == made
    assert all(index._room > 1 for index in indexes)


def test_where_there_would_be_too_many_graphs_all_are_given_back(
    graphs: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_search, "CALLS_MAX", 2)
    case = small_case()
    search = DeviceSearch(indexes_of(case))
    for threshold in (0.9, 0.8, 0.7):
        for _ in range(2):
            assert is_right(search, case, slice(1), [threshold])
    assert (len(graphs), search.graphs) == (3, 1)


def test_thresholds_stay_where_a_graph_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph holds addresses alone; other thresholds take the place of its own in the index."""
    case, uploaded = small_case(), []
    to_device = fused.to_device

    def watched(array: np.ndarray, device: torch.device) -> torch.Tensor:
        tensor = to_device(array, device)
        if array.dtype != np.float16:
            uploaded.append(weakref.ref(tensor))
        return tensor

    def record(self: GraphRecorder, work: object) -> object:
        result = work()
        return lambda: result

    search = DeviceSearch(indexes_of(case))
    monkeypatch.setattr(GraphRecorder, "record", record)
    monkeypatch.setattr(fused, "to_device", watched)
    for _ in range(2):
        assert is_right(search, case, slice(1), [0.85])
    recorded = list(uploaded)
    assert len(recorded) == 2 * BLOCKS
    assert is_right(search, case, slice(1), [0.3])
    gc.collect()
    assert all(tensor() is not None for tensor in recorded)

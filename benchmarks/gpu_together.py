"""The measurements of all blocks at once, as the service asks: queries on the device, which is waited for once."""

from statistics import median
from typing import Any, cast

import torch
from gpu_search import BATCHES, count_differing, indexes_of, seconds_of
from gpu_setting import THRESHOLDS, Setting

from ffnsearch_indexer.index.base import RangeSums
from ffnsearch_indexer.index.device_search import GRAPH_QUERIES_MAX, DeviceSearch
from ffnsearch_indexer.index.fused import FusedIndex

STEPS_TOLD = 25
"""Of what a call is made of, the dearest that are told."""

IN_TURN = {"cuda": 100, "cpu": 2}
"""How often two graphs are run, one after the other."""


class _Together:
    """A search of all blocks, each time of the next prompts. queries: [K, 4096, D] float16 on the device."""

    def __init__(self, setting: Setting, *, graph_queries_max: int = GRAPH_QUERIES_MAX) -> None:
        indexes = [indexes_of(setting, block)["fused, skipping"] for block in range(len(setting.keys))]
        self.setting, self.queries, self._first = setting, torch.from_numpy(setting.queries).to(setting.device), 0
        self.search = DeviceSearch(cast(list[FusedIndex], indexes), graph_queries_max=graph_queries_max)

    def next(self, batch: int) -> list[RangeSums]:
        """Search the next prompts; from the first ones on again where there are no more."""
        if self._first + batch > self.queries.shape[1]:
            self._first = 0
        self._first += batch
        return self.search.range_sums(self._last(batch), [[threshold] for threshold in THRESHOLDS])

    def compare(self, batch: int) -> int:
        """Search the next prompts, and count the integers that differ from those of `exact`, block by block."""
        found, blocks = self.next(batch), range(len(self.setting.keys))
        exact = [indexes_of(self.setting, block)["exact"] for block in blocks]
        asked = zip(exact, self._last(batch).cpu().numpy(), THRESHOLDS, strict=True)
        expected = [index.range_sum(of_block, [threshold]) for index, of_block, threshold in asked]
        return sum(count_differing(*pair) for pair in zip(found, expected, strict=True))

    def _last(self, batch: int) -> torch.Tensor:
        return self.queries[:, self._first - batch : self._first]


def together(setting: Setting) -> dict[int, Any]:
    """Prompts a second where the device is told of every step of every block."""
    all_blocks = _Together(setting, graph_queries_max=0)
    return {batch: _rate(all_blocks, batch) for batch in (BATCHES if setting.device == "cuda" else BATCHES[:1])}


def graphs(setting: Setting) -> dict[str, Any]:
    """The same of calls of few prompts, each told as one graph.

    First two graphs, which share their memory, are run in turn, and their integers compared.
    """
    all_blocks = _Together(setting)
    batches = 1, GRAPH_QUERIES_MAX
    compared = sum(all_blocks.compare(batch) for _ in range(IN_TURN[setting.device]) for batch in batches)
    measured = {str(batch): _rate(all_blocks, batch) for batch in batches}
    if all_blocks.search.graphs != len(batches):
        raise RuntimeError("calls that were made again are no graphs: what was measured is not what it is called")
    return {"in_turn": {"calls": 2 * IN_TURN[setting.device], "differing_integers": compared}, **measured}


def _rate(all_blocks: _Together, batch: int) -> dict[str, float]:
    found = sum(all_blocks.compare(batch) for _ in range(3))  # as a graph the third is replayed
    seconds = median(seconds_of(all_blocks.setting, lambda: all_blocks.next(batch)))
    return {"prompts_per_second": batch / seconds, "ms": 1000 * seconds, "differing_integers": found}


def where_time_goes(setting: Setting) -> dict[str, Any]:
    """What a call is made of: calls of libraries and kernels, by what they take there and here."""
    measured: dict[str, Any] = {}
    all_blocks, step_by_step = _Together(setting), _Together(setting, graph_queries_max=0)
    calls = [("1, step by step", step_by_step, 1)]
    if setting.device == "cuda":
        calls += [("1, as a graph", all_blocks, 1), ("4096", all_blocks, 4096)]
    for name, of_blocks, batch in calls:
        for _ in range(3):
            of_blocks.next(batch)
        setting.synchronize()
        with torch.profiler.profile() as profiler:
            of_blocks.next(batch)
            setting.synchronize()
        steps = [
            {
                "name": step.key[:80],
                "calls": step.count,
                "device_us": step.self_device_time_total,
                "host_us": step.self_cpu_time_total,
            }
            for step in profiler.key_averages()
        ]
        measured[name] = sorted(steps, key=lambda step: -step["device_us"] - step["host_us"])[:STEPS_TOLD]
    return measured

"""The measurements of the search: does it give the oracle's integers, how fast, and how near to what the chip can do?

Rates are of whole calls: queries from the host's memory, sums back in it, block after block.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from statistics import median
from typing import Any

import numpy as np
import torch
from gpu_oracle import oracle
from gpu_setting import THRESHOLDS, Setting

from ffnsearch_indexer.index.base import Index, RangeSums
from ffnsearch_indexer.index.exact_device import ExactDeviceIndex
from ffnsearch_indexer.index.faiss.flat import flat_of
from ffnsearch_indexer.index.faiss.gpu import FaissGpuFlatIndex, Gpus
from ffnsearch_indexer.index.faiss.library import library
from ffnsearch_indexer.index.fused import FusedIndex
from ffnsearch_indexer.index.fused_tilings import SearchSettings, Tiling

BATCHES = (1, 16, 64, 256, 1024, 4096)
ORACLE_QUERIES = 2000
BATCHES_OF_PEERS = (1, 16, 64, 256)
"""Of what answers again on the CPU: larger ones take minutes."""

FEWER = (1, 16, 40)
"""Smaller calls that are compared with the oracle, too."""

STAIRCASE = (0.02, 0.0, -0.05)
"""Thresholds beside a block's own, as steps from it."""

ROUNDS_MIN, ROUNDS_MAX, ROUNDS_SECONDS = 3, 30, 2.0

TOP_K = 2048
"""Most neighbors that faiss finds for a query on a GPU."""

SHAPED_BLOCK = 2
SHAPES = (
    (4096, Tiling(128, 32, 128, 8, 4, queries_first=True, sharers=4)),
    (4096, Tiling(128, 32, 128, 8, 4, queries_first=True, sharers=16)),
    (4096, Tiling(128, 32, 128, 8, 3, queries_first=True, sharers=4)),
    (4096, Tiling(128, 64, 128, 8, 2, queries_first=True, sharers=4)),
    (4096, Tiling(64, 64, 128, 4, 3, queries_first=True, sharers=4)),
    (4096, Tiling(64, 32, 128, 4, 2, queries_first=True, sharers=4)),
    (1, Tiling(16, 32, 128, 4, 3)),
    (1, Tiling(16, 32, 128, 4, 2)),
    (1, Tiling(16, 32, 128, 2, 3)),
    (1, Tiling(16, 64, 128, 4, 3)),
    (64, Tiling(64, 64, 128, 4, 3, sharers=4)),
    (64, Tiling(64, 64, 128, 4, 3, sharers=16)),
    (64, Tiling(64, 64, 128, 4, 2, sharers=4)),
    (64, Tiling(64, 32, 128, 4, 2, queries_first=True, sharers=4)),
    (64, Tiling(64, 32, 128, 4, 3, queries_first=True, sharers=4)),
)
"""How many queries, and what is tried for them in SHAPED_BLOCK: what is shipped, and others."""

PROGRAMS = (660, 1056, 2112)
"""How many programs are tried."""

INTERPRETED = SearchSettings(centres=32, programs=1, room=4096, pairs=4096, tilings=(Tiling(256, 512, 128, 1, 1),))
"""What the interpreter runs in tolerable time."""


def ceilings(setting: Setting) -> dict[str, float]:
    """What the chip does at best, measured: float16 products, and bytes copied, each read and written once."""
    size, device = (8192, setting.device) if setting.device == "cuda" else (256, "cpu")
    left, right = (torch.randn((size, size), device=device).half() for _ in range(2))
    source = torch.empty(size * size * 32, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    products = seconds_of(setting, lambda: torch.mm(left, right))
    copies = seconds_of(setting, lambda: target.copy_(source))
    return {
        "matmul_tflop_s": 2 * size**3 / median(products) / 1e12,
        "copy_tb_s": 2 * source.numel() / median(copies) / 1e12,
    }


def agreement(setting: Setting) -> dict[str, Any]:
    """How many integers of 2,000 prompts differ from the oracle's, of any backend, with one threshold and with four."""
    count = ORACLE_QUERIES if setting.device == "cuda" else 64
    differing: dict[str, int] = {}
    compared = 0
    for block, threshold in enumerate(THRESHOLDS):
        levels = (threshold, *(threshold + step for step in STAIRCASE))
        queries = setting.queries[block, :count]
        expected = oracle(setting, block, queries, levels)
        compared += expected.freq.size + expected.neighbors.size
        for name, index in indexes_of(setting, block).items():
            alone = index.range_sum(queries, levels[:1])
            of_first = RangeSums(expected.freq[:, :1], expected.neighbors[:, :1])
            found = count_differing(index.range_sum(queries, levels), expected) + count_differing(alone, of_first)
            for fewer in FEWER:  # each has a kernel of its own
                of_fewer = RangeSums(expected.freq[:fewer], expected.neighbors[:fewer])
                found += count_differing(index.range_sum(queries[:fewer], levels), of_fewer)
            differing[name] = differing.get(name, 0) + found
    return {
        "prompts": count,
        "also_in_calls_of": list(FEWER),
        "integers_compared": compared,
        "by_backend": differing,
        "differing_integers": sum(differing.values()),
    }


def rates(setting: Setting) -> dict[str, Any]:
    """Prompts a second through all blocks, by backend and batch, and what share of the ceilings that is."""
    return _rates(setting, [indexes_of(setting, block) for block in range(len(setting.keys))], BATCHES)


def faiss_rates(setting: Setting) -> dict[str, Any]:
    """The same of faiss' own GPU index, with overflow answered exactly."""
    indexes = [{"faiss": FaissGpuFlatIndex(keys, setting.counts, device=Gpus())} for keys in setting.keys]
    return _rates(setting, indexes, BATCHES_OF_PEERS)


def _rates(setting: Setting, indexes: Sequence[Mapping[str, Index]], batches: Sequence[int]) -> dict[str, Any]:
    measured: dict[str, Any] = {}
    keys = setting.keys[0]
    for name, batch in product(indexes[0], batches if setting.device == "cuda" else batches[:1]):
        by_block: list[float] = []
        try:
            for block, of_block in enumerate(indexes):
                if setting.left_seconds() < 0:
                    break
                by_block.append(median(_search_seconds(setting, of_block[name], block, batch)))
        except Exception as error:  # of the other backends and batches there is still something to tell
            measured.setdefault(name, {})[batch] = {"error": repr(error)[:300]}
            continue
        if len(by_block) < len(indexes):
            measured.setdefault(name, {})[batch] = {"not_measured": "no time left"}
            continue
        seconds = sum(by_block)
        flop, key_bytes = 2 * batch * keys.size * len(indexes), keys.nbytes * len(indexes)
        measured.setdefault(name, {})[batch] = {
            "prompts_per_second": batch / seconds,
            "block_ms": [1000 * of_block for of_block in by_block],
            "share_of_matmul": _share(setting, flop / seconds / 1e12, "matmul_tflop_s"),
            "share_of_copy": _share(setting, key_bytes / seconds / 1e12, "copy_tb_s"),
        }
    return measured


def _share(setting: Setting, rate: float, ceiling: str) -> float | None:
    """What share a rate is of a ceiling; None where that was not measured."""
    most = setting.found["ceilings"].get(ceiling)
    return rate / most if most else None


def range_search_gpu(setting: Setting) -> dict[str, Any]:
    """`faiss.contrib.exhaustive_search.range_search_gpu` with the most it may ask a GPU for; neighbors only, no sums.

    Queries that have more than that are done again by faiss' own range search on the CPU.
    """
    from faiss.contrib.exhaustive_search import range_search_gpu as search

    measured, gpus = {}, Gpus()
    flats = [flat_of(keys) for keys in setting.keys]
    copies = [gpus.copy(flat) for flat in flats]
    for batch in BATCHES_OF_PEERS:
        seconds, differing = 0.0, 0
        for block, (flat, copy) in enumerate(zip(flats, copies, strict=True)):
            queries, threshold = setting.queries[block, :batch], THRESHOLDS[block]
            vectors = queries.astype(np.float32)
            search(vectors, threshold, copy, flat, gpus.best_max)  # loads kernels
            started = time.perf_counter()
            lengths, *_ = search(vectors, threshold, copy, flat, gpus.best_max)
            seconds += time.perf_counter() - started
            expected = indexes_of(setting, block)["exact"].range_sum(queries, [threshold]).neighbors[:, 0]
            differing += int((np.diff(lengths) != expected).sum())
        measured[batch] = {"prompts_per_second": batch / seconds, "differing_counts": differing}
    return {"cpu_threads": library().omp_get_max_threads(), **measured}


def top_k_emulation(setting: Setting) -> dict[str, Any]:
    """An emulation of `range_search_gpu`, not faiss itself.

    The top 2,048 of each query by torch on the device; queries whose last one is above the threshold are done again
    on the CPU, by a float32 product with all keys. Neighbors only, no sums.
    """
    batches = BATCHES_OF_PEERS if setting.device == "cuda" else (1,)
    seconds, overflowed = dict.fromkeys(batches, 0.0), {batch: [] for batch in batches}
    for block, keys in enumerate(setting.keys):
        resident = torch.from_numpy(keys).to(setting.device)
        on_host = torch.from_numpy(keys.astype(np.float32))
        for batch in batches:
            search = partial(_top_k, setting, resident, on_host, setting.queries[block, :batch], THRESHOLDS[block])
            search()  # loads kernels
            started = time.perf_counter()
            overflowed[batch].append(search())
            seconds[batch] += time.perf_counter() - started
    measured = {
        batch: {"prompts_per_second": batch / seconds[batch], "overflowed_by_block": overflowed[batch]}
        for batch in batches
    }
    return {"emulation": True, "cpu_threads": torch.get_num_threads(), **measured}


def neighbors(setting: Setting) -> dict[str, Any]:
    """How long listing the neighbors of 16 prompts takes, and whether they are those of the exact backend."""
    measured: dict[str, Any] = {}
    for block in range(len(setting.keys)):
        queries = setting.queries[block, : 16 if setting.device == "cuda" else 2]
        found = {}
        for name, index in indexes_of(setting, block).items():
            found[name] = index.range_search(queries, THRESHOLDS[block])
            taken = seconds_of(setting, partial(index.range_search, queries, THRESHOLDS[block]))
            measured.setdefault(name, []).append({"pairs": len(found[name].ids), "ms": 1000 * median(taken)})
        first, *others = found.values()
        for other in others:
            assert all(np.array_equal(*arrays) for arrays in zip(first, other, strict=True)), "neighbors differ"
    return measured


def tilings(setting: Setting) -> list[dict[str, Any]]:
    """How fast other shapes of tiles are in one block: what `FusedIndex.settings` should be."""
    measured: list[dict[str, Any]] = []
    if setting.device != "cuda":
        return measured
    expected: dict[int, RangeSums] = {}
    for skips in (True, False):
        index = _fused(setting, SHAPED_BLOCK, skips=skips)
        for (batch, tiling), programs in product(SHAPES, PROGRAMS):
            if setting.left_seconds() < 0:
                return measured
            index.settings = index.settings._replace(tilings=(tiling,), programs=programs)  # the keys lie as they did
            shape = {"batch": batch, "programs": programs, "skips": skips, **tiling._asdict()}
            try:
                found = index.range_sum(setting.queries[SHAPED_BLOCK, :batch], [THRESHOLDS[SHAPED_BLOCK]])
                differing = count_differing(found, expected.setdefault(batch, found))
                taken = median(_search_seconds(setting, index, SHAPED_BLOCK, batch))
            except Exception as error:  # a shape that does not fit the chip is a result, too
                measured.append({**shape, "error": repr(error)[:200]})
            else:
                measured.append({**shape, "ms": 1000 * taken, "differing_integers": differing})
    return measured


def indexes_of(setting: Setting, block: int) -> dict[str, Index]:
    """The backends of one block: fused without and with skipping."""
    if block not in setting.indexes:
        setting.indexes[block] = {
            "exact": ExactDeviceIndex(setting.keys[block], setting.counts, device=setting.device),
            "fused, dense": _fused(setting, block, skips=False),
            "fused, skipping": _fused(setting, block, skips=True),
        }
    return setting.indexes[block]


def _fused(setting: Setting, block: int, *, skips: bool) -> FusedIndex:
    kept = FusedIndex.settings if setting.device == "cuda" else INTERPRETED
    shaped = type("Shaped", (FusedIndex,), {"settings": kept})
    index: FusedIndex = shaped(
        setting.keys[block], setting.counts, setting.tiles[block], device=setting.device, skips=skips
    )
    return index


def _search_seconds(setting: Setting, index: Index, block: int, batch: int) -> list[float]:
    """How long calls of so many queries take, each with others of the 4,096."""
    queries, starts = setting.queries[block], iter(range(0, 1 << 30, batch))

    def search() -> None:
        first = next(starts) % len(queries)
        index.range_sum(queries[first : first + batch], [THRESHOLDS[block]])

    return seconds_of(setting, search)


def seconds_of(setting: Setting, work: Callable[[], Any]) -> list[float]:
    """Seconds of several rounds, after two that compile and fill caches."""
    for _ in range(2):
        work()
    setting.synchronize()
    taken: list[float] = []
    while len(taken) < ROUNDS_MIN or (len(taken) < ROUNDS_MAX and sum(taken) < ROUNDS_SECONDS):
        started = time.perf_counter()
        work()
        setting.synchronize()
        taken.append(time.perf_counter() - started)
    return taken


def _top_k(setting: Setting, keys: torch.Tensor, on_host: torch.Tensor, queries: np.ndarray, threshold: float) -> int:
    """Neighbors by the top 2,048, and again on the CPU where these are not all; how many queries that was."""
    vectors = torch.from_numpy(queries).to(setting.device)
    scores = torch.mm(vectors, keys.T)
    top = torch.topk(scores, min(TOP_K, len(keys)), dim=1)
    overflowed = torch.nonzero(top.values[:, -1] > threshold).ravel().cpu().numpy()
    top.indices.cpu()
    if len(overflowed):
        again = torch.mm(torch.from_numpy(queries[overflowed].astype(np.float32)), on_host.T)
        torch.nonzero(again > threshold)
    return len(overflowed)


def count_differing(found: RangeSums, expected: Sequence[np.ndarray]) -> int:
    """How many integers of two results are not the same."""
    return sum(int((mine != other).sum()) for mine, other in zip(found, expected, strict=True))

"""What a build will take: time, memory and disk."""

import resource
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ffnsearch_indexer.build.source import Source
from ffnsearch_indexer.index.tiles import tiles_bytes, tiles_memory_bytes
from ffnsearch_indexer.models import extraction
from ffnsearch_indexer.models.prefixes import count_prefixes
from ffnsearch_indexer.models.products import ROWS_TOGETHER, multiply_packed, pack
from ffnsearch_indexer.store import keys, layout
from ffnsearch_indexer.store.faiss import plan_faiss
from ffnsearch_indexer.store.records import map_bytes
from ffnsearch_indexer.store.work import require_own

SHARDS_FOLDER, SNAPSHOT_FOLDER = "shards", "snapshot"
"""Of a build's folder: keys in the order of sorted windows, until the blocks are put together; and what becomes OUT."""

SECONDS_OF_TILES = {"cpu": 20e-6, "cuda": 8e-6}
"""Measured: what a core takes to put one key of 384 dimensions into a tile; beside a GPU, to order it alone."""

LATER_BYTES = 300 << 20
"""What libraries and compiled code take beside a build's arrays once they are used."""

MODEL_OVERHEAD = 1.3
"""How much longer a forward pass takes on the CPU than the matrix products in it."""

ASSEMBLED_BYTES_PER_SECOND = 0.4e9
"""How fast the keys of blocks are put together from shards."""

TOKEN_MEMORY_BYTES, SUBSTRING_MEMORY_BYTES = 60, 40
"""What the corpus and its windows, places and counts take at most, for each token and each substring."""

TOKEN_DISK_BYTES, SUBSTRING_DISK_BYTES, PARAMETER_DISK_BYTES = 16, 30, 4
"""What corpus, arrays of counts and model take in a snapshot at most: all but records, keys and tiles."""


@dataclass(frozen=True)
class BuildPlan:
    """What a build will take, known before the work starts; seconds: without the calibration that may follow."""

    substrings: int
    distinct_prefixes: int
    shards: int
    shards_done: int
    seconds: float
    memory_bytes: int
    disk_bytes: int
    snapshot_bytes: int


def plan_build(source: Source, work: Path) -> BuildPlan:
    """What is left to be done in a build's folder; raises OutputError where other work was begun there."""
    require_own(work, source.identity)
    N, config = len(source.substrings), source.model.config
    shards = len(keys.shard_ranges(N))
    shards_done = sum(keys.shard_path(work / SHARDS_FOLDER, shard).exists() for shard in range(shards))
    blocks_done = sum((work / SNAPSHOT_FOLDER / layout.keys_file(block)).exists() for block in range(config.blocks))
    if blocks_done == config.blocks:
        shards_done = shards
    prefixes = count_prefixes(source.windows[source.order])
    of_faiss = plan_faiss(dict.fromkeys(source.request.faiss, config.blocks), N, config.d_model)
    shards_left, blocks_left = 1 - shards_done / shards, 1 - blocks_done / config.blocks
    other_bytes = _disk_bytes_beside_keys(source) + of_faiss.disk_bytes
    return BuildPlan(
        substrings=N,
        distinct_prefixes=prefixes,
        shards=shards,
        shards_done=shards_done,
        seconds=_seconds(source, prefixes, shards_left),
        memory_bytes=_memory_bytes(source, of_faiss.memory_bytes),
        disk_bytes=int(_key_bytes(source) * (shards_left + blocks_left)) + other_bytes,
        snapshot_bytes=_key_bytes(source) + other_bytes,
    )


def _seconds(source: Source, prefixes: int, shards_left: float) -> float:
    """What the work takes. shards_left: the share of the shards that the model must still be run for."""
    blocks, N = source.model.config.blocks, len(source.substrings)
    of_tiles = blocks * N * SECONDS_OF_TILES[source.device] / torch.get_num_threads()
    of_blocks = _key_bytes(source) / ASSEMBLED_BYTES_PER_SECOND
    return shards_left * _seconds_of_model(source, prefixes) + of_blocks + of_tiles


def _memory_bytes(source: Source, faiss_bytes: int) -> int:
    """What the largest of the steps needs, beside what all of them hold. faiss_bytes: of the step that follows."""
    config, N, counts = source.model.config, len(source.substrings), source.substrings.counts
    tiles_at_once = min(torch.get_num_threads(), config.blocks)  # as `write_tiles` makes them
    largest_step_bytes = max(
        extraction.memory_bytes(min(N, keys.SHARD_WINDOWS), config, source.windows.shape[1]),
        2 * N * config.d_model,
        tiles_at_once * tiles_memory_bytes(N, config.d_model, counts),
        faiss_bytes,
    )
    held_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # of libraries above all, and so far
    source_bytes = TOKEN_MEMORY_BYTES * len(source.tokens) + SUBSTRING_MEMORY_BYTES * N
    return held_bytes + LATER_BYTES + largest_step_bytes + source_bytes


def _disk_bytes_beside_keys(source: Source) -> int:
    """What all of the snapshot but the keys takes at most: records, arrays, model and tiles."""
    config, N, counts = source.model.config, len(source.substrings), source.substrings.counts
    arrays_bytes = TOKEN_DISK_BYTES * len(source.tokens) + SUBSTRING_DISK_BYTES * N
    model_bytes = PARAMETER_DISK_BYTES * source.model.parameter_count()
    all_tiles_bytes = config.blocks * tiles_bytes(N, config.d_model, counts)
    return map_bytes(source.substrings) + arrays_bytes + model_bytes + all_tiles_bytes


def _key_bytes(source: Source) -> int:
    """What the keys of all blocks take."""
    return 2 * len(source.substrings) * source.model.config.d_model * source.model.config.blocks


def _seconds_of_model(source: Source, prefixes: int) -> float:
    """What running all windows takes: each distinct prefix once on the CPU, each window whole on a GPU."""
    if source.device_model:
        return len(source.windows) * source.device_model.seconds_per_window()
    return prefixes * extraction.flops_per_node(source.model.config) / _flops_per_second() * MODEL_OVERHEAD


def _flops_per_second() -> float:
    """Measure this machine for a moment with the matrix product that the work consists of."""
    x, weight = np.ones((20 * ROWS_TOGETHER, 384), np.float32), np.ones((1536, 384), np.float32)
    packed, out = pack(weight), np.zeros((len(x), len(weight)), np.float32)
    multiply_packed(x, packed, out)  # compiles it, or loads what was compiled
    flops = 2.0 * len(x) * weight.size
    rates = []
    for _ in range(8):
        started = time.perf_counter()
        multiply_packed(x, packed, out)
        rates.append(flops / (time.perf_counter() - started))
    return float(np.median(rates)) * torch.get_num_threads()

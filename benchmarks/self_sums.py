"""What self-sums take to make and what they save: a sample of queries in both orders, then a batch read and searched.

    OMP_WAIT_POLICY=passive python benchmarks/self_sums.py --snapshot DIR --json FILE [--queries 4096]

Nothing is written to the snapshot. Queries are keys of substrings, in calls of 512: once neighbors in the order of a
block's tiles, as self-sums are made, and once at random, as they would be in the order of ids. Processor seconds are
those of all threads together: they say what work there is even where the machine does other work as well. Sums that
are read are those of one batch of random prompts, which were searched before; integers are compared.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import recording

from ffnsearch_indexer.answer import lookup
from ffnsearch_indexer.answer.backends import open_indexes
from ffnsearch_indexer.answer.profile import Profile
from ffnsearch_indexer.index.base import Index, Int64, RangeSums
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_indexer.store.self_sums import ENTRY_BYTES, ROW_BYTES, SelfSums

PROFILES = ("article", "balanced")
BATCH, ROUNDS = 512, 5

Result = TypeVar("Result")


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--snapshot", required=True, type=Path)
    parser.add_argument("--json", required=True, type=Path, help="where to write the result")
    parser.add_argument("--queries", type=int, default=4096, help="queries of a block in each order")
    options = parser.parse_args()
    with Datastore.open(options.snapshot, check="sizes") as datastore:
        manifest, indexes = datastore.manifest, open_indexes(datastore, "tiles")
        profiles = [Profile.from_json(manifest.profiles[name]) for name in PROFILES if name in manifest.profiles]
        measured = {profile.name: _measured(datastore, indexes, profile, options.queries) for profile in profiles}
        recording.write(
            options.json,
            {
                "benchmark": "self_sums",
                "corpus": manifest.corpus_name,
                "snapshot_id": manifest.snapshot_id,
                "substrings": manifest.substrings,
                "blocks": manifest.blocks,
                "queries_of_a_block_in_each_order": options.queries,
                "queries_in_a_call": BATCH,
                "measured": measured,
            },
        )


def _measured(datastore: Datastore, indexes: list[Index], profile: Profile, queries: int) -> dict[str, Any]:
    """What a sample of the self-join of one profile takes, and what reading its sums saves."""
    N, cores = datastore.manifest.substrings, len(os.sched_getaffinity(0))
    blocks = [
        _join_sample(datastore, index, block, profile.thresholds(block), queries) for block, index in enumerate(indexes)
    ]
    rows = sum(map(len, profile.thresholds_by_block))
    entries = sum(block["random"]["entries_of_a_query"] for block in blocks)
    return {
        "thresholds": [list(of_block) for of_block in profile.thresholds_by_block],
        "blocks": blocks,
        "whole_bytes_by_the_random_sample": int(N * (rows * ROW_BYTES + entries * ENTRY_BYTES)),
        "whole_minutes_by_the_sample_on_idle_cores": {
            order: N * sum(block[order]["processor_seconds_of_a_query"] for block in blocks) / cores / 60
            for order in ("tiles", "random")
        },
        "batch": _batch(datastore, indexes, profile),
    }


def _join_sample(
    datastore: Datastore, index: Index, block: int, thresholds: tuple[float, ...], queries: int
) -> dict[str, Any]:
    """One block's queries, in runs of the order of its tiles and at random."""
    assert datastore.tiles is not None, "the snapshot has tiles"
    order, rng = datastore.tiles[block].order.astype(np.int64), np.random.default_rng(block)
    starts = np.linspace(0, len(order) - BATCH, queries // BATCH).astype(np.int64)
    calls = {
        "tiles": [order[start : start + BATCH] for start in starts],
        "random": list(rng.choice(len(order), (len(starts), BATCH), replace=False)),
    }
    index.range_sum(index.keys[order[:BATCH]], thresholds)  # it reads what every search reads
    return {name: _asked(index, thresholds, of_order) for name, of_order in calls.items()}


def _asked(index: Index, thresholds: tuple[float, ...], calls: list[Int64]) -> dict[str, float]:
    samples, entries = [], 0
    for ids in calls:
        found, times = _timed(lambda ids=ids: index.range_sum(index.keys[ids], thresholds))
        samples.append(times["processor_seconds"] / len(ids))
        entries += np.count_nonzero(found.freq)
    return {
        "processor_seconds_of_a_query": float(np.mean(samples)),
        "entries_of_a_query": entries / sum(map(len, calls)),
    }


def _batch(datastore: Datastore, indexes: list[Index], profile: Profile) -> dict[str, Any]:
    """A batch of prompts that are substrings, in all blocks: searched, and read from sums that are in memory."""
    ids = _batch_ids(datastore)
    samples: dict[str, list[dict[str, float]]] = {"searched": [], "read": []}
    differing = 0
    for _ in range(ROUNDS):
        searched, times = _timed(lambda: _sums(indexes, [None] * len(indexes), profile, ids))
        samples["searched"].append(times)
        stored = [
            _stored(index, of, profile, block, ids)
            for block, (index, of) in enumerate(zip(indexes, searched, strict=True))
        ]
        read, times = _timed(lambda stored=stored: _sums(indexes, stored, profile, ids))
        samples["read"].append(times)
        differing += sum(int((one.freq != other.freq).sum()) for one, other in zip(searched, read, strict=True))
        differing += sum(int((a.neighbors != b.neighbors).sum()) for a, b in zip(searched, read, strict=True))
    medians = {
        f"{name}_{unit}": float(np.median([times[unit] for times in of_name]))
        for name, of_name in samples.items()
        for unit in of_name[0]
    }
    return {"prompts": BATCH, "differing_integers": differing, **medians, "samples": samples}


def _sums(indexes: list[Index], stored: list[SelfSums] | list[None], profile: Profile, ids: Int64) -> list[RangeSums]:
    return [
        lookup.range_sum(index, of_block, index.keys[ids], ids.tolist(), profile.thresholds(block))
        for block, (index, of_block) in enumerate(zip(indexes, stored, strict=True))
    ]


def _stored(index: Index, found: RangeSums, profile: Profile, block: int, ids: Int64) -> SelfSums:
    """Self-sums that have the rows of some substrings, in ascending order, and empty ones of all others."""
    thresholds = profile.thresholds(block)
    places = np.argsort(thresholds)
    freq, S = found.freq[:, places], len(thresholds)
    sizes = np.zeros((len(index.keys), S), np.int64)
    sizes[ids] = np.count_nonzero(freq, axis=2)
    neighbors = np.zeros((len(index.keys), S), np.uint32)
    neighbors[ids] = found.neighbors[:, places]
    where = np.nonzero(freq)
    tokens, sums = where[2].astype(np.uint16), freq[where].astype(np.uint32)
    return SelfSums(sorted(thresholds), np.append(0, np.cumsum(sizes)), tokens, sums, neighbors)


def _batch_ids(datastore: Datastore) -> Int64:
    rng = np.random.default_rng(0)
    return np.sort(rng.choice(datastore.manifest.substrings, BATCH, replace=False))


def _timed(work: Callable[[], Result]) -> tuple[Result, dict[str, float]]:
    started, processor = time.perf_counter(), time.process_time()
    result = work()
    return result, {
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time() - processor,
    }


if __name__ == "__main__":
    main()

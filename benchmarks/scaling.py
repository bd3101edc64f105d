"""What a range sum of one block costs as the index grows, and as the threshold falls.

    python benchmarks/scaling.py --snapshot DIR --block 3,4 --json FILE [--plot FILE.png]
    python benchmarks/scaling.py --json FILE --plot FILE.png        reads and draws an earlier result

An index of n substrings has the first n by id, with the counts of the whole corpus, and tiles of its own. The queries
are the same everywhere, and every answer is compared with that of `exact`. All sizes, or all thresholds, are measured
in each round, one after the other; what counts is the median of the rounds. The exponent is the slope of log cost over
log n.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the command line sets it: threads that spin disturb the others

import argparse
import sys
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import comparing
import figures
import numpy as np
import peers
import query_kinds

from ffnsearch_indexer.answer.profile import Profile
from ffnsearch_indexer.fidelity.table import aligned
from ffnsearch_indexer.index.base import Float16
from ffnsearch_indexer.index.tiles import ENDING_TOKENS, tiles_of
from ffnsearch_indexer.store.datastore import Datastore

BACKENDS = ("tiles", "exact")
SIZES = (100_000, 300_000)
THRESHOLDS = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)


def main() -> None:
    """Measure, or read what was measured; print; draw."""
    parser = comparing.parser(__doc__)
    parser.add_argument("--block", type=comparing.numbers, default="3,4", help="blocks to measure")
    parser.add_argument("--sizes", type=comparing.numbers, default=SIZES, help="substrings, beside all of them")
    parser.add_argument("--batch", type=int, default=64, help="queries in a call")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts")
    parser.add_argument(
        "--profile", default="article", help="whose first threshold of a block the sizes are measured at"
    )
    comparing.run(parser.parse_args(), _measured, _lines, figures.scaling)


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    started = time.monotonic()
    threads = len(os.sched_getaffinity(0))
    with Datastore.open(options.snapshot, check="sizes") as datastore:
        manifest = datastore.manifest
        profile = Profile.from_json(manifest.profiles[options.profile])
        asked = query_kinds.ask(datastore, query_kinds.KINDS[0], options.batch)
        sizes = [size for size in options.sizes if size < manifest.substrings] + [manifest.substrings]
        measured = {}
        for block in options.block:
            threshold = profile.thresholds(block)[0]
            measured[str(block)] = _block(datastore, block, sizes, threshold, asked.vectors[block], options.rounds)
            print(f"block {block}: {time.monotonic() - started:,.0f} s", file=sys.stderr)
        points = [point for of_block in measured.values() for point in of_block["by_size"] + of_block["by_threshold"]]
        return {
            "benchmark": "scaling",
            "corpus": manifest.corpus_name,
            "snapshot_id": manifest.snapshot_id,
            "substrings": manifest.substrings,
            "d_model": manifest.d_model,
            "threads": threads,
            "batch": options.batch,
            "queries": asked.description,
            "backends": list(BACKENDS),
            "differing_integers": sum(point["differing_integers"] for point in points),
            "measured": measured,
            "seconds": time.monotonic() - started,
        }


def _block(
    datastore: Datastore, block: int, sizes: list[int], threshold: float, queries: Float16, rounds: int
) -> dict[str, Any]:
    """Measure one block at several sizes and one threshold, then whole at several thresholds."""
    contenders = []
    tile_seconds = []
    for size in sizes:
        begun = time.perf_counter()
        contenders.append(_open(datastore, block, size))
        tile_seconds.append(time.perf_counter() - begun)
    by_size = _costs([(contender, threshold) for contender in contenders], queries, rounds)
    by_threshold = _costs([(contenders[-1], lower) for lower in THRESHOLDS], queries, rounds)
    return {
        "threshold": threshold,
        "exponent": {
            name: _exponent(sizes, [costs["seconds_per_query"][name] for costs in by_size]) for name in BACKENDS
        },
        "by_size": [
            {"substrings": size, "tile_seconds": seconds, **costs}
            for size, seconds, costs in zip(sizes, tile_seconds, by_size, strict=True)
        ],
        "by_threshold": [{"threshold": lower, **costs} for lower, costs in zip(THRESHOLDS, by_threshold, strict=True)],
    }


def _open(datastore: Datastore, block: int, size: int) -> dict[str, peers.RangeSum]:
    """Both backends for the first substrings of a block."""
    keys, counts = datastore.keys[block][:size], peers.rows_of(datastore.counts, range(size))
    endings = datastore.substring_tokens()[:size, -ENDING_TOKENS:]
    threads = len(os.sched_getaffinity(0))
    return {
        name: peers.open_backend(name, keys, counts, lambda: tiles_of(keys, counts, endings), threads)
        for name in BACKENDS
    }


def _costs(
    points: Sequence[tuple[dict[str, peers.RangeSum], float]], queries: Float16, rounds: int
) -> list[dict[str, Any]]:
    """Seconds a query of both backends at each point: an index, and a threshold."""
    samples: list[dict[str, list[float]]] = [{name: [] for name in BACKENDS} for _ in points]
    differing, neighbors = [0] * len(points), [0.0] * len(points)
    for round_number in range(-1, rounds):  # the first one is not counted: it compiles, and reads the keys
        for place, (backends, threshold) in enumerate(points):
            sums = []
            for name in BACKENDS:
                begun = time.perf_counter()
                sums.append(backends[name](queries, [threshold]))
                if round_number >= 0:
                    samples[place][name].append((time.perf_counter() - begun) / len(queries))
            differing[place] += peers.differing(*sums)
            neighbors[place] = float(sums[0].neighbors.mean())
    return [
        {
            "seconds_per_query": {name: median(of_name) for name, of_name in of_point.items()},
            "neighbors_per_query": mean,
            "differing_integers": integers,
            "samples": of_point,
        }
        for of_point, mean, integers in zip(samples, neighbors, differing, strict=True)
    ]


def _exponent(sizes: list[int], seconds: list[float]) -> float | None:
    """The slope of log cost over log size; None for a single size."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]) if len(sizes) > 1 else None


def _lines(result: dict[str, Any]) -> list[str]:
    lines = [
        f"{result['batch']} queries in a call, {result['threads']} threads, {result['seconds']:,.0f} s, "
        f"{result['differing_integers']:,} integers differ; milliseconds a query"
    ]
    for block, of_block in result["measured"].items():
        exponents = ", ".join(
            f"{name} N^{value:.2f}" for name, value in of_block["exponent"].items() if value is not None
        )
        lines += ["", f"block {block}, threshold {of_block['threshold']:g}: {exponents}"]
        lines += _table("substrings", of_block["by_size"])
        lines += ["", f"block {block}, {result['substrings']:,} substrings"]
        lines += _table("threshold", of_block["by_threshold"])
    return lines


def _table(along: str, points: list[dict[str, Any]]) -> list[str]:
    rows = [
        (
            f"{point[along]:,}",
            *(f"{1e3 * seconds:.3f}" for seconds in point["seconds_per_query"].values()),
            f"{point['neighbors_per_query']:,.0f}",
        )
        for point in points
    ]
    return aligned([(along, *BACKENDS, "neighbors"), *rows])


if __name__ == "__main__":
    main()

"""How fast range sums over all blocks of a snapshot are, beside faiss: same queries, same process, same integers.

    python benchmarks/range_sum.py --snapshot DIR --json FILE [--plot FILE.png] [--budget-seconds 480]
    python benchmarks/range_sum.py --json FILE --plot FILE.png      reads and draws an earlier result

The first profile with the first kind of queries is measured at all batch sizes, the others at `--other-batch`. A
backend that does the same for each query in any call larger than `peers.queries_max` is measured with calls of that
size instead, and the result says so. How is told in `racing`.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the command line sets it: threads that spin disturb the others

import argparse
import resource
import sys
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import comparing
import figures
import peers
import query_kinds
from racing import QUERIES_MIN, Group, measure_block

from ffnsearch_indexer.answer.profile import Profile
from ffnsearch_indexer.fidelity.table import aligned
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_indexer.store.manifest import Manifest

PROFILES = ("article", "balanced")
"""What is measured where nobody says, as far as the snapshot has it."""


def main() -> None:
    """Measure, or read what was measured; print; draw."""
    comparing.run(_parser().parse_args(), _measured, _lines, figures.throughput)


def _parser() -> argparse.ArgumentParser:
    parser = comparing.parser(__doc__)
    parser.add_argument("--batch", type=comparing.numbers, default="1,16,64,512,4096", help="queries in a call")
    parser.add_argument(
        "--other-batch", type=comparing.numbers, default="64", help="the same for other profiles and kinds"
    )
    parser.add_argument("--backends", type=_names(peers.BACKENDS), default=list(peers.BACKENDS))
    parser.add_argument("--queries", type=_names(query_kinds.KINDS), default=list(query_kinds.KINDS), help="kinds")
    parser.add_argument("--profile", type=_names(None), help="profiles of the snapshot")
    parser.add_argument("--budget-seconds", type=float, default=480, help="what more than three rounds may take")
    return parser


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all groups in all blocks."""
    started = time.monotonic()
    threads = len(os.sched_getaffinity(0))
    with Datastore.open(options.snapshot, check="sizes") as datastore:
        groups = list(_groups(datastore, options, threads))
        prepare_seconds: dict[str, list[float]] = {name: [] for name in options.backends}
        blocks = datastore.manifest.blocks
        for block in range(blocks):
            now = time.monotonic()
            deadline = now + (started + options.budget_seconds - now) / (blocks - block)
            measure_block(datastore, block, groups, deadline, prepare_seconds)
            print(f"block {block} of {blocks}: {time.monotonic() - started:,.0f} s", file=sys.stderr)
        manifest = datastore.manifest
        measured: dict[str, Any] = {}
        for group in groups:
            measured.setdefault(group.profile.name, {})[group.kind] = _described(group)
        every = [samples for group in groups for of_name in group.samples.values() for samples in of_name.values()]
        return {
            "benchmark": "range_sum",
            "corpus": manifest.corpus_name,
            "split": manifest.split,
            "snapshot_id": manifest.snapshot_id,
            "substrings": manifest.substrings,
            "blocks": blocks,
            "d_model": manifest.d_model,
            "threads": threads,
            "backends": {name: peers.BACKENDS[name] for name in options.backends},
            "tiles_made_here": datastore.tiles is None,
            "prepare_seconds_by_block": prepare_seconds,
            "profile": groups[0].profile.name,
            "queries": groups[0].kind,
            "ratio_to_best_faiss": measured[groups[0].profile.name][groups[0].kind]["ratio_to_best_faiss"],
            "answers_checked": sum(samples.answers_checked for samples in every),
            "differing_integers": sum(samples.differing_integers for samples in every),
            "measured": measured,
            "seconds": time.monotonic() - started,
            "memory_peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        }


def _groups(datastore: Datastore, options: argparse.Namespace, threads: int) -> Iterator[Group]:
    asked: dict[str, query_kinds.Asked] = {}
    for place, profile in enumerate(_profiles(datastore.manifest, options.profile)):
        for kind in options.queries:
            is_first = place == 0 and kind == options.queries[0]
            batches = options.batch if is_first else options.other_batch
            if kind not in asked:
                asked[kind] = query_kinds.ask(datastore, kind, max(QUERIES_MIN, *batches))
            yield Group(profile, kind, asked[kind], batches, threads)


def _profiles(manifest: Manifest, wanted: list[str] | None) -> list[Profile]:
    known = [name for name in PROFILES if name in manifest.profiles]
    names = wanted or known or [manifest.default_profile]
    for name in names:
        if name not in manifest.profiles:
            raise SystemExit(f"no profile {name!r}: the snapshot has {', '.join(manifest.profiles)}")
    return [Profile.from_json(manifest.profiles[name]) for name in names]


def _described(group: Group) -> dict[str, Any]:
    backends = {
        name: {str(batch): group.samples_of(name, batch).to_json() for batch in group.batches} for name in group.samples
    }
    ratios = {str(batch): ratio for batch in group.batches if (ratio := _ratio_to_best_faiss(backends, str(batch)))}
    return {
        "prompts": group.asked.description,
        "distinct_prompts": group.asked.distinct,
        "neighbors_per_query_by_block": group.neighbors_by_block,
        "ratio_to_best_faiss": ratios,
        "backends": backends,
    }


def _ratio_to_best_faiss(backends: dict[str, dict[str, dict[str, Any]]], batch: str) -> float | None:
    """How many times as many queries a second `tiles` answers; None where there is nothing to compare."""
    rates = [backends[name][batch]["queries_per_second"] for name in peers.FAISS if name in backends]
    return backends["tiles"][batch]["queries_per_second"] / max(rates) if rates and "tiles" in backends else None


def _lines(result: dict[str, Any]) -> list[str]:
    """A table of queries a second for each profile and kind of queries."""
    lines = [
        f"{result['substrings']:,} substrings in {result['blocks']} blocks, {result['threads']} threads, "
        f"{result['seconds']:,.0f} s, {result['answers_checked']:,} answers checked, "
        f"{result['differing_integers']:,} integers differ"
    ]
    for profile, kinds in result["measured"].items():
        for kind, of_kind in kinds.items():
            lines += ["", f"{profile}, {kind} ({of_kind['prompts']}): queries a second", *aligned(list(_rows(of_kind)))]
    return lines


def _rows(of_kind: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    batches = list(next(iter(of_kind["backends"].values())))
    yield "", *(f"batch {batch}" for batch in batches)
    for name, by_batch in of_kind["backends"].items():
        yield name, *(f"{by_batch[batch]['queries_per_second']:,.1f}" for batch in batches)
    ratios = of_kind["ratio_to_best_faiss"]
    if ratios:
        yield "tiles to the best faiss", *(f"{ratios[batch]:.1f}" for batch in batches)


def _names(known: Collection[str] | None) -> Callable[[str], list[str]]:
    """How a list of names is read: all of them known."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        if known is not None and not set(names) <= set(known):
            raise argparse.ArgumentTypeError(f"{text!r} is not among {', '.join(known)}")
        return names

    return read


if __name__ == "__main__":
    main()

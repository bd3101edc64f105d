"""How backends race: round by round on the same queries, every answer compared with that of `exact`.

Block after block, because faiss' indexes of one block take 8 N D bytes together. In a round each backend answers the
same queries, one backend after the other, and another one begins each time. What counts for a block is the median of
its rounds; blocks are added up.
"""

import time
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import peers
import query_kinds

from ffnsearch_indexer.answer.profile import Profile
from ffnsearch_indexer.index.base import Float16, RangeSums
from ffnsearch_indexer.index.exact import ExactIndex
from ffnsearch_indexer.store.datastore import Datastore

ROUNDS_MIN, ROUNDS_MAX = 3, 9
"""Rounds in each block; those behind the least are run while its share of the budget lasts."""

ROUND_QUERIES = 8
"""Fewest queries of a round, in calls of the batch size: queries differ in what they cost."""

QUERIES_MIN = 128
"""Fewest queries that rounds take theirs from, so that one does not find the last one's keys in the cache."""


@dataclass
class Samples:
    """What one backend took. seconds: for a query, of each block's rounds."""

    queries_per_call: int
    seconds: list[list[float]]
    answers_checked: int = 0
    differing_integers: int = 0

    @property
    def seconds_by_block(self) -> list[float]:
        """For a query, in the middle."""
        return [median(rounds) for rounds in self.seconds]

    def to_json(self) -> dict[str, Any]:
        """Medians by block and their sum, and the raw samples."""
        seconds = sum(self.seconds_by_block)
        return {
            "seconds_per_query": seconds,
            "queries_per_second": 1 / seconds,
            "queries_per_call": self.queries_per_call,
            "answers_checked": self.answers_checked,
            "differing_integers": self.differing_integers,
            "seconds_per_query_by_block": self.seconds_by_block,
            "samples": [[float(f"{sample:.4g}") for sample in rounds] for rounds in self.seconds],
        }


@dataclass
class Group:
    """Queries of one kind at the thresholds of one profile. samples: by backend, then by queries in a call."""

    profile: Profile
    kind: str
    asked: query_kinds.Asked
    batches: list[int]
    threads: int
    samples: dict[str, dict[int, Samples]] = field(default_factory=dict)
    neighbors_by_block: list[float] = field(default_factory=list)

    def samples_of(self, name: str, batch: int) -> Samples:
        """Where the times of a backend at a batch size are kept."""
        most = peers.queries_max(name, self.threads)
        per_call = min(batch, most) if most else batch
        no_blocks: list[list[float]] = [[] for _ in self.asked.vectors]
        return self.samples.setdefault(name, {}).setdefault(per_call, Samples(per_call, no_blocks))

    def queries(self, block: int) -> Float16:
        """The queries of a block that rounds take theirs from."""
        return self.asked.vectors[block, : max(QUERIES_MIN, *self.batches)]


def measure_block(
    datastore: Datastore, block: int, groups: list[Group], deadline: float, prepare_seconds: dict[str, list[float]]
) -> None:
    """Open all backends for one block, let them race round after round, and forget them."""
    keys, counts = datastore.keys[block], datastore.counts
    backends: dict[str, peers.RangeSum] = {}
    for name, seconds in prepare_seconds.items():
        begun = time.perf_counter()
        backends[name] = peers.open_backend(
            name, keys, counts, partial(peers.tiles, datastore, block), groups[0].threads
        )
        for few in (1, groups[0].threads):  # builds what is built at the first search, compiles, reads the keys
            backends[name](groups[0].queries(block)[:few], groups[0].profile.thresholds(block))
        seconds.append(time.perf_counter() - begun)
    expected = []
    for group in groups:
        expected.append(ExactIndex(keys, counts).range_sum(group.queries(block), group.profile.thresholds(block)))
        group.neighbors_by_block.append(float(expected[-1].neighbors.max(axis=1, initial=0).mean()))
    for round_number in range(ROUNDS_MAX):
        begun = time.monotonic()
        for group, of_group in zip(groups, expected, strict=True):
            for batch in group.batches:
                _run_round(backends, group, block, batch, round_number, of_group)
        now = time.monotonic()
        if round_number + 1 >= ROUNDS_MIN and now + (now - begun) > deadline:
            break


def _run_round(
    backends: dict[str, peers.RangeSum], group: Group, block: int, batch: int, round_number: int, expected: RangeSums
) -> None:
    """Time each backend on the same queries, and compare every answer with that of `exact`."""
    queries, thresholds = group.queries(block), group.profile.thresholds(block)
    size = max(batch, ROUND_QUERIES)
    rows = np.random.default_rng((round_number, batch)).permutation(len(queries))[:size]
    names = list(backends)
    for name in names[round_number % len(names) :] + names[: round_number % len(names)]:
        samples = group.samples_of(name, batch)
        if len(samples.seconds[block]) > round_number:
            continue  # a smaller batch was measured with calls of the same size
        step = samples.queries_per_call
        own = rows[: max(step, ROUND_QUERIES)]
        calls = [queries[own[first : first + step]] for first in range(0, len(own), step)]
        begun = time.perf_counter()
        found = [backends[name](call, thresholds) for call in calls]
        samples.seconds[block].append((time.perf_counter() - begun) / len(own))
        sums = RangeSums(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))
        samples.differing_integers += peers.differing(sums, RangeSums(expected.freq[own], expected.neighbors[own]))
        samples.answers_checked += len(own)

"""The search contract: what every backend promises, and how a score is decided.

Shapes: B queries, N substrings, D d_model, S thresholds, V vocabulary, M pairs.

A score is `sum_d float16(q_d) * float16(x_d)`, exactly. Products of two float16 values are multiples
of 2^-48, and sums of theirs stay below 2^5 for unit vectors, so float64 holds every partial sum
without rounding: `exact_scores` gives the same bits in any order of summation, on any machine. A fast
backend computes float32 scores, whose error is at most `score_error(D)`, drops those not above `cut`,
and decides the rest with `decide`, which recomputes a score too close to a threshold.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.corpora.substrings import NextTokenCounts
from ffnsearch_indexer.hardware.compiled import numba
from ffnsearch_indexer.parts import parts_of

Float16 = NDArray[np.float16]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

Checkpoint = Callable[[], None]
"""Called between tiles of work. It raises CancelledError once the caller no longer wants the answer."""

EXACT_VALUES = 1 << 16
"""Values of each side that `exact_scores` gathers at once: they stay in a core's cache."""


def nobody_waits() -> None:
    """A checkpoint that never cancels: the default."""


class RangeSums(NamedTuple):
    """The sums of a batch. freq: [B, S, V] int64. neighbors: [B, S] int64, how many substrings were summed."""

    freq: Int64
    neighbors: Int64


class Neighbors(NamedTuple):
    """The neighbors of a batch: row i is `lims[i]:lims[i+1]`, its ids ascending.

    lims: [B+1] int64. ids: [M] int64. scores: [M] float64, exact.
    """

    lims: Int64
    ids: Int64
    scores: Float64


class Index(ABC):
    """One block's keys [N, D] and the counts of their substrings, searchable by score.

    A neighbor has a score strictly above the threshold. Instances are safe to search from one thread
    at a time; several instances may share the same arrays, which are never written. An exception from
    a checkpoint passes through and leaves the index usable. Memory beside the result is bounded
    whatever the batch and the thresholds.
    """

    approximate: ClassVar[bool] = False
    recall: float = 1.0
    """The share of its neighbors that a query finds on average, as measured."""

    def __init__(self, keys: Float16, counts: NextTokenCounts) -> None:
        assert keys.dtype == np.float16, "keys are float16"
        assert keys.ndim == 2, "keys are [N, D]"
        assert len(counts.offsets) == len(keys) + 1, "keys and counts have one row a substring"
        self.keys = keys
        self.counts = counts

    def begin(self, queries: Any, thresholds: Sequence[float], checkpoint: Checkpoint) -> None:
        """Begin a search: queries [B, D], an array or a tensor, are float16 with the keys' D, thresholds numbers."""
        assert str(queries.dtype).removeprefix("torch.") == "float16", "queries are float16"
        assert queries.shape[1:] == self.keys.shape[1:], "queries are [B, D], with the keys' D"
        assert not any(map(math.isnan, thresholds)), "thresholds are numbers"
        checkpoint()

    def require_ids(self, ids: range | None) -> range:
        """The given ids, or all where none are given; asserts that the index has them."""
        meant = range(len(self.keys)) if ids is None else ids
        assert meant == range(len(self.keys))[meant.start : meant.stop], f"no such ids: {ids}"
        return meant

    @abstractmethod
    def range_sum(
        self, queries: Float16, thresholds: Sequence[float], *, checkpoint: Checkpoint = nobody_waits
    ) -> RangeSums:
        """Sum the next-token counts of the neighbors of queries [B, D] above each of S thresholds.

        Thresholds come in any order, equal ones included; the sums are in the same order.
        """

    @abstractmethod
    def range_search(
        self, queries: Float16, threshold: float, *, ids: range | None = None, checkpoint: Checkpoint = nobody_waits
    ) -> Neighbors:
        """List the neighbors of queries [B, D] above a threshold, of all substrings or those with `ids`.

        `ids` has step 1 and lies within 0 to N. The result takes 16 bytes a neighbor, and up to four times
        that while it is put together; a caller that must bound it walks over ranges of ids.
        """


def exact_scores(queries: Float16, keys: Float16, rows: Int64, ids: Int64) -> Float64:
    """The exact scores [M] of the pairs (queries[rows[m]], keys[ids[m]])."""
    scores = np.empty(len(rows))
    step = max(1, EXACT_VALUES // keys.shape[1])
    for part in parts_of(len(rows), step):
        np.einsum("md,md->m", queries[rows[part]], keys[ids[part]], dtype=np.float64, out=scores[part])
    return scores


def score_error(d_model: int) -> float:
    """Largest error of a float32 score of unit float16 vectors, for any order of summation.

    Products are exact in float32. Summing n terms errs by at most n u / (1 - n u) times the sum of their
    magnitudes (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2), u = 2^-24; by
    Cauchy-Schwarz that sum is at most the product of the norms, each within 2^-10 of 1 after rounding.
    """
    nu = d_model * 2.0**-24
    return nu / (1 - nu) * (1 + 2.0**-10) ** 2


def cut(threshold: float, d_model: int) -> np.float32:
    """A float32 value that the float32 score of every neighbor above a threshold exceeds."""
    lowered = np.float32(threshold - score_error(d_model))  # may have been rounded up, by less than one step
    return np.float32(np.nextafter(lowered, np.float32(-np.inf)))


def levels_above(scores: Float64, thresholds: Float64) -> Int64:
    """How many of the ascending thresholds [S] each score exceeds, strictly: the one predicate of the project."""
    return np.searchsorted(thresholds, scores, side="left").astype(np.int64)


@numba.njit(nogil=True, cache=True)
def level_of(score: float | np.floating[Any], thresholds: Float64) -> int:
    """As `levels_above`, for one score, in compiled code."""
    level = 0
    while level < len(thresholds) and thresholds[level] < score:
        level += 1
    return level


def join_neighbors(parts: list[tuple[Int64, Int64, Float64]], queries: int) -> Neighbors:
    """Put parts, (rows, ids, scores) of pairs each, into compressed rows."""
    none = np.empty(0, dtype=np.int64)
    rows = np.concatenate([none, *(part[0] for part in parts)])
    ids = np.concatenate([none, *(part[1] for part in parts)])
    scores = np.concatenate([np.empty(0), *(part[2] for part in parts)])
    lims = np.zeros(queries + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=queries), out=lims[1:])
    order = np.lexsort((ids, rows))
    return Neighbors(lims, ids[order], scores[order])


def decide(queries: Float16, keys: Float16, rows: Int64, ids: Int64, scores: Float32, thresholds: Float64) -> Int64:
    """Decide the levels [M] of pairs from float32 scores; those too close to a threshold, exactly."""
    levels, is_close = _clear_levels(scores, thresholds, score_error(keys.shape[1]))
    close = np.flatnonzero(is_close)
    levels[close] = levels_above(exact_scores(queries, keys, rows[close], ids[close]), thresholds)
    return levels


@numba.njit(nogil=True, cache=True)
def _clear_levels(scores: Float32, thresholds: Float64, error: float) -> tuple[Int64, NDArray[np.bool_]]:
    """The level of each score [M] less the error, and whether a threshold lies within the error of the score."""
    levels, is_close = np.empty(len(scores), np.int64), np.empty(len(scores), np.bool_)
    for pair in range(len(scores)):
        score = np.float64(scores[pair])  # in float32 the band's edges would be rounded
        levels[pair] = level_of(score - error, thresholds)
        is_close[pair] = levels[pair] != level_of(score + error, thresholds)
    return levels, is_close

"""The unique windows of a corpus, in order of first occurrence, and what follows each.

Exact: windows are compared token by token (packed into 64-bit words), never by hash. The memory for sorting is bounded:
a hash spreads the windows over parts, so that equal ones meet in one, and each part is sorted by itself.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.corpora.tokenizer import Tokens
from ffnsearch_indexer.errors import CorpusError
from ffnsearch_indexer.progress import Progress, silent

BYTES_PER_WINDOW = 72
"""Measured peak of `find_substrings` for each window that is sorted at once."""

PARTS_MAX = 1024
"""Most parts that the windows are spread over: each part reads the whole corpus once."""


def entries_of_rows(firsts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places of all entries of rows that begin at `firsts` [n] and have `sizes` [n] entries."""
    ends: NDArray[np.int64] = np.cumsum(sizes)
    return np.repeat(firsts + sizes - ends, sizes) + np.arange(sizes.sum())


class NextTokenCounts(NamedTuple):
    """Next-token counts of N substrings in compressed sparse rows; row i is `offsets[i]:offsets[i+1]`.

    offsets: [N+1] int64. tokens: [M] uint16, ascending within a row. counts: [M] uint32, at least 1.
    """

    offsets: NDArray[np.int64]
    tokens: NDArray[np.uint16]
    counts: NDArray[np.uint32]
    vocabulary_size: int

    def row(self, substring_id: int) -> tuple[NDArray[np.uint16], NDArray[np.uint32]]:
        """Tokens that follow one substring, and how often; both empty for one without a successor."""
        first, last = self.offsets[substring_id], self.offsets[substring_id + 1]
        return self.tokens[first:last], self.counts[first:last]

    def entries(self, ids: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where the entries of some substrings [n] are, row after row, and how many each has, [n] int64."""
        firsts = self.offsets[:-1][ids]
        sizes = self.offsets[1:][ids] - firsts
        return entries_of_rows(firsts, sizes), sizes

    def reordered(self, order: NDArray[np.integer]) -> "NextTokenCounts":
        """The same rows in another order: row i is that of the substring `order[i]`."""
        entries, sizes = self.entries(order)
        offsets = np.append(0, np.cumsum(sizes))
        return NextTokenCounts(offsets, self.tokens[entries], self.counts[entries], self.vocabulary_size)

    def total(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sum the rows of some substrings, [V] int64."""
        entries, _ = self.entries(ids)
        totals = np.bincount(self.tokens[entries], self.counts[entries], minlength=self.vocabulary_size)
        return totals.astype(np.int64)


class SuffixOrder(NamedTuple):
    """N substrings in ascending order of their reversed tokens: those that share a suffix stand together.

    ids: [N] int64. shared: [N] int16, how many last tokens each has in common with the one before it, -1 for the first:
    the substrings that share their last d tokens are a run, which begins where `shared` is less than d.
    """

    ids: NDArray[np.int64]
    shared: NDArray[np.int16]


@dataclass(frozen=True)
class Substrings:
    """The N unique windows of a corpus by id, their places and their next-token counts.

    first_positions: [N] int64, ascending: where in the corpus each id occurs first.
    place_offsets, places: all occurrences in compressed rows, [N+1] and [T-L+1] int64, ascending in a row.
    """

    window_tokens: int
    first_positions: NDArray[np.int64]
    place_offsets: NDArray[np.int64]
    places: NDArray[np.int64]
    counts: NextTokenCounts

    def __len__(self) -> int:
        return len(self.first_positions)

    def tokens_of(self, corpus: Tokens) -> NDArray[np.uint16]:
        """Token ids of all substrings, [N, L] uint16."""
        return windows_of(corpus, self.window_tokens)[self.first_positions]


def find_substrings(
    corpus: Tokens,
    window_tokens: int,
    vocabulary_size: int,
    *,
    memory_bytes_max: int = 2 << 30,
    progress: Progress = silent,
) -> Substrings:
    """Find the unique windows of a corpus [T], their places, and the counts of the tokens that follow.

    memory_bytes_max: what sorting may take, but no less than PARTS_MAX parts need. What comes after it is not bounded:
    it takes at most 82 bytes a token of the corpus, of which the result is up to 38 (both measured).
    Raises CorpusError for a corpus shorter than one window.
    """
    windows = len(corpus) - window_tokens + 1
    if windows < 1:
        raise CorpusError(
            f"the corpus has {len(corpus)} tokens, fewer than one window of {window_tokens}: "
            "use a longer text or a smaller window",
            reason="CORPUS_TOO_SHORT",
            tokens=len(corpus),
            window_tokens=window_tokens,
        )
    parts = min(max(1, -(-windows * BYTES_PER_WINDOW // memory_bytes_max)), PARTS_MAX)
    first_of_window = np.empty(windows, dtype=np.int64)
    for part in range(parts):
        _mark_first_occurrences(corpus, window_tokens, vocabulary_size, part, parts, first_of_window)
        progress("substrings", part + 1, parts)
    is_first = first_of_window == np.arange(windows)
    first_positions = np.flatnonzero(is_first)
    ids = (np.cumsum(is_first) - 1)[first_of_window]
    place_offsets, places = _group_by_id(ids, len(first_positions))
    counts = _count_successors(corpus[window_tokens:], ids, len(first_positions), vocabulary_size)
    return Substrings(window_tokens, first_positions, place_offsets, places, counts)


def windows_of(tokens: Tokens, window_tokens: int) -> NDArray[np.uint16]:
    """All windows [T-L+1, L] of a text [T] as a view, equal ones included; none where it is too short."""
    if len(tokens) < window_tokens:
        return np.empty((0, window_tokens), dtype=np.uint16)
    return np.lib.stride_tricks.sliding_window_view(tokens, window_tokens)


def pack_windows(windows: NDArray[np.uint16], vocabulary_size: int) -> NDArray[np.uint64]:
    """Pack windows [M, L] into as few 64-bit words as hold them, [M, W] uint64, in the same order.

    Token digits are read in base V, most significant first, so words compare as the windows do.
    """
    digits = 1
    while (digits + 1) * np.log2(max(2, vocabulary_size)) < 63.9:
        digits += 1
    words = []
    for first in range(0, windows.shape[1], digits):
        word = np.zeros(len(windows), dtype=np.uint64)
        for digit in windows[:, first : first + digits].T:
            word = word * np.uint64(vocabulary_size) + digit
        words.append(word)
    return np.stack(words, axis=1)


def sort_windows(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The stable order [M] in which packed windows ascend."""
    if words.shape[1] == 1:
        return np.argsort(words[:, 0], kind="stable")
    return np.lexsort(words.T[::-1])


def sort_suffixes(windows: NDArray[np.uint16], vocabulary_size: int) -> SuffixOrder:
    """Put different windows [N, L], N at least 1, in ascending order of their reversed tokens."""
    reversed_windows = windows[:, ::-1]
    ids = sort_windows(pack_windows(reversed_windows, vocabulary_size))
    shared = np.full(len(ids), -1, dtype=np.int16)
    shared[1:] = 0
    is_same = np.ones(len(ids) - 1, dtype=bool)
    for column in reversed_windows.T:
        ordered = column[ids]
        is_same &= ordered[1:] == ordered[:-1]
        shared[1:] += is_same
    return SuffixOrder(ids, shared)


def _mark_first_occurrences(
    corpus: Tokens, window_tokens: int, vocabulary_size: int, part: int, parts: int, first_of_window: NDArray[np.int64]
) -> None:
    """Write, for each window of one part, the position where the same window occurs first."""
    all_windows = windows_of(corpus, window_tokens)
    positions = np.flatnonzero(_part_of_window(all_windows, parts) == part)
    words = pack_windows(all_windows[positions], vocabulary_size)
    order = sort_windows(words)
    words = words[order]
    starts_group = np.ones(len(order), dtype=bool)
    starts_group[1:] = (words[1:] != words[:-1]).any(axis=1)
    positions = positions[order]
    first_of_group = positions[starts_group]  # the sort is stable: the first of a group is its first occurrence
    first_of_window[positions] = first_of_group[np.cumsum(starts_group) - 1]


def _part_of_window(windows: NDArray[np.uint16], parts: int) -> NDArray[np.uint16]:
    """Spread windows over parts by their content, so that equal windows meet in one part."""
    if parts == 1:
        return np.zeros(len(windows), dtype=np.uint16)
    mixed = np.zeros(len(windows), dtype=np.uint32)
    for digit in windows.T:
        mixed = (mixed ^ digit) * np.uint32(0x9E3779B1)
    return ((mixed >> np.uint32(8)) % np.uint32(parts)).astype(np.uint16)


def _group_by_id(ids: NDArray[np.int64], substrings: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    offsets = np.zeros(substrings + 1, dtype=np.int64)
    np.cumsum(np.bincount(ids, minlength=substrings), out=offsets[1:])
    return offsets, np.argsort(ids, kind="stable")


def _count_successors(
    successors: Tokens, ids: NDArray[np.int64], substrings: int, vocabulary_size: int
) -> NextTokenCounts:
    """Count (id, successor) pairs; the corpus' last window has no successor."""
    pairs, counts = np.unique(ids[: len(successors)] * vocabulary_size + successors, return_counts=True)
    offsets = np.searchsorted(pairs, np.arange(substrings + 1) * vocabulary_size)
    tokens = (pairs % vocabulary_size).astype(np.uint16)
    return NextTokenCounts(offsets.astype(np.int64), tokens, counts.astype(np.uint32), vocabulary_size)

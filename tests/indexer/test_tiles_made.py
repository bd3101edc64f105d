"""What tiles are made of keys: each key in one of them, near ones together, counts summed, bytes known beforehand."""

import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from test_index_contract import clustered, random_counts, unit
from test_on_device import DEVICES
from test_tiles import HEADERS_BYTES, SIZES, draw, ones, require_exact

import stopping
from ffnsearch_indexer.corpora.substrings import NextTokenCounts
from ffnsearch_indexer.index import tiles
from ffnsearch_indexer.index.ordering import closest_order, tile_order
from ffnsearch_indexer.index.tiled import TiledIndex
from ffnsearch_indexer.index.tiles import (
    GROUP_TILES,
    PREFIX,
    TILE_KEYS,
    padded,
    tiles_bytes,
    tiles_memory_bytes,
    tiles_of,
)


@dataclass(frozen=True)
class TilesJob:
    """One call of `tiles_of`, in a process of its own. It returns how much memory that took, and what was foretold."""

    out: Path
    substrings: int
    D: int
    counts_of_key: int

    def run(self, _: Callable[..., None]) -> tuple[int, int]:
        tiles_of(*self.input(1000))
        given = self.input(self.substrings)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        tiles_of(*given)
        taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        return 1024 * taken, tiles_memory_bytes(self.substrings, self.D, given[1])

    def input(self, substrings: int) -> tuple[np.ndarray, NextTokenCounts, np.ndarray]:
        rng = np.random.default_rng(0)
        keys = np.empty((substrings, self.D), np.float16)
        for part in np.split(keys, 100):  # what is made at once would hide what tiles take
            part[:] = unit(rng.standard_normal(part.shape))
        offsets = self.counts_of_key * np.arange(substrings + 1)
        tokens = np.tile(np.arange(self.counts_of_key, dtype=np.uint16), substrings)
        counts = NextTokenCounts(offsets, tokens, np.ones(len(tokens), np.uint32), 65)
        return keys, counts, rng.integers(0, 20, (substrings, 3)).astype(np.uint16)


@pytest.mark.parametrize("substrings", [1, 2, 31, 32, 33, 65, 1023])
@pytest.mark.parametrize("endings", ["none", "one token", "all the same", "all different", "random", "largest tokens"])
def test_an_order_is_a_permutation(substrings: int, endings: str) -> None:
    rng = np.random.default_rng(substrings)
    number = np.arange(substrings)
    columns = {
        "none": np.empty((substrings, 0)),
        "one token": rng.integers(0, 4, (substrings, 1)),
        "all the same": np.full((substrings, 3), 7),
        "all different": np.stack([number % 2, number // 2 % 40, number // 80], axis=1),
        "random": rng.integers(0, 4, (substrings, 3)),
        "largest tokens": rng.integers(65_530, 65_536, (substrings, 3)),
    }[endings].astype(np.uint16)
    for positions in (rng.standard_normal((substrings, 5)), np.zeros((substrings, 5)), np.ones((substrings, 1))):
        order = closest_order(positions.astype(np.float32), columns, TILE_KEYS)
        assert order.dtype == np.int64
        np.testing.assert_array_equal(np.sort(order), number)


def test_an_order_keeps_classes_together_and_cuts_them_at_whole_tiles() -> None:
    """Wherever its class begins, a tile within it has keys that follow each other, and so has a pair of tiles."""
    rng = np.random.default_rng(0)
    sizes = [640, 33, 7, 700]
    classes = rng.permutation(np.repeat([5, 9, 11, 1 << 47], sizes))
    positions = np.empty((sum(sizes), 1), np.float32)
    for number, size in zip([5, 9, 11, 1 << 47], sizes, strict=True):
        positions[classes == number, 0] = rng.permutation(size)
    order, starts = tile_order(positions, classes, TILE_KEYS)
    np.testing.assert_array_equal(starts, np.cumsum([0, *sizes[:-1]]))
    np.testing.assert_array_equal(classes[order], np.sort(classes))
    for keys, expected in ((TILE_KEYS, 20 + 1 + 21), (2 * TILE_KEYS, 10 + 10)):
        whole = len(order) // keys * keys
        within = [tile for tile in order[:whole].reshape(-1, keys) if len(set(classes[tile])) == 1]
        assert len(within) == expected
        for tile in within:
            assert np.ptp(positions[tile]) == keys - 1


def test_how_many_last_tokens_make_a_class_is_decided_class_by_class() -> None:
    """The token before the last tells keys of one class apart, and in the other says nothing."""
    rng = np.random.default_rng(0)
    centres, last, before = unit(rng.standard_normal((80, 64))), np.repeat([0, 1], 40 * TILE_KEYS), np.arange(80)
    before = np.concatenate([np.repeat(before[:40], TILE_KEYS), rng.permutation(np.repeat(before[40:], TILE_KEYS))])
    near = np.concatenate([0.8 * rng.standard_normal((len(last) // 2, 64)), np.zeros((len(last) // 2, 64))])
    positions = (np.repeat(centres, TILE_KEYS, axis=0) * 4 + near).astype(np.float32)
    endings = np.stack([before, last], axis=1).astype(np.uint16)

    def reaches(order: np.ndarray) -> np.ndarray:
        tiles = positions[order].reshape(2, -1, TILE_KEYS, 64)
        return np.linalg.norm(tiles - tiles.mean(axis=2, keepdims=True), axis=3).max(axis=2).sum(axis=1)

    by_last = reaches(tile_order(positions, last, TILE_KEYS)[0])
    by_both = reaches(tile_order(positions, last << 16 | before, TILE_KEYS)[0])
    assert by_both[0] < by_last[0]
    assert by_last[1] < by_both[1]
    found = reaches(closest_order(positions, endings, TILE_KEYS))
    np.testing.assert_allclose(found, [by_both[0], by_last[1]], rtol=1e-6)


def test_near_keys_share_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    case = clustered()
    spread = tiles_of(case.keys, case.counts).bounds[3].mean()
    monkeypatch.setattr(tiles, "closest_order", lambda positions, *_: np.arange(len(positions)))
    assert spread < 0.8 * tiles_of(case.keys, case.counts).bounds[3].mean()


def test_keys_that_are_near_by_their_endings_are_put_together_by_them() -> None:
    """Classes of 32 around centres that 48 dimensions do not tell apart from what is random in them."""
    rng = np.random.default_rng(0)
    classes = rng.permutation(np.repeat(np.arange(40), TILE_KEYS))
    keys = unit(rng.standard_normal((40, 64))[classes] + 0.8 * rng.standard_normal((len(classes), 64)))
    endings = np.stack([classes % 3, classes // 8, classes % 8], axis=1).astype(np.uint16)
    order = tiles_of(keys, ones(keys), endings).order
    assert (np.diff(classes[order].reshape(-1, TILE_KEYS)) == 0).all()


@pytest.mark.parametrize("D", [3, 40, 130])
def test_the_same_keys_give_the_same_tiles(D: int) -> None:
    rng = np.random.default_rng(0)
    keys, _ = draw("clusters", rng, D)
    counts, endings = random_counts(rng, len(keys), 5), rng.integers(0, 3, (len(keys), 5)).astype(np.uint16)
    first, again = tiles_of(keys, counts, endings[:, -3:]), tiles_of(keys.copy(), counts, endings[:, -3:].copy())
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


@pytest.mark.parametrize("device", DEVICES)
def test_tiles_that_were_measured_on_a_device_give_the_same_integers(device: str) -> None:
    case = clustered(keys=1500)
    made = tiles_of(case.keys, case.counts, device=device)
    assert all(isinstance(array, np.ndarray) for array in made)
    require_exact(TiledIndex(case.keys, case.counts, made), case)


@pytest.mark.parametrize("D", SIZES)
@pytest.mark.parametrize("kind", ["random", "zeros", "duplicates", "axes"])
def test_what_tiles_hold(kind: str, D: int) -> None:
    rng = np.random.default_rng(D)
    keys, _ = draw(kind, rng, D)
    counts = random_counts(rng, len(keys), 6)
    made = tiles_of(keys, counts)
    n, width = -(-len(keys) // TILE_KEYS), padded(D)
    assert D <= width < D + PREFIX
    assert width % PREFIX == len(made.centres) % GROUP_TILES == 0
    assert made.centres.shape == (len(made.centres), width)
    assert n <= len(made.centres) < n + GROUP_TILES
    assert made.bounds.shape == (12, n)
    assert made.residuals.shape == (n, TILE_KEYS * PREFIX)
    assert made.details.shape == (n, TILE_KEYS * (width - PREFIX))
    assert made.remainders.shape == (n, TILE_KEYS)
    for array in (made.basis, made.bounds, made.remainders):
        assert np.isfinite(array).all()
    assert (made.bounds[2:] >= 0).all()
    np.testing.assert_array_equal(np.sort(made.order), np.arange(len(keys)))
    for place, substring_id in enumerate(made.order.tolist()):
        row = slice(made.key_offsets[place], made.key_offsets[place + 1])
        tokens, of_key = counts.row(substring_id)
        np.testing.assert_array_equal(made.key_tokens[row], tokens)
        np.testing.assert_array_equal(made.key_counts[row], of_key)
    for tile in range(n):
        totals = counts.total(made.order[TILE_KEYS * tile : TILE_KEYS * (tile + 1)].astype(np.int64))
        row = slice(made.offsets[tile], made.offsets[tile + 1])
        assert dict(zip(made.tokens[row].tolist(), made.counts[row].tolist(), strict=True)) == {
            token: total for token, total in enumerate(totals.tolist()) if total
        }


@pytest.mark.parametrize("D", [1, 33, 130])
@pytest.mark.parametrize("substrings", [1, 32, 33, 1000])
@pytest.mark.parametrize("vocabulary_size", [1, 65, 50_000])
def test_the_bytes_of_tiles_are_known_beforehand(substrings: int, D: int, vocabulary_size: int) -> None:
    rng = np.random.default_rng(0)
    keys, counts = unit(rng.standard_normal((substrings, D))), random_counts(rng, substrings, vocabulary_size)
    taken = sum(array.nbytes for array in tiles_of(keys, counts)) + HEADERS_BYTES
    assert taken <= tiles_bytes(substrings, D, counts) < 1.3 * taken + 4096


@pytest.mark.parametrize(("substrings", "D", "counts_of_key"), [(120_000, 384, 1), (200_000, 48, 1), (60_000, 32, 30)])
def test_the_memory_that_tiles_take_is_known_beforehand(
    substrings: int, D: int, counts_of_key: int, tmp_path: Path
) -> None:
    taken, foretold = stopping.run(TilesJob(tmp_path, substrings, D, counts_of_key)).result
    assert foretold / 3 < taken <= foretold

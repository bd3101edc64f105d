"""In which order keys are cut into tiles: substrings with the same ending together, and near keys next to each other.

Shapes: N substrings, D d_model, M dimensions that are looked at.

FFN outputs of substrings with the same ending are close together, the more so in early blocks; in late blocks keys
group by what follows. So keys are first put into classes by their last tokens, and each class is split in two again
and again, across the direction in which its keys differ most, down to tiles.
"""

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.index.base import Float32, Int64

SAMPLE = 512
"""Keys of a part that its direction is found from."""

STEP_TILES = 1024
"""Tiles that are measured at once."""

ROUNDS = 3
"""Power iterations for a direction: where the cut lies matters little, that it is across a long side does."""


def closest_order(positions: Float32, endings: NDArray[np.uint16], tile_keys: int) -> Int64:
    """Order N keys so that tiles are close together: the best of several numbers of last tokens.

    positions: [N, M], in which nearness is measured. endings: [N, E], the last tokens of substrings; classes of none of
    them, of E - 1 and of E are tried. The same input gives the same order.
    """
    depths = sorted({0, max(0, endings.shape[1] - 1), endings.shape[1]})
    orders = [tile_order(positions, _classes(endings, depth), tile_keys) for depth in depths]
    return min(orders, key=lambda order: _spread(positions, order, tile_keys))


def tile_order(positions: Float32, classes: NDArray[np.int64], tile_keys: int) -> Int64:
    """Order N keys: classes in ascending order, and in each the nearest next to each other.

    classes: [N], equal for keys of one class. tile_keys: parts are cut at multiples of it.
    """
    rng = np.random.default_rng(0)
    by_class = np.argsort(classes, kind="stable")
    starts = np.flatnonzero(np.diff(classes[by_class], prepend=classes[by_class[0]] - 1))
    for first, last in zip(starts, [*starts[1:], len(by_class)], strict=True):
        _split(positions, by_class[first:last], tile_keys, rng)
    return by_class


def _classes(endings: NDArray[np.uint16], depth: int) -> NDArray[np.int64]:
    """Number substrings by their last `depth` tokens, so that those with the same last token are near."""
    number = np.zeros(len(endings), np.int64)
    for place in range(1, depth + 1):
        number = number << 16 | endings[:, -place]
    return number


def _spread(positions: Float32, order: Int64, tile_keys: int) -> float:
    """The mean distance of keys from the centre of their tile; the last tile, which may be short, is left out."""
    whole = len(order) // tile_keys
    if not whole:
        return 0.0
    total = 0.0
    for first in range(0, whole, STEP_TILES):
        tiles = order[first * tile_keys : min(whole, first + STEP_TILES) * tile_keys].reshape(-1, tile_keys)
        members = positions[tiles]
        total += float(np.linalg.norm(members - members.mean(axis=1, keepdims=True), axis=2).sum())
    return total / (whole * tile_keys)


def _split(positions: Float32, ids: Int64, tile_keys: int, rng: np.random.Generator) -> None:
    """Put the ids of one class in order, in place."""
    parts = [ids]
    while parts:
        part = parts.pop()
        if len(part) <= tile_keys:
            continue
        sample = part if len(part) <= SAMPLE else part[rng.integers(0, len(part), SAMPLE)]
        along = positions[part] @ _longest_direction(positions[sample])
        middle = max(1, len(part) // tile_keys // 2) * tile_keys
        part[:] = part[np.argpartition(along, middle)]
        parts += [part[:middle], part[middle:]]


def _longest_direction(points: Float32) -> Float32:
    """A direction [M] in which the points spread most, roughly; its length is 1, or 0 for points that are all equal."""
    away = points - points.mean(axis=0)
    direction: Float32 = away[np.argmax(np.einsum("nm,nm->n", away, away))]
    for _ in range(ROUNDS):
        direction = away.T @ (away @ direction)
        direction = direction / (np.linalg.norm(direction) or 1)
    return direction

"""The order in which keys are cut into tiles: substrings with the same ending together, near keys side by side.

Shapes: N substrings, M dimensions that are looked at.

FFN outputs of substrings with the same ending are close together, the more so in early blocks; in late blocks keys
group by what follows. So keys are put into classes by their last tokens, and each class is cut in two again and again,
down to tiles: into two sets of given sizes whose centres are far apart. How many last tokens make a class is measured,
class by class: whichever makes the closest tiles.

The two sets are those of balanced 2-means: keys are cut at a plane across the line from centre to centre, and the
centres of both sides give the next line. Cuts are at whole tiles of the order, not of the class: where a class ends
within a tile the next one fills it, and no other tile has keys of two classes.
"""

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.hardware.compiled import numba
from ffnsearch_indexer.index.base import Float32, Int64

ROUNDS = 4
"""How often the two sets of a part are found anew from their centres: more bring little."""

SAMPLE = 1024
"""Keys of a part, at least, that its centres are found from: all of them where it has less than twice as many."""

PARTS_MAX = 64
"""Parts that wait to be cut: each cut halves one, so there is one for each power of two below N."""

_ANY_ORDER = {"contract", "reassoc"}
"""Sums may be taken in any order and with fused products: where a cut lies decides no answer."""


def closest_order(positions: Float32, endings: NDArray[np.uint16], tile_keys: int) -> Int64:
    """Order N keys so that tiles are close together.

    positions: [N, M], in which nearness is measured. endings: [N, E], the last tokens of substrings: classes of all of
    them, and of fewer where those make closer tiles. On one machine the same input gives the same order. Takes about
    7 s a million keys of 96 dimensions on one core, without Python's lock, and 40 bytes a key.
    """
    order, reaches = np.empty(0, np.int64), np.empty(0)
    for depth in range(endings.shape[1], -1, -1):
        other, starts = tile_order(positions, _classes(endings, depth), tile_keys)
        of_other = _reaches(positions, other, tile_keys)
        if not len(order):
            order, reaches = other, of_other
        is_closer = np.add.reduceat(of_other, starts) < np.add.reduceat(reaches, starts)
        closer = np.flatnonzero(np.repeat(is_closer, np.diff(starts, append=len(order))))
        order[closer], reaches[closer] = other[closer], of_other[closer]
    return order


def tile_order(positions: Float32, classes: Int64, tile_keys: int) -> tuple[Int64, Int64]:
    """Order N keys: classes in ascending order, and in each the nearest next to each other; and where each begins.

    classes: [N], equal for keys of one class. tile_keys: parts are cut at multiples of it.
    """
    order = np.argsort(classes, kind="stable")
    starts = np.flatnonzero(np.diff(classes[order], prepend=classes[order[0]] - 1))
    _cut(positions, order, np.append(starts, len(order)), tile_keys)
    return order, starts


def _classes(endings: NDArray[np.uint16], depth: int) -> Int64:
    """Number substrings by their last `depth` tokens, so that those with the same last token are near."""
    number = np.zeros(len(endings), np.int64)
    for place in range(1, depth + 1):
        number = number << 16 | endings[:, -place]
    return number


@numba.njit(nogil=True, cache=True, fastmath=_ANY_ORDER)
def _reaches(positions: Float32, order: Int64, tile_keys: int) -> NDArray[np.float64]:
    """At each place [N] of an order, how far its tile's farthest key is from the tile's centre."""
    N, M = positions.shape
    reaches, centre = np.empty(N), np.empty(M, np.float32)
    for first in range(0, N, tile_keys):
        last = min(N, first + tile_keys)
        centre[:] = 0
        for place in range(first, last):
            row = positions[order[place]]
            for m in range(M):
                centre[m] += row[m]
        for m in range(M):
            centre[m] /= np.float32(last - first)
        most = np.float32(0)
        for place in range(first, last):
            row, square = positions[order[place]], np.float32(0)
            for m in range(M):
                square += (row[m] - centre[m]) ** 2
            most = max(most, square)
        reaches[first:last] = np.sqrt(most)
    return reaches


@numba.njit(nogil=True, cache=True)
def _cut(positions: Float32, order: Int64, starts: Int64, tile_keys: int) -> None:
    """Put each class of an order in order, in place. starts: where classes begin, and where the last one ends."""
    direction, along = np.empty(positions.shape[1], np.float32), np.empty(len(order), np.float32)
    waiting = np.empty((PARTS_MAX, 2), np.int64)
    for of_class in range(len(starts) - 1):
        waiting[0], parts = starts[of_class : of_class + 2], 1
        while parts:
            parts -= 1
            first, last = waiting[parts]
            if first // tile_keys == (last - 1) // tile_keys:
                continue
            step = 2 * tile_keys  # pairs of tiles stay together: the larger tiles of `fused`
            if first // step == (last - 1) // step:
                step = tile_keys
            middle = ((first + last) // 2 + step // 2) // step * step
            middle = min(max(middle, first // step * step + step), (last - 1) // step * step)
            members = order[first:last]
            _find_direction(positions, members, (middle - first) / (last - first), direction, along)
            _measure(positions, members, direction, along)
            _select(along, members, middle - first)
            waiting[parts], waiting[parts + 1] = (first, middle), (middle, last)
            parts += 2


@numba.njit(nogil=True, cache=True)
def _find_direction(positions: Float32, members: Int64, share: float, direction: Float32, along: Float32) -> None:
    """Find the direction [M] from the centre of one set of members to that of the other; the first has this share.

    along: overwritten.
    """
    sample = members[:: max(1, len(members) // SAMPLE)].copy()
    size = min(max(1, int(share * len(sample))), len(sample) - 1)
    _to_farthest(positions, sample, direction)
    for _ in range(ROUNDS):
        _measure(positions, sample, direction, along)
        _select(along, sample, size)
        direction[:] = 0
        _add_centre(positions, sample[:size], np.float32(-1), direction)
        _add_centre(positions, sample[size:], np.float32(1), direction)


@numba.njit(nogil=True, cache=True, fastmath=_ANY_ORDER)
def _to_farthest(positions: Float32, members: Int64, direction: Float32) -> None:
    """Let a direction [M] point from the centre of the members to the farthest of them."""
    M = positions.shape[1]
    centre = np.zeros(M, np.float32)
    _add_centre(positions, members, np.float32(1), centre)
    farthest, most = members[0], np.float32(-1)
    for member in members:
        row, square = positions[member], np.float32(0)
        for m in range(M):
            square += (row[m] - centre[m]) ** 2
        if square > most:
            farthest, most = member, square
    direction[:] = positions[farthest] - centre


@numba.njit(nogil=True, cache=True, fastmath=_ANY_ORDER)
def _add_centre(positions: Float32, members: Int64, sign: np.float32, out: Float32) -> None:
    """Add the centre of members, times a sign, to a vector [M]."""
    share = sign / np.float32(len(members))
    for member in members:
        row = positions[member]
        for m in range(len(out)):
            out[m] += share * row[m]


@numba.njit(nogil=True, cache=True, fastmath=_ANY_ORDER)
def _measure(positions: Float32, members: Int64, direction: Float32, along: Float32) -> None:
    """How far members are along a direction [M], times its length: the first of `along`."""
    for place in range(len(members)):
        row, product = positions[members[place]], np.float32(0)
        for m in range(len(direction)):
            product += row[m] * direction[m]
        along[place] = product


@numba.njit(nogil=True, cache=True)
def _select(along: Float32, members: Int64, size: int) -> None:
    """Put the members that are least far along first, `size` of them."""
    members[:] = members[np.argpartition(along[: len(members)], size)]

"""What the `tiles` backend knows of a block's keys beforehand: which are near each other, and how near.

Shapes: N keys, D d_model, n tiles of TILE_KEYS keys, P = PREFIX dimensions or fewer, V vocabulary.

All of it is in a rotated basis, the eigenvectors of the keys' second moments, largest first: a few dimensions hold
most of a key. Let x be a key, c the centre of its tile, d = x - c, and d1, d2 its first P and its other dimensions.

a whole tile    q.x = (q.c)(x.c)/|c|^2 + q'.x', the parts along c and across. x.c/|c|^2 lies between `lowest` and
                `highest`, |q'|^2 = |q|^2 - (q.c)^2/|c|^2, and |x'| is at most `spread`
one key         q.x = q.c + q1.d1 + q2.d2. d1 is kept as int8, times `scale`, and off by at most `rounding`; |d2| is in
                `remainders`: by Cauchy-Schwarz, q.c + q1.d1 is off by at most |q1| rounding + |q2| remainder
more closely    the same with DETAIL dimensions more, for a key that is still undecided; what is behind is in `tails`

All hold for any vectors; where a centre is too short to divide by, it is 0, and `spread` is the longest key. What
float32 arithmetic adds is covered: norms are taken MARGIN longer than computed, and the rest is in `slack`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from ffnsearch_indexer.corpora.substrings import NextTokenCounts
from ffnsearch_indexer.index.base import Float16, Float32, Int64
from ffnsearch_indexer.index.ordering import closest_order
from ffnsearch_indexer.index.precision import require_full_precision

TILE_KEYS = 32
"""Keys of a tile: a few vector registers of float32."""

ENDING_TOKENS = 3
"""Last tokens of a substring that its class may be made of: behind these, classes are smaller than tiles."""

PREFIX = 32
"""Dimensions of a residual that bound all keys of a tile at once."""

DETAIL = 96
"""Dimensions behind these that bound single keys more closely."""

NEAR_DIMENSIONS = 48
"""Dimensions in which nearness is measured for the order."""

SAMPLE_KEYS = 1 << 14
"""Keys that the basis is found from."""

MARGIN = 1 + 2.0**-10
"""How much longer norms are taken than float32 computes them: D roundings of 2^-24 stay below it up to D = 8192."""

NORM_MAX = 1 + 2.0**-9
"""No key or query is longer: they are unit vectors, rounded to float16."""

CENTRE_NORM_MAX = NORM_MAX * (1 + 2.0**-7)
"""No centre is longer: a mean of keys, rotated and rounded to bfloat16."""

CENTRE_NORM_MIN = 2.0**-5
"""A shorter centre is no direction."""

STEP_TILES = 1024
"""Tiles that are measured at once."""


def tiles_bytes(substrings: int, d_model: int, counts: NextTokenCounts) -> int:
    """How many bytes the tiles of one block take, at most."""
    tiles = -(-substrings // TILE_KEYS)
    prefix, detail = dimensions(d_model)
    of_keys = substrings * 4 + tiles * TILE_KEYS * (prefix + detail + 2 * 4)
    of_tiles = tiles * (2 * d_model + 8 * 4 + 8) + 10 * min(len(counts.tokens), tiles * counts.vocabulary_size)
    return of_keys + of_tiles + 4 * d_model**2 + (1 << 12)


def dimensions(d_model: int) -> tuple[int, int]:
    """How many dimensions of a key are in the prefix (padded to a multiple of 8), and in the detail."""
    return min(PREFIX, -(-d_model // 8) * 8), max(0, min(DETAIL, d_model - PREFIX))


class Tiles(NamedTuple):
    """The tiles of one block; `tiles_of` makes them. Tile t holds the keys `order[32 t : 32 t + 32]`.

    order: [N] int32. basis: [D, D] float32. centres: [n, D] uint16, the bits of bfloat16 numbers. bounds: [8, n]
    float32: lowest, highest, 1/|c|^2, spread, scale and rounding of the prefix, scale and rounding of the detail.
    residuals: [n, P, 32] int8, P a multiple of 8. remainders: [n, 32] float32. details: [n, 32, E] int8. tails: [n, 32]
    float32. offsets: [n + 1] int64, tokens: [M] uint16, counts: [M] int64, the next-token counts of each tile, summed.
    """

    order: NDArray[np.int32]
    basis: Float32
    centres: NDArray[np.uint16]
    bounds: Float32
    residuals: NDArray[np.int8]
    remainders: Float32
    details: NDArray[np.int8]
    tails: Float32
    offsets: Int64
    tokens: NDArray[np.uint16]
    counts: Int64


def tiles_of(keys: Float16, counts: NextTokenCounts, endings: NDArray[np.uint16] | None = None) -> Tiles:
    """Put keys [N, D] into tiles.

    endings: [N, M], the last tokens of each substring, by which keys may be kept together; how many of them is
    measured: whichever makes the closest tiles. Takes about 20 s a million keys of 384 dimensions on one core, and
    300 bytes a key beside the result.
    """
    require_full_precision("tiles")
    N, D = keys.shape
    source = from_dlpack(keys)
    basis = _basis(source)
    positions = np.empty((N, min(D, NEAR_DIMENSIONS)), np.float32)
    for part in _parts(N, STEP_TILES * TILE_KEYS):
        positions[part] = (source[part].float() @ basis[:, : positions.shape[1]]).numpy()
    order = closest_order(positions, np.empty((N, 0), np.uint16) if endings is None else endings, TILE_KEYS)
    del positions
    measured, sums = _measured(source, order, basis), _summed(counts, order)
    return Tiles(*(order.astype(np.int32), basis.numpy(), *measured, *sums))


def slack(basis: Float32) -> float:
    """How far q.x may be from the product of the rotated vectors, and from what float32 makes of the bounds above.

    Two parts for vectors no longer than NORM_MAX. The basis W is not quite orthogonal: |q.x - (qW).(xW)| is at most
    the norm of W W^T - 1, which is computed here. And a rotated vector is off by D u sqrt(D) at most, u = 2^-24: each
    of its elements by D u |q|.|w| (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), and the |w| of
    all columns together have the norm sqrt(D). The second part is taken three times, for either vector and for the
    sums of estimates; 64 u more are for the few operations on numbers below 2 that a bound consists of.
    """
    D = len(basis)
    wide = basis.astype(np.float64)
    defect = float(np.linalg.norm(wide @ wide.T - np.eye(D)))
    rounding = D * 2.0**-24 * D**0.5 + 64 * 2.0**-24
    bound: float = (defect + 3 * rounding) * NORM_MAX**2 * MARGIN
    return bound


def _basis(source: Tensor) -> Tensor:
    """The eigenvectors [D, D] of the second moments of a sample of the keys, of the largest eigenvalue first."""
    sample = source[:: max(1, len(source) // SAMPLE_KEYS)].float()
    vectors: Tensor = torch.linalg.eigh((sample.T @ sample).double()).eigenvectors
    return vectors.flip(1).float().contiguous()


def _measured(source: Tensor, order: Int64, basis: Tensor) -> tuple[NDArray[Any], ...]:
    """Centres, bounds, residuals, remainders, details and tails of the tiles of an order."""
    N, D = source.shape
    tiles = -(-N // TILE_KEYS)
    prefix, detail = dimensions(D)
    members = torch.from_numpy(np.append(order, np.full(tiles * TILE_KEYS - N, order[-1])))
    centres, bounds = torch.empty((tiles, D), dtype=torch.bfloat16), torch.empty((8, tiles))
    residuals = torch.zeros((tiles, prefix, TILE_KEYS), dtype=torch.int8)
    details = torch.empty((tiles, TILE_KEYS, detail), dtype=torch.int8)
    remainders, tails = torch.empty((tiles, TILE_KEYS)), torch.empty((tiles, TILE_KEYS))
    for part in _parts(tiles, STEP_TILES):
        of_part = members[part.start * TILE_KEYS : part.stop * TILE_KEYS]
        x = (source[of_part].float() @ basis).view(-1, TILE_KEYS, D)
        mean = x.mean(dim=1)
        c = torch.where(mean.norm(dim=1, keepdim=True) < CENTRE_NORM_MIN, 0, mean).bfloat16()
        centres[part], c = c, c.float()
        square = c.double().square().sum(dim=1, keepdim=True)
        inverse_square = torch.where(square > 0, 1 / square, 0).float()
        along = torch.bmm(x, c[..., None])[..., 0] * inverse_square
        across = (x - along[..., None] * c[:, None]).norm(dim=2)
        d = x - c[:, None]
        d1, scale, rounding = _quantised(d[..., :prefix])
        d2, detail_scale, detail_rounding = _quantised(d[..., prefix : prefix + detail])
        cones = (along.amin(dim=1), along.amax(dim=1), inverse_square[:, 0], across.amax(dim=1) * MARGIN)
        bounds[:, part] = torch.stack([*cones, scale, rounding, detail_scale, detail_rounding])
        residuals[part, : d1.shape[2]] = d1.transpose(1, 2)
        details[part] = d2
        remainders[part] = d[..., prefix:].norm(dim=2) * MARGIN
        tails[part] = d[..., prefix + detail :].norm(dim=2) * MARGIN
    arrays = (centres.view(torch.uint16), bounds, residuals, remainders, details, tails)
    return tuple(array.numpy() for array in arrays)


def _quantised(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values [n, 32, P] as int8, and for each tile [n] the scale, and how long what is lost of a key is at most."""
    if not values.shape[2]:
        return values.to(torch.int8), torch.zeros(len(values)), torch.zeros(len(values))
    scale = values.abs().amax(dim=(1, 2)).clamp(min=1e-30) / 127
    rounded = (values / scale[:, None, None]).round()
    lost = (values - rounded * scale[:, None, None]).norm(dim=2).amax(dim=1)
    return rounded.to(torch.int8), scale, lost * MARGIN


def _summed(counts: NextTokenCounts, order: Int64) -> tuple[Int64, NDArray[np.uint16], Int64]:
    """The next-token counts of each tile of an order, in compressed rows: offsets, tokens, counts."""
    lengths = np.diff(counts.offsets)[order]
    ends = np.cumsum(lengths)
    entries = np.arange(ends[-1]) + np.repeat(counts.offsets[:-1][order] - (ends - lengths), lengths)
    tile = np.repeat(np.arange(len(order)) // TILE_KEYS, lengths)
    places, place_of_entry = np.unique(tile * counts.vocabulary_size + counts.tokens[entries], return_inverse=True)
    sums = np.zeros(len(places), np.int64)
    np.add.at(sums, place_of_entry, counts.counts[entries])
    tiles = -(-len(order) // TILE_KEYS)
    offsets = np.searchsorted(places, np.arange(tiles + 1) * counts.vocabulary_size)
    return offsets, (places % counts.vocabulary_size).astype(np.uint16), sums


def _parts(items: int, step: int) -> Iterator[slice]:
    return (slice(first, min(items, first + step)) for first in range(0, items, step))

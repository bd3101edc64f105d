"""What the `tiles` backend knows of a block's keys before any search: which are near each other, and how near.

Shapes: N keys, D d_model, E = D rounded up to a multiple of PREFIX, n tiles of TILE_KEYS keys, V vocabulary.

All of it is in a rotated basis, the eigenvectors of the keys' second moments, largest first: a few dimensions hold
most of a key. What is behind the last is 0. Let x be a key, c the centre of its tile, d = x - c, and d1, d2 its first
PREFIX and its other dimensions. c, d1 and d2 are kept as int8, each times a scale of its tile.

a whole tile    q.x = (q.c)(x.c)/|c|^2 + q'.x', the parts along c and across. x.c/|c|^2 lies between `lowest` and
                `highest`, |q'|^2 = |q|^2 - (q.c)^2/|c|^2, and |x'| is at most `spread`
one key         q.x = q.c + q1.d1 + q2.d2. |d2| is in `remainders`: by Cauchy-Schwarz, q.c + q1.d1 is off by at most
                |q1| `prefix rounding` + |q2| `remainder`
more closely    q.c + q1.d1 + q2.d2 is off by at most |q1| `prefix rounding` + |q2| `detail rounding`

c is what was rounded, so q.c is not off. A rounding is how far d1 or d2 is at most from what is kept; and as q is
rounded, to bfloat16 or to whole numbers, by a vector that is known, its products are off by that vector's length times
`|c|`, `prefix length` and `detail length`. All hold for any vectors; where a centre is too short to divide by, it is 0,
and `spread` is the longest key. What float32 arithmetic adds is covered: norms are taken MARGIN longer than computed,
and the rest is in `slack`.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from ffnsearch_indexer.corpora.substrings import NextTokenCounts
from ffnsearch_indexer.hardware.precision import require_full_precision
from ffnsearch_indexer.index.base import Float16, Float32, Int64
from ffnsearch_indexer.index.ordering import closest_order
from ffnsearch_indexer.parts import parts_of

TILE_KEYS = 32
"""Keys of a tile: a few vector registers of float32."""

ENDING_TOKENS = 3
"""Most last tokens by which substrings are put into classes: with more, classes are smaller than tiles."""

PREFIX = 32
"""Dimensions of a residual that bound all keys of a tile at once."""

GROUP_TILES = 16
"""Tiles that are multiplied with queries together."""

NEAR_DIMENSIONS = 96
"""Dimensions in which nearness is measured for the order."""

SAMPLE_KEYS = 1 << 14
"""Keys that the basis is found from."""

MARGIN = 1 + 2.0**-10
"""How much longer norms are taken than float32 computes them: D roundings of 2^-24 stay below it up to D = 8192."""

NORM_MAX = 1 + 2.0**-9
"""No key or query is longer: they are unit vectors, rounded to float16."""

ROTATED_TOGETHER = 32
"""Products of a query's rotation that are added in float32, before float64 goes on. Divides a padded length."""

CENTRE_NORM_MIN = 2.0**-5
"""A shorter centre gives no direction."""

STEP_TILES = {"cpu": 32, "cuda": 1024}
"""Tiles that are measured at once: what a core's cache holds, and what occupies a GPU in 400 MB."""

KEPT_BYTES = 1 << 26
"""The most that malloc keeps of memory that was freed."""


def tiles_bytes(substrings: int, d_model: int, counts: NextTokenCounts) -> int:
    """How many bytes the tiles of one block take, at most."""
    tiles = -(-substrings // TILE_KEYS)
    width = padded(d_model)
    of_keys = substrings * 4 + tiles * TILE_KEYS * (width + 4)
    of_tiles = (tiles + GROUP_TILES) * width + tiles * (12 * 4 + 8)
    of_counts = 10 * min(len(counts.tokens), tiles * counts.vocabulary_size) + 6 * len(counts.tokens) + 8 * substrings
    return of_keys + of_tiles + of_counts + 4 * d_model**2 + (1 << 12)


def tiles_memory_bytes(substrings: int, d_model: int, counts: NextTokenCounts) -> int:
    """How much memory `tiles_of` takes, at most, beside keys, counts and endings."""
    width = padded(d_model)
    of_order = 4 * min(d_model, NEAR_DIMENSIONS)  # its position
    of_key = max(of_order, width + width // TILE_KEYS + 1) + 48  # or what is kept of it; places, offsets and the rest
    of_step = 28 * width * min(substrings, STEP_TILES["cpu"] * TILE_KEYS)  # float64 twice, float32 twice, and smaller
    of_counts = 80 * len(counts.tokens)  # numbered, sorted, and numbered again by tile
    return substrings * of_key + max(of_step, of_counts) + 50 * d_model**2 + KEPT_BYTES


def padded(d_model: int) -> int:
    """How many dimensions are kept of vectors: the first are their own, the others are 0."""
    return -(-d_model // PREFIX) * PREFIX


class Tiles(NamedTuple):
    """The tiles of one block; `tiles_of` makes them. Tile t holds the keys `order[32 t : 32 t + 32]`.

    order: [N] int32. basis: [D, D] float32. centres: [m, E] int8, m = n rounded up to a multiple of GROUP_TILES.
    bounds: [12, n] float32: lowest, highest, 1/|c|^2, spread; |c| and the scale of c; scale, rounding and length of the
    prefix; the same of the detail. residuals: [n, 32 PREFIX] int8: two dimensions of each key, then the next two.
    remainders: [n, 32] float32. details: [n, 32 (E - PREFIX)] int8, likewise. offsets: [n + 1] int64, tokens: [M]
    uint16, counts: [M] int64, the next-token counts of each tile, summed. key_offsets: [N + 1] int64, key_tokens: [K]
    uint16, key_counts: [K] uint32, those of each key, in the order of the tiles.
    """

    order: NDArray[np.int32]
    basis: Float32
    centres: NDArray[np.int8]
    bounds: Float32
    residuals: NDArray[np.int8]
    remainders: Float32
    details: NDArray[np.int8]
    offsets: Int64
    tokens: NDArray[np.uint16]
    counts: Int64
    key_offsets: Int64
    key_tokens: NDArray[np.uint16]
    key_counts: NDArray[np.uint32]


def tiles_of(
    keys: Float16, counts: NextTokenCounts, endings: NDArray[np.uint16] | None = None, *, device: str = "cpu"
) -> Tiles:
    """Put keys [N, D] into tiles.

    endings: [N, M], the last tokens of each substring, by which keys may be kept together; as many of
    them count as make the closest tiles. device: cpu or cuda, where tiles are measured once their keys are in order.
    Takes about 17 s a million keys of 384 dimensions on one core, of which a GPU saves 10, and `tiles_memory_bytes`.
    """
    require_full_precision("tiles")
    N, D = keys.shape
    source = from_dlpack(keys)
    basis = _basis(source)
    positions = np.empty((N, min(D, NEAR_DIMENSIONS)), np.float32)
    for part in parts_of(N, STEP_TILES[device] * TILE_KEYS):
        positions[part] = (source[part].float() @ basis[:, : positions.shape[1]]).numpy()
    order = closest_order(positions, np.empty((N, 0), np.uint16) if endings is None else endings, TILE_KEYS)
    del positions
    measured, counted = _measured(source, order, basis, device), _counted(counts, order)
    return Tiles(*(order.astype(np.int32), basis.numpy(), *measured, *counted))


def centre_of(x: Tensor) -> Tensor:
    """The centres [n, 1, D] of tiles of keys [n, K, D]; 0 where they are too short to be a direction."""
    mean = x.mean(dim=1, keepdim=True)
    return torch.where(mean.norm(dim=2, keepdim=True) < CENTRE_NORM_MIN, 0, mean)


def cone_of(x: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    """Of tiles of keys [n, K, D] around c [n, 1, D]: lowest, highest, 1/|c|^2, spread and |c|, [n] each, as x is."""
    square = c.double().square().sum(dim=2)
    inverse_square = torch.where(square > 0, 1 / square, 0).to(x.dtype)
    along = (x * c).sum(dim=2) * inverse_square
    spread = (x - along[..., None] * c).norm(dim=2).amax(dim=1) * MARGIN
    length = square[:, 0].sqrt().to(x.dtype) * MARGIN
    return along.amin(dim=1), along.amax(dim=1), inverse_square[:, 0], spread, length


def slack(basis: Float32) -> float:
    """How far q.x may be from the product of the rotated vectors, and from what float32 makes of the bounds above.

    For vectors no longer than NORM_MAX, u = 2^-24; that float32 sums of products of n numbers are off by n u times the
    product of the lengths is shown in Higham, Accuracy and Stability of Numerical Algorithms, section 3.1.

    - The basis W is not quite orthogonal: |q.x - (qW).(xW)| is at most the norm of W W^T - 1, which is computed here.
    - xW is computed in float64, and qW from float32 sums of ROTATED_TOGETHER products: each element is off by as many u
      times |q| and the length of a column, and these have the length sqrt(D) together.
    - The sums of q1.d1 and q2.d2 are off by D u |q||d|, and |d| is at most twice as long as a key. Those of whole
      numbers are exact, and rounded a few times when they are scaled.
    - 64 u more are for these, and for the few operations on numbers below 2 that a bound consists of.

    What q.c is off by is in a query's `errors`.
    """
    D = len(basis)
    wide = basis.astype(np.float64)
    defect = float(np.linalg.norm(wide @ wide.T - np.eye(D)))
    rounding = (ROTATED_TOGETHER * D**0.5 + 2 * D + 64) * 2.0**-24
    bound: float = (defect + rounding) * NORM_MAX**2 * MARGIN
    return bound


def _basis(source: Tensor) -> Tensor:
    """The eigenvectors [D, D] of the second moments of a sample of the keys, of the largest eigenvalue first."""
    sample = source[:: max(1, len(source) // SAMPLE_KEYS)].float()
    vectors: Tensor = torch.linalg.eigh((sample.T @ sample).double()).eigenvectors
    return vectors.flip(1).float().contiguous()


def _measured(source: Tensor, order: Int64, basis: Tensor, device: str) -> tuple[NDArray[Any], ...]:
    """Centres, bounds, residuals, remainders and details of the tiles of an order."""
    N, D = source.shape
    tiles, width = -(-N // TILE_KEYS), padded(D)
    wide_basis = basis.double().to(device)
    members = torch.from_numpy(np.append(order, np.full(tiles * TILE_KEYS - N, order[-1])))
    centres = torch.zeros((-(-tiles // GROUP_TILES) * GROUP_TILES, width), dtype=torch.int8)
    bounds, remainders = torch.empty((12, tiles)), torch.empty((tiles, TILE_KEYS))
    residuals = torch.empty((tiles, TILE_KEYS * PREFIX), dtype=torch.int8)
    details = torch.empty((tiles, TILE_KEYS * (width - PREFIX)), dtype=torch.int8)
    for part in parts_of(tiles, STEP_TILES[device]):
        of_part = members[part.start * TILE_KEYS : part.stop * TILE_KEYS]
        x = torch.zeros((part.stop - part.start, TILE_KEYS, width), device=device)
        x[..., :D] = (source[of_part].to(device).double() @ wide_basis).view(-1, TILE_KEYS, D)
        whole, scale = _quantised(centre_of(x))
        c = whole.float() * scale
        d = x - c
        d1, of_prefix = _residual(d[..., :PREFIX])
        d2, of_detail = _residual(d[..., PREFIX:])
        bounds[:, part] = torch.stack([*cone_of(x, c), scale[:, 0, 0], *of_prefix, *of_detail]).cpu()
        centres[part], residuals[part], details[part] = whole[:, 0].cpu(), d1.cpu(), d2.cpu()
        remainders[part] = (d[..., PREFIX:].norm(dim=2) * MARGIN).cpu()
    return tuple(array.numpy() for array in (centres, bounds, residuals, remainders, details))


def _quantised(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values [n, K, P] as int8, and for each tile [n, 1, 1] the scale."""
    if not values.shape[2]:
        return values.to(torch.int8), torch.zeros((len(values), 1, 1), device=values.device)
    scale = values.abs().amax(dim=(1, 2), keepdim=True).clamp(min=1e-30) / 127
    return (values / scale).round().to(torch.int8), scale


def _residual(d: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Residuals [n, 32, P] as [n, 32 P], as `multiply` takes them, and their scale, rounding and length [n]."""
    whole, scale = _quantised(d)
    kept = whole.float() * scale
    rounding, length = ((values.norm(dim=2).amax(dim=1) * MARGIN) for values in (d - kept, kept))
    return whole.unflatten(2, (d.shape[2] // 2, 2)).transpose(1, 2).flatten(1), (scale[:, 0, 0], rounding, length)


def _counted(counts: NextTokenCounts, order: Int64) -> tuple[NDArray[Any], ...]:
    """The next-token counts of each tile of an order, summed, and those of each key, in compressed rows."""
    of_keys = counts.reordered(order)
    tile = np.repeat(np.arange(len(order)) // TILE_KEYS, np.diff(of_keys.offsets))
    places, place_of_entry = np.unique(tile * counts.vocabulary_size + of_keys.tokens, return_inverse=True)
    sums = np.zeros(len(places), np.int64)
    np.add.at(sums, place_of_entry, of_keys.counts)
    tiles = -(-len(order) // TILE_KEYS)
    offsets = np.searchsorted(places, np.arange(tiles + 1) * counts.vocabulary_size)
    tokens = (places % counts.vocabulary_size).astype(np.uint16)
    return offsets, tokens, sums, of_keys.offsets, of_keys.tokens, of_keys.counts

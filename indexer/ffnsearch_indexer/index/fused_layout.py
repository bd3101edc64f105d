"""What the `fused` backend keeps of a block on the device, and how it is made.

Shapes: N keys, N' in whole tiles, D d_model, D' in whole steps, C' centres, one for GROUP places, V vocabulary.

Keys lie in the order of the tiles, near ones together; a key's place is its number there. Where no order is known, it
is that of the ids, and nothing is skipped. The bounds, and why they hold, are in `tiles`, "a whole tile": here
centres are float16 in the keys' own basis, so that their products with queries are off by no more than a score is.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffnsearch_indexer.corpora.substrings import NextTokenCounts
from ffnsearch_indexer.index.base import Float16
from ffnsearch_indexer.index.device import to_device
from ffnsearch_indexer.index.tiles import centre_of, cone_of
from ffnsearch_indexer.parts import parts_of

GROUP = 32
"""Keys of a centre: the tiles of the snapshot."""

STEP_KEYS = 1 << 14
"""Keys that are copied or measured at once, in whole groups: three copies of them in float64, 150 MB at 384 dimensions.
"""


class Layout(NamedTuple):
    """A block on the device.

    keys: [N', D'] float16, zeros behind. ids: [N'] int32, -1 behind. offsets: [N + 1] int64, tokens: [M] int32, counts:
    [M] int64, the next-token counts by place. centres: [C', D'] float16. bounds: [5, C'] float32: lowest, highest,
    1/|c|^2, spread, |c|. group_sums: [C', V + 1] int64, the counts of each group, summed, and how many keys it
    has; of no rows where the vocabulary is large. centres and bounds have none where no order is known.
    """

    keys: Tensor
    ids: Tensor
    offsets: Tensor
    tokens: Tensor
    counts: Tensor
    centres: Tensor
    bounds: Tensor
    group_sums: Tensor


def lay_out(
    keys: Float16,
    counts: NextTokenCounts,
    order: NDArray[np.int32] | None,
    device: torch.device,
    *,
    whole_keys: int,
    depth: int,
    columns_max: int,
) -> Layout:
    """Put a block on a device, in multiples of `whole_keys` places and `depth` dimensions.

    order: [N] int32, the id at each place, None where none is known. group_sums are made for at most `columns_max`
    columns. Takes 24 STEP_KEYS D bytes of the device besides.
    """
    N, D = keys.shape
    members = np.arange(N) if order is None else order.astype(np.int64)
    laid = torch.zeros((_whole(N, whole_keys), _whole(D, depth)), dtype=torch.float16, device=device)
    for part in parts_of(N, STEP_KEYS):
        laid[part, :D] = to_device(keys[members[part]], device)
    ids = np.full(len(laid), -1, np.int32)
    ids[:N] = members
    in_order = counts.reordered(members)
    tokens, of_entries = in_order.tokens.astype(np.int32), in_order.counts.astype(np.int64)
    centres, bounds = _measured(laid, N if order is not None else 0)
    has_sums = order is not None and counts.vocabulary_size < columns_max
    shape = (len(laid) // GROUP if has_sums else 0, counts.vocabulary_size + 1)
    sums = _group_sums(in_order.offsets, tokens, of_entries, shape)
    on_host = (ids, in_order.offsets, tokens, of_entries, sums)
    ids_, offsets_, tokens_, counts_, sums_ = (to_device(array, device) for array in on_host)
    return Layout(laid, ids_, offsets_, tokens_, counts_, centres, bounds, sums_)


def _group_sums(
    offsets: NDArray[Any], tokens: NDArray[Any], of_entries: NDArray[Any], shape: tuple[int, int]
) -> NDArray[np.int64]:
    """The counts of each group of places, summed, and how many keys it has: [groups, V + 1] int64."""
    sums = np.zeros(shape, np.int64)
    if len(sums):
        places = np.arange(len(offsets) - 1)
        np.add.at(sums, (np.repeat(places, np.diff(offsets)) // GROUP, tokens), of_entries)
        sums[:, -1] = np.bincount(places // GROUP, minlength=len(sums))
    return sums


def _measured(laid: Tensor, N: int) -> tuple[Tensor, Tensor]:
    """The centres and bounds of the groups of the first N of the keys [N', D'] on the device; of none where N is 0."""
    groups = len(laid) // GROUP if N else 0
    centres = torch.zeros((groups, laid.shape[1]), dtype=torch.float16, device=laid.device)
    bounds = torch.zeros((5, groups), dtype=torch.float32, device=laid.device)
    for of_step in parts_of(_whole(N, GROUP), STEP_KEYS):
        places = torch.arange(of_step.start, of_step.stop, device=laid.device)
        x = laid[places.clamp(max=N - 1)].double().unflatten(0, (-1, GROUP))  # the last group has its last key again
        c = centre_of(x).half().double()
        part = slice(of_step.start // GROUP, of_step.stop // GROUP)
        centres[part], bounds[:, part] = c[:, 0].half(), torch.stack(cone_of(x, c)).float()
    return centres, bounds


def _whole(items: int, step: int) -> int:
    return -(-items // step) * step

"""How the `fused` backend cuts its work on a device: which tiles of queries and keys there are, and which one fits."""

from typing import NamedTuple

STREAMED_STAGES = 3
"""Steps under way at a time where the queries are not resident."""


class Tiling(NamedTuple):
    """How a tile of queries is searched with tiles of keys, and how that is compiled.

    queries, keys: of a tile each. depth: dimensions of a step of their products. resident: whether the queries stay in
    shared memory, 2 D bytes each; else they are read again for each tile of keys. queries_first: whether they are the
    rows of the scores; a tensor core takes 64 rows a warp group, and columns by 8. sharers: programs that look at one
    list of pairs.
    """

    queries: int
    keys: int
    depth: int
    warps: int
    stages: int
    resident: bool = True
    queries_first: bool = False
    sharers: int = 1


class SearchSettings(NamedTuple):
    """What a search takes on this device, and which tilings there are, of the fewest queries first.

    centres: that are multiplied at once, of whole tiles of keys. programs: that the device is kept busy with. room:
    pairs in a list, at first. pairs: of a list that are looked at together.
    """

    centres: int
    programs: int
    room: int
    pairs: int
    tilings: tuple[Tiling, ...]


def tiling_of(settings: SearchSettings, queries: int, d_model: int, shared_bytes: int) -> Tiling:
    """Of the tilings that fit, the smallest that holds `queries` queries, or the largest.

    shared_bytes: what the queries, where they are resident, and the keys on their way may take. Where that is too
    little for vectors so long, the queries are not resident.
    """
    fitting = [fit for tiling in settings.tilings if (fit := _fitted(tiling, d_model, shared_bytes))]
    return next((tiling for tiling in fitting if tiling.queries >= queries), fitting[-1])


def _fitted(tiling: Tiling, d_model: int, shared_bytes: int) -> Tiling | None:
    """The tiling, not resident where it must not be; None where it fits in no way."""
    width = -(-d_model // tiling.depth) * tiling.depth
    if 2 * width * (tiling.queries + tiling.keys * tiling.stages) <= shared_bytes:
        return tiling
    streamed_bytes = 2 * tiling.depth * (tiling.queries + tiling.keys) * STREAMED_STAGES
    return tiling._replace(resident=False, stages=STREAMED_STAGES) if streamed_bytes <= shared_bytes else None

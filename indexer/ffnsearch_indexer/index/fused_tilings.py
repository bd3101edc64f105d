"""How the `fused` backend cuts its work on a device: which tiles of queries and keys there are, and which one fits."""

from typing import NamedTuple

SHARED_BYTES_MAX = 224 << 10
"""What a resident tile of queries and the tiles of keys on their way may take: Hopper has 227 KB."""


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


class Device(NamedTuple):
    """What a search takes on this device, and which tilings there are, of the fewest queries first.

    centres: that are multiplied at once, of whole tiles of keys. programs: that the device is kept busy with. room:
    pairs in a list, at first. pairs: of a list that are looked at together.
    """

    centres: int
    programs: int
    room: int
    pairs: int
    tilings: tuple[Tiling, ...]


def tiling_of(device: Device, queries: int, d_model: int) -> Tiling:
    """The tiling of the fewest queries that holds so many, or the largest; not resident where vectors are long."""
    tiling = next((tiling for tiling in device.tilings if tiling.queries >= queries), device.tilings[-1])
    width = -(-d_model // tiling.depth) * tiling.depth
    resident_bytes = 2 * width * (tiling.queries + tiling.keys * tiling.stages)
    return tiling if resident_bytes <= SHARED_BYTES_MAX else tiling._replace(resident=False, stages=3)

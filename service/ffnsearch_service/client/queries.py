"""What may be searched for in the place of a prompt: the vectors of another answer, or the caller's own.

Shapes: K block, D d_model.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ffnsearch_service.errors import InvalidRequestError


@dataclass(frozen=True, eq=False)
class Queries:
    """A query for each of the K blocks: the vector whose direction is searched for, None where nothing is.

    Those of a result find the same again, to the last count, with `exclude_self` off. blocks: [D] float32 each,
    read-only, float16 values of length 1 in a result; to be given as an array [K, D], or as anything that has a vector
    of numbers or None for each block. Raises InvalidRequestError, which names the block, for what is none, and for
    numbers that float32 cannot hold. Equal where all numbers are.
    """

    blocks: tuple[NDArray[np.float32] | None, ...]

    def __init__(self, blocks: Iterable[ArrayLike | None]) -> None:
        try:
            given = iter(blocks)
        except TypeError:
            raise _refused("queries", "give a list with a vector of numbers for each block") from None
        object.__setattr__(self, "blocks", tuple(_vector(vector, block) for block, vector in enumerate(given)))

    def array(self) -> NDArray[np.float32]:
        """All vectors together, [K, D], a copy. Raises ValueError where a block is left out, or sizes differ."""
        if any(vector is None for vector in self.blocks):
            raise ValueError("a block without a vector has no row in an array: take `blocks`")
        return np.stack([vector for vector in self.blocks if vector is not None])

    def with_block(self, block: int, vector: ArrayLike | None) -> "Queries":
        """The same with another vector in one block, None to leave it out. Raises IndexError beyond 0 to K-1."""
        blocks: list[ArrayLike | None] = list(self.blocks)
        if not 0 <= block < len(blocks):
            raise IndexError(f"block {block}: there are the blocks 0 to {len(blocks) - 1}")
        blocks[block] = vector
        return Queries(blocks)

    def __repr__(self) -> str:
        sizes = ", ".join("None" if vector is None else f"[{len(vector)}]" for vector in self.blocks)
        return f"Queries({sizes})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Queries) and self._bytes() == other._bytes()

    def __hash__(self) -> int:
        return hash(self._bytes())

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are made anew, so that their arrays are read-only too."""
        return Queries, (self.blocks,)

    def _bytes(self) -> tuple[bytes | None, ...]:
        return tuple(None if vector is None else vector.tobytes() for vector in self.blocks)


def _vector(vector: ArrayLike | None, block: int) -> NDArray[np.float32] | None:
    if vector is None:
        return None
    field = f"queries.blocks[{block}]"
    try:
        given = np.asarray(vector)
    except Exception as error:  # what an array of another library raises is its own
        told = f"cannot become an array of NumPy ({error}); a tensor of torch can, as .detach().float().cpu()"
        raise _refused(field, told) from None
    if given.ndim != 1 or not given.size or given.dtype.kind not in "iuf":
        there = f"{given.dtype} {list(given.shape)}"
        raise _refused(field, f"{there} is given: give a vector of numbers, [D], or None where nothing is searched")
    with np.errstate(over="ignore"):
        held = given.astype(np.float32)
    if (np.isinf(held) & np.isfinite(given)).any():
        raise _refused(field, "it has numbers beyond those of float32; its length does not matter, so divide it by one")
    held.setflags(write=False)
    return held


def _refused(field: str, told: str) -> InvalidRequestError:
    return InvalidRequestError(f"{field}: {told}", code="INVALID_ARGUMENT", reason="INVALID_VALUE", field=field)

"""What may be searched for in the place of a prompt: the vectors of another answer, or the caller's own.

Shapes: K block, D d_model.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ffnsearch_service.errors import InvalidRequestError


@dataclass(frozen=True, eq=False)
class Queries:
    """A query for each of the K blocks: the vector whose direction is searched for, None where nothing is.

    Of a result, float16 values of length 1; in their place, any [D] that float32 holds, of any length but 0. Those of a
    result find the same again, to the last count. blocks: [D] float32 each, read-only; given, anything that NumPy takes
    for one, an array [K, D] too. Raises InvalidRequestError for what is no list of vectors.
    """

    blocks: tuple[NDArray[np.float32] | None, ...]

    def __init__(self, blocks: Iterable[ArrayLike | None]) -> None:
        try:
            vectors = tuple(_vector(vector) for vector in blocks)
        except (TypeError, ValueError):
            raise InvalidRequestError(
                "queries: give a list with a vector of numbers for each block, or None where nothing is searched",
                code="INVALID_ARGUMENT",
                reason="INVALID_VALUE",
                field="queries",
            ) from None
        object.__setattr__(self, "blocks", vectors)

    def with_block(self, block: int, vector: ArrayLike | None) -> "Queries":
        """The same with another vector in one block, from 0; None leaves the block out. Raises IndexError."""
        blocks = list(self.blocks)
        blocks[block] = _vector(vector)
        return Queries(blocks)


def _vector(vector: ArrayLike | None) -> NDArray[np.float32] | None:
    if vector is None:
        return None
    held = np.array(vector, dtype=np.float32)
    if held.ndim != 1 or not held.size:
        raise ValueError("no vector")
    held.setflags(write=False)
    return held

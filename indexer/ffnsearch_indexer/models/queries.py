"""How prompts become queries, and what may stand in a prompt's place.

Shapes: B prompts, L window, K block, D d_model, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.errors import PromptError
from ffnsearch_indexer.models.inference import not_finite, run_sorted, unit_float16
from ffnsearch_indexer.models.packed import PackedModel
from ffnsearch_indexer.models.prefix_cache import PrefixCache

LENGTH_ERROR_MAX = 2.0**-10
"""How far rounding to float16 takes a vector's length from 1 at most."""


class Queries(NamedTuple):
    """What the model says of B prompts. vectors: [K, B, D] float16, unit. logits: [B, V] float32."""

    vectors: NDArray[np.float16]
    logits: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class GivenQueries:
    """Queries in the place of a prompt: no model is run for them.

    vectors: [K, D] float16, as `as_queries` makes them; zeros in blocks that are not to be searched.
    """

    vectors: NDArray[np.float16]


Prompt = NDArray[np.uint16] | GivenQueries
"""Token ids [T], or the queries that stand in their place."""


def as_queries(vectors: NDArray[np.float32]) -> NDArray[np.float16]:
    """The queries [..., D] in the directions of finite vectors: `unit_float16` of them.

    A vector that could come from there stays as it is, because to divide by a length of almost 1 and to round again
    could change some of its numbers, most of all where D is small.
    """
    with np.errstate(over="ignore"):
        rounded = vectors.astype(np.float16)
    lengths = np.sqrt(np.einsum("...d,...d->...", vectors, vectors, dtype=np.float64))
    are_queries = (rounded == vectors).all(axis=-1) & (abs(lengths - 1) <= LENGTH_ERROR_MAX)
    return np.where(are_queries[..., None], rounded, unit_float16(vectors))


def put_together(prompts: Sequence[Prompt], of_tokens: Queries) -> Queries:
    """The queries of all prompts, in order: those given, and for the others the model's, in their order.

    Logits are zeros where queries were given.
    """
    (blocks, _, d_model), (_, vocabulary_size) = of_tokens.vectors.shape, of_tokens.logits.shape
    vectors = np.empty((blocks, len(prompts), d_model), dtype=np.float16)
    logits = np.zeros((len(prompts), vocabulary_size), dtype=np.float32)
    read = 0
    for row, prompt in enumerate(prompts):
        if isinstance(prompt, GivenQueries):
            vectors[:, row] = prompt.vectors
        else:
            vectors[:, row], logits[row] = of_tokens.vectors[:, read], of_tokens.logits[read]
            read += 1
    return Queries(vectors, logits)


def run_prompts(
    model: PackedModel,
    prompts: Sequence[NDArray[np.uint16]],
    window_tokens: int,
    *,
    cache: PrefixCache | None = None,
) -> Queries:
    """Run the last `window_tokens` tokens of each prompt and return its queries and logits.

    A shorter prompt is run as it is, from position 0. What a cache has of the model is not run again: the answers are
    the same to the bit. Raises PromptError for an empty prompt, FfnSearchError for values that are not finite.
    """
    windows, lengths = pad(prompts, window_tokens)
    padded = np.column_stack([windows, lengths.astype(np.uint16)])  # the tokens, then how many there are
    different, places = np.unique(padded, axis=0, return_inverse=True)
    vectors = np.empty((model.blocks, len(different), model.d_model), dtype=np.float16)
    logits = np.empty((len(different), model.vocabulary_size), dtype=np.float32)

    def write(rows: slice, ffn: NDArray[np.float32], of_rows: NDArray[np.float32]) -> None:
        if not np.isfinite(of_rows).all():
            raise not_finite()
        vectors[:, rows], logits[rows] = unit_float16(ffn), of_rows

    run_sorted(model, different[:, :-1], different[:, -1].astype(np.int64), write, with_logits=True, cache=cache)
    return Queries(vectors[:, places], logits[places])


def pad(prompts: Sequence[NDArray[np.uint16]], window_tokens: int) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """The last tokens of each prompt as windows [B, L], filled with zeros behind, and how many there are, [B].

    Raises PromptError for an empty prompt.
    """
    windows = np.zeros((len(prompts), window_tokens), dtype=np.uint16)
    lengths = np.empty(len(prompts), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise PromptError(f"prompt {row} is empty: give at least one token", reason="EMPTY_PROMPT", prompt=row)
        tokens = prompt[-window_tokens:]
        windows[row, : len(tokens)] = tokens
        lengths[row] = len(tokens)
    return windows, lengths

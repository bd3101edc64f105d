"""How sorted windows are run: in groups, each as a tree of prefixes, on all threads.

A thread runs a group from the first block to the last without waiting for another. Each window's result is the same to
the last bit, whatever the other windows, the groups and the number of threads.

Shapes: n windows, L window, K block, D d_model, V vocabulary.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from ffnsearch_indexer.errors import FfnSearchError
from ffnsearch_indexer.models import forward
from ffnsearch_indexer.models.packed import PackedModel
from ffnsearch_indexer.models.prefix_cache import CachedPrefixes, PrefixCache
from ffnsearch_indexer.models.prefixes import prefix_tree

WINDOWS_TOGETHER_MAX = 256
"""Windows in a group: its attention keys and values stay in the cache, and its edges cost two prefixes of a hundred."""

Write = Callable[[slice, NDArray[np.float32], NDArray[np.float32]], None]
"""Called as write(windows, ffn [K, n, D], logits [n, V]) for each group, on any thread."""


def run_sorted(
    model: PackedModel,
    windows: NDArray[np.uint16],
    lengths: NDArray[np.int64],
    write: Write,
    *,
    with_logits: bool,
    cache: PrefixCache | None = None,
) -> None:
    """Run the first `lengths` [n] tokens of windows [n, L], sorted and different as `prefix_tree` wants them.

    Uses as many threads as torch would. Without logits, `write` gets none: [0, V]. What a cache has is not run again,
    and what it has room for is kept.
    """
    if cache is None:
        cache = PrefixCache.empty(model.blocks, model.d_model)
    found = cache.find(windows, lengths)

    def run_group(group: slice) -> None:
        tree = prefix_tree(windows[group], lengths[group], CachedPrefixes(found.rows[group], found.tokens[group]))
        ffn = np.empty((model.blocks, len(tree.ends), model.d_model), dtype=np.float32)
        logits = np.empty((len(tree.ends) if with_logits else 0, model.vocabulary_size), dtype=np.float32)
        forward.run(model, *tree, cache.key_values, cache.parents, ffn, logits)
        write(group, ffn, logits)

    threads = torch.get_num_threads()
    groups = _groups(len(windows), threads)
    if len(groups) == 1:
        run_group(groups[0])
    else:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(run_group, groups):
                pass
    cache.keep(found.rows.ravel())


def unit_float16(vectors: NDArray[np.float32]) -> NDArray[np.float16]:
    """Divide vectors [..., D] by their Euclidean norms and round to float16: the canonical form of queries and keys.

    A zero vector stays zero. Raises FfnSearchError for values that are not finite. Norms are float64: in
    float32 their last bits depend on the layout in memory, and tiny or huge vectors lose theirs.
    """
    norms = np.sqrt(np.einsum("...d,...d->...", vectors, vectors, dtype=np.float64))
    if not np.isfinite(norms).all():
        raise not_finite()
    return (vectors / np.where(norms > 0, norms, 1)[..., None]).astype(np.float16)


def not_finite(precision: str = "float32") -> FfnSearchError:
    """The error where an FFN output or a logit of a model that runs in a precision is not finite."""
    advice = "run `ffnsearch verify`, or train the model again at a lower rate"
    if precision != "float32":
        advice += ", or choose --precision float32"
    return FfnSearchError(f"the model gave a value that is not finite: {advice}", reason="NOT_FINITE")


def _groups(windows: int, threads: int) -> list[slice]:
    """Equal shares for all threads, as many for each as it takes for small ones."""
    rounds = -(-windows // (threads * WINDOWS_TOGETHER_MAX))
    edges = np.linspace(0, windows, min(windows, threads * rounds) + 1, dtype=np.int64)
    return [slice(int(first), int(end)) for first, end in pairwise(edges)]

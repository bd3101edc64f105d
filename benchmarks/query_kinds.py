"""What is asked when speed is measured: three kinds of prompts, seeded, as the queries that they become.

Shapes: M prompts, L window, K block, D d_model, N substrings.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.fidelity.protocols import Protocol
from ffnsearch_indexer.fidelity.selection import SEED, choose_positions, evaluation_ids
from ffnsearch_indexer.models.queries import run_prompts
from ffnsearch_indexer.store.datastore import Datastore

KINDS = ("indexed", "unseen", "common-ending")

DRAWS = 8
"""How many recombined prompts are drawn for each that is wanted: some are in the index and do not count."""


class Asked(NamedTuple):
    """Prompts of one kind. vectors: [K, M, D] float16. distinct: how many differ; fewer than M come round again."""

    description: str
    distinct: int
    vectors: NDArray[np.float16]


def ask(datastore: Datastore, kind: str, count: int) -> Asked:
    """The queries of `count` prompts of a kind."""
    description, windows = _prompts(datastore, kind, count)
    if not len(windows):
        raise SystemExit(f"no prompts of the kind {kind} ({description}) in {datastore.path}")
    prompts = np.resize(windows, (count, datastore.window_tokens))
    vectors = run_prompts(datastore.packed_model, list(prompts), datastore.window_tokens).vectors
    return Asked(description, min(count, len(windows)), vectors)


def prompts(datastore: Datastore, kind: str, count: int) -> list[NDArray[np.uint16]]:
    """`count` prompts of a kind; where there are fewer, they come round again."""
    _, windows = _prompts(datastore, kind, count)
    return list(np.resize(windows, (count, datastore.window_tokens)))


def _prompts(datastore: Datastore, kind: str, count: int) -> tuple[str, NDArray[np.uint16]]:
    if kind == "indexed":
        ids = evaluation_ids(datastore.manifest.substrings, count)
        return "substrings of the index, so that each finds itself", datastore.substring_tokens()[ids]
    if kind == "common-ending":
        return _common_ending(datastore, count)
    if datastore.manifest.split == "train":
        positions = choose_positions(datastore, Protocol.HELD_OUT, count)
        return "from the rest of the text, not in the index", datastore.windows[positions]
    return "the first half of one substring and the second of another, not in the index", _recombined(datastore, count)


def _common_ending(datastore: Datastore, count: int) -> tuple[str, NDArray[np.uint16]]:
    """Substrings that end in the commonest token, a space in most texts: those with the most neighbors."""
    windows = datastore.substring_tokens()
    commonest = int(np.bincount(datastore.corpus).argmax())
    rng = np.random.default_rng(SEED)
    ids = np.flatnonzero(windows[:, -1] == commonest)
    character = datastore.tokenizer.decode(np.array([commonest], np.uint16))
    return f"substrings that end in {character!r}, the commonest token", windows[rng.permutation(ids)[:count]]


def _recombined(datastore: Datastore, count: int) -> NDArray[np.uint16]:
    windows = datastore.substring_tokens()
    rng = np.random.default_rng(SEED)
    left, right = rng.integers(0, len(windows), (2, DRAWS * count))
    middle = datastore.window_tokens // 2
    drawn = np.concatenate([windows[left, :middle], windows[right, middle:]], axis=1)
    new = []
    for prompt in drawn:
        if len(new) == count:
            break
        if datastore.find(prompt) is None:
            new.append(prompt)
    return np.array(new, np.uint16).reshape(-1, datastore.window_tokens)

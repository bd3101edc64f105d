"""Which prompts a measurement takes: seeded, the article's own for its corpus, none shared with calibration.

A prompt is identified by the position of its first token in the corpus; neighbouring prompts have much in common.
Shapes: L window, M prompts, N substrings, T tokens of a text.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from ffnsearch_indexer.corpora.corpus import Corpus, train_part
from ffnsearch_indexer.corpora.substrings import windows_of
from ffnsearch_indexer.corpora.tokenizer import Tokens
from ffnsearch_indexer.errors import FidelityError
from ffnsearch_indexer.fidelity.protocols import Protocol
from ffnsearch_indexer.fidelity.windows import SortedWindows
from ffnsearch_indexer.index.base import Int64
from ffnsearch_indexer.store.datastore import Datastore

SEED = 1337
"""The article's: with it, the first prompts of TinyShakespeare are the article's own."""


def choose_positions(
    datastore: Datastore,
    protocol: Protocol,
    count: int,
    seed: int | None = None,
    training: Tokens | None = None,
) -> Int64:
    """Positions [M] of up to `count` prompts, no two alike, for a protocol; raises FidelityError where there is none.

    training: what the model was trained on, where it matters. No held-out prompt occurs in it, nor in the indexed part
    of the corpus.
    """
    manifest = datastore.manifest
    if protocol is not Protocol.HELD_OUT:
        return datastore.first_positions[evaluation_ids(manifest.substrings, count, seed)]
    positions = held_out_positions(
        datastore.corpus,
        len(_training_part(datastore)),
        datastore.window_tokens,
        manifest.vocabulary_size,
        count,
        seed,
        also_seen=training,
    )
    if not len(positions):
        raise FidelityError(
            f"the last tenth of the corpus {manifest.corpus_name} has no window of {datastore.window_tokens} tokens "
            "that is not in the rest, or in what the model was trained on: build a snapshot of a longer text, or "
            "choose --protocol leave-one-out",
            reason="NO_PROMPTS",
            protocol=protocol,
        )
    return positions


def evaluation_ids(substrings: int, count: int, seed: int | None = None) -> Int64:
    """Ids of up to `count` substrings to measure with: of the first two thirds of one permutation, the first.

    Another seed than the default shuffles these two thirds again.
    """
    pool = _permutation(substrings, SEED)[: _evaluation_size(substrings)]
    if seed is not None and seed != SEED:
        pool = pool[_permutation(len(pool), seed)]
    return pool[:count]


def calibration_ids(substrings: int, count: int) -> Int64:
    """Ids of up to `count` substrings to calibrate with: of the last third of the same permutation, the last."""
    pool = _permutation(substrings, SEED)[_evaluation_size(substrings) :]
    return pool[::-1][:count]


def held_out_positions(
    tokens: Tokens,
    train_tokens: int,
    window_tokens: int,
    vocabulary_size: int,
    count: int,
    seed: int | None = None,
    *,
    also_seen: Tokens | None = None,
) -> Int64:
    """Positions [M] of up to `count` prompts of a text [T] that lie wholly behind its training part, and not in it.

    Nor in `also_seen`, another text. Each is the first of its kind, in a seeded order.
    """
    windows = windows_of(tokens[train_tokens:], window_tokens)
    unseen = np.arange(len(windows))
    for seen in (tokens[:train_tokens], *([] if also_seen is None else [also_seen])):
        unseen = unseen[~in_training(windows[unseen], seen, vocabulary_size)]
    unique = unseen[np.unique(windows[unseen], axis=0, return_index=True)[1]]
    return train_tokens + unique[_permutation(len(unique), SEED if seed is None else seed)[:count]]


def in_training(prompts: NDArray[np.uint16], training: Tokens, vocabulary_size: int) -> NDArray[np.bool_]:
    """Whether each prompt [M, L] occurs in a training text [T], whose tokens are of the same vocabulary."""
    windows = SortedWindows(windows_of(training, prompts.shape[1]), vocabulary_size)
    first, last = windows.beginning_like(prompts)
    occurs: NDArray[np.bool_] = last[-1] > first[-1]
    return occurs


def training_tokens(datastore: Datastore, trained_on: Corpus | None = None) -> Tokens | None:
    """What the model was trained on, as tokens [T] of the snapshot's vocabulary: the training part of a corpus.

    That is the snapshot's own, where none is given and the model's record says so; None where it is not known. Raises
    TokenError for a corpus with other characters.
    """
    if trained_on is None:
        return _training_part(datastore) if datastore.manifest.is_of_training_text else None
    text = trained_on.text[: trained_on.train_tokens()]
    return datastore.tokenizer.encode(text, where=f"the corpus {trained_on.name}")


def _training_part(datastore: Datastore) -> Tokens:
    return datastore.corpus[: train_part(len(datastore.corpus))]


def _evaluation_size(substrings: int) -> int:
    return substrings - substrings // 3


def _permutation(size: int, seed: int) -> Int64:
    permutation: Int64 = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).numpy()
    return permutation

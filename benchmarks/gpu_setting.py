"""What is searched on a GPU: the reference corpus' keys, made here by the reference model, and prompts among them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recording import REPOSITORY

from ffnsearch_indexer.answer.profile import ARTICLE
from ffnsearch_indexer.corpora.substrings import NextTokenCounts, find_substrings
from ffnsearch_indexer.corpora.tokenizer import Tokenizer
from ffnsearch_indexer.hardware.threads import shared_out
from ffnsearch_indexer.index.base import Index
from ffnsearch_indexer.index.tiles import ENDING_TOKENS, Tiles, tiles_of
from ffnsearch_indexer.models import reference_folder
from ffnsearch_indexer.models.on_device import DeviceModel
from ffnsearch_indexer.models.transformer import TOKENIZER_FILE, Transformer

CORPORA = [folder / "shared" / "data" / "tinyshakespeare.txt" for folder in (REPOSITORY, REPOSITORY.parent)]
"""Where the reference corpus is looked for: in the repository, then beside it."""

THRESHOLDS = tuple(threshold for (threshold,) in ARTICLE.thresholds_by_block)
"""The article's, of each block."""

WINDOW_TOKENS = 10
SEED = 1337


@dataclass
class Setting:
    """Keys, counts and tiles of all blocks, and 4,096 queries of each, as a measurement takes them.

    windows: [N, L] uint16, of all substrings. keys: K arrays [N, D] float16. queries: [K, 4096, D] float16, of
    substrings drawn by seed. deadline: of `monotonic`, when measurements should have ended. found: what earlier
    measurements found, by name.
    """

    device: str
    model: Transformer
    windows: np.ndarray
    keys: list[np.ndarray]
    counts: NextTokenCounts
    tiles: list[Tiles]
    queries: np.ndarray
    deadline: float
    seconds: dict[str, float]
    found: dict[str, Any] = field(default_factory=dict)
    indexes: dict[int, dict[str, Index]] = field(default_factory=dict)

    def synchronize(self) -> None:
        """Wait for all that the device was told to do."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def left_seconds(self) -> float:
        """How long measurements may still take."""
        return self.deadline - time.monotonic()


def make_setting(device: str, corpus: Path, characters: int | None, budget_seconds: float) -> Setting:
    """Read a corpus, or its beginning, and make its keys and tiles."""
    deadline = time.monotonic() + budget_seconds
    tokenizer = Tokenizer.load(reference_folder() / TOKENIZER_FILE)
    tokens = tokenizer.encode(corpus.read_text(encoding="utf-8")[:characters])
    started = time.monotonic()
    substrings = find_substrings(tokens, WINDOW_TOKENS, len(tokenizer.characters))
    windows = substrings.tokens_of(tokens)
    seconds = {"substrings": time.monotonic() - started}
    started = time.monotonic()
    model = Transformer.load(reference_folder())
    keys = list(DeviceModel(model, WINDOW_TOKENS, device=device).extract_keys(windows))
    seconds["keys"] = time.monotonic() - started
    started = time.monotonic()
    tiles = _tiles(keys, substrings.counts, windows[:, -ENDING_TOKENS:], device)
    seconds["tiles"] = time.monotonic() - started
    drawn = np.random.default_rng(SEED).choice(len(windows), 4096, replace=len(windows) < 4096)
    queries = np.stack([of_block[drawn] for of_block in keys])
    return Setting(device, model, windows, keys, substrings.counts, tiles, queries, deadline, seconds)


def _tiles(keys: Sequence[np.ndarray], counts: NextTokenCounts, endings: np.ndarray, device: str) -> list[Tiles]:
    """The tiles of all blocks, one core each, as a build makes them."""
    with shared_out() as pool:
        return list(pool.map(lambda of_block: tiles_of(of_block, counts, endings, device=device), keys))

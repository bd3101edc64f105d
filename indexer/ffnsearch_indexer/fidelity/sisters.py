"""Sisters: models of the same kind, trained again from other seeds.

How far they are from the snapshot's model is the noise floor of its answers. A report calls a sister a retrained model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ffnsearch_indexer.corpora.tokenizer import Tokenizer
from ffnsearch_indexer.errors import ModelError
from ffnsearch_indexer.models.packed import PackedModel, pack_model
from ffnsearch_indexer.models.record import UNREADABLE, read_runs
from ffnsearch_indexer.models.transformer import TOKENIZER_FILE, Transformer


@dataclass(frozen=True)
class Sister:
    """A model to compare with. facts: its hash, and its losses (nats a token) and seed where its record says them."""

    packed_model: PackedModel = field(repr=False)
    facts: dict[str, Any]


def load_sisters(folders: Sequence[Path], tokenizer: Tokenizer, window_tokens: int, model_sha256: str) -> list[Sister]:
    """Load models that can be asked the same prompts, each another one than the snapshot's, which has this hash.

    Raises ModelError for one that cannot, and for one that is given again.
    """
    sisters = [_load(folder, tokenizer, window_tokens) for folder in folders]
    known = {model_sha256}
    for folder, sister in zip(folders, sisters, strict=True):
        if sister.facts["model_sha256"] in known:
            raise ModelError(
                f"the model in {folder} is the snapshot's own model or was given twice, so its distance would be 0: "
                "give models that were trained from other seeds",
                reason="SAME_MODEL",
                folder=folder,
            )
        known.add(sister.facts["model_sha256"])
    return sisters


def _load(folder: Path, tokenizer: Tokenizer, window_tokens: int) -> Sister:
    model = Transformer.load(folder)
    if Tokenizer.load(folder / TOKENIZER_FILE).sha256 != tokenizer.sha256:
        raise ModelError(
            f"the model in {folder} has another vocabulary than the snapshot's, so their distributions cannot be "
            "compared: give a model with the same tokenizer.json",
            reason="OTHER_TOKENIZER",
            folder=folder,
        )
    if model.config.context_tokens < window_tokens:
        raise ModelError(
            f"the model in {folder} reads {model.config.context_tokens} tokens, the snapshot's prompts have "
            f"{window_tokens}: give a model with a longer context",
            folder=folder,
        )
    return Sister(pack_model(model), {"model_sha256": model.sha256(), **_recorded(folder)})


def _recorded(folder: Path) -> dict[str, Any]:
    """The losses and the seed of a model's last training run, None for what its record does not say."""
    try:
        run = read_runs(folder)[-1]
        seed = run["settings"]["seed"]
        losses = float(run["final_train_loss"]), float(run["final_validation_loss"])
    except UNREADABLE:
        return {"train_loss": None, "validation_loss": None, "seed": None}
    train_loss, validation_loss = (loss if math.isfinite(loss) else None for loss in losses)
    return {"train_loss": train_loss, "validation_loss": validation_loss, "seed": seed}

"""What does the engine do? (batches that were answered -> events)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ffnsearch_service.answering.answers import Part
from ffnsearch_service.answering.batcher import Batch
from ffnsearch_service.answering.engine import Engine
from ffnsearch_service.operations.metrics import Metrics


def watch_engine(engine: Engine, metrics: Metrics) -> None:
    """Let metrics hear of each batch from now on, and see what waits whenever they are read."""
    metrics.watch_queue(lambda: engine.batcher.waiting_calls, lambda: engine.batcher.waiting_prompts)

    def batched(batch: Batch, parts: Sequence[Any]) -> None:
        tokens = sum(sum(piece.work.tokens[piece.first : piece.stop]) for piece in batch.pieces)
        metrics.batched(len(batch.pieces), batch.prompts, tokens)
        for piece, part in zip(batch.pieces, parts, strict=True):
            if piece.first == 0:
                metrics.taken(piece.work.waited_ns / 1e9)
            if isinstance(part, Part):
                _found(metrics, piece.work.job.profile.blocks, part)

    engine.observe(batched)


def _found(metrics: Metrics, blocks: Sequence[Sequence[Any]], part: Part) -> None:
    """Tell the neighbors above the lowest threshold of each block: its first step, for thresholds ascend."""
    neighbors = np.array(part.answers.neighbors[part.first : part.stop])
    first = 0
    for block, steps in enumerate(blocks):
        if steps:
            metrics.found(block, neighbors[:, first])
        first += len(steps)

"""What does the engine do? (batches that were answered -> events)."""

from collections.abc import Sequence
from typing import Any

from ffnsearch_service.answering.answers import Part
from ffnsearch_service.answering.batcher import Batch
from ffnsearch_service.answering.engine import Engine
from ffnsearch_service.operations.metrics import Metrics


def watch_engine(engine: Engine, metrics: Metrics) -> None:
    """Let metrics hear of each batch from now on, and see what waits whenever they are read."""
    metrics.watch_queue(lambda: engine.batcher.waiting_calls, lambda: engine.batcher.waiting_prompts)

    def batched(batch: Batch, parts: Sequence[Any]) -> None:
        pieces = batch.pieces
        tokens = sum(sum(piece.work.prompt_tokens[piece.first : piece.stop]) for piece in pieces)
        metrics.batched(len(pieces), batch.prompts, tokens)
        metrics.taken([piece.work.waited_ns / 1e9 for piece in pieces if piece.first == 0])
        if isinstance(parts[0], Part):
            _found(metrics, pieces[0].work.job.profile.blocks, parts)

    engine.observe(batched)


def _found(metrics: Metrics, blocks: Sequence[Sequence[Any]], parts: Sequence[Part]) -> None:
    """Tell the neighbors above the lowest threshold of each block; the steps of a sum come in any order.

    Those who share a batch have the same thresholds, and so the same steps.
    """
    neighbors = [row for part in parts for row in part.answers.neighbors[part.first : part.stop]]
    first = 0
    for block, steps in enumerate(blocks):
        if steps:
            lowest = first + min(range(len(steps)), key=lambda number: steps[number].threshold)
            metrics.found(block, [row[lowest] for row in neighbors])
        first += len(steps)

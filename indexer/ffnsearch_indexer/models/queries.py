"""How prompts become queries: one fixed batch shape, so that a prompt's answer never depends on its company.

Shapes: B prompts, L window, K block, D d_model, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ffnsearch_indexer.errors import FfnSearchError, PromptError
from ffnsearch_indexer.models.transformer import Transformer

ROWS = 16
"""Prompts in one forward pass. Fewer are padded: a matrix product of another shape may round differently."""


class Queries(NamedTuple):
    """What the model says of B prompts. vectors: [K, B, D] float16, unit. logits: [B, V] float32."""

    vectors: NDArray[np.float16]
    logits: NDArray[np.float32]


def run_prompts(model: Transformer, prompts: Sequence[NDArray[np.uint16]], window_tokens: int) -> Queries:
    """Run the last `window_tokens` tokens of each prompt and return its queries and logits.

    A shorter prompt is run as it is, from position 0. Raises PromptError for an empty one.
    """
    windows = np.zeros((-(-len(prompts) // ROWS) * ROWS, window_tokens), dtype=np.int64)
    last = np.zeros(len(windows), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise PromptError(f"prompt {row} is empty: give at least one token", reason="EMPTY_PROMPT", prompt=row)
        tokens = prompt[-window_tokens:]
        windows[row, : len(tokens)] = tokens  # padding comes after: a causal model does not see it
        last[row] = len(tokens) - 1
    batches = [
        _run_batch(model, windows[row : row + ROWS], last[row : row + ROWS]) for row in range(0, len(windows), ROWS)
    ]
    vectors = np.concatenate([vectors for vectors, _ in batches], axis=1)[:, : len(prompts)]
    logits = np.concatenate([logits for _, logits in batches])[: len(prompts)]
    return Queries(unit_float16(vectors), logits)


def unit_float16(vectors: NDArray[np.float32]) -> NDArray[np.float16]:
    """Divide vectors [..., D] by their Euclidean norms and round to float16: the canonical form of queries and keys.

    A zero vector stays zero. Raises FfnSearchError for values that are not finite. Norms are float64: in
    float32 their last bits depend on the layout in memory, and tiny or huge vectors lose theirs.
    """
    norms = np.sqrt(np.einsum("...d,...d->...", vectors, vectors, dtype=np.float64))
    if not np.isfinite(norms).all():
        raise FfnSearchError(
            "the model gave an FFN output that is not finite: its weights are damaged", reason="NOT_FINITE"
        )
    return (vectors / np.where(norms > 0, norms, 1)[..., None]).astype(np.float16)


@torch.inference_mode()
def _run_batch(
    model: Transformer, windows: NDArray[np.int64], last: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Run windows [ROWS, L] and read position `last` of each: FFN outputs [K, ROWS, D], logits [ROWS, V]."""
    device = model.head.weight.device
    output = model.read(torch.from_numpy(windows).to(device), torch.from_numpy(last).to(device))
    return torch.stack(output.ffn).cpu().numpy(), output.logits.cpu().numpy()

"""How all substrings become keys, and the memory and time that this takes.

Shapes: n windows, L window, K block, D d_model.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from ffnsearch_indexer.models.inference import WINDOWS_TOGETHER_MAX, run_sorted, unit_float16
from ffnsearch_indexer.models.packed import PackedModel
from ffnsearch_indexer.models.transformer import TransformerConfig

WINDOW_TOKENS_MAX = 255
"""Longest window: its tokens, two bytes each, are the key under which LMDB (at most 511 bytes) finds it."""


def extract_keys(model: PackedModel, windows: NDArray[np.uint16]) -> NDArray[np.float16]:
    """The canonical keys [K, n, D] of sorted, different windows [n, L]: to the bit, the queries of the same tokens."""
    assert 1 <= windows.shape[1] <= WINDOW_TOKENS_MAX
    keys = np.empty((model.blocks, len(windows), model.d_model), dtype=np.float16)

    def write(rows: slice, ffn: NDArray[np.float32], _: NDArray[np.float32]) -> None:
        keys[:, rows] = unit_float16(ffn)

    run_sorted(model, windows, np.full(len(windows), windows.shape[1]), write, with_logits=False)
    return keys


def memory_bytes(windows: int, config: TransformerConfig, window_tokens: int) -> int:
    """Working memory of `extract_keys`: the result, and what each thread's group of windows takes on its way.

    A group has the residual stream, attention's queries, keys and values of its nodes, and FFN outputs.
    """
    keys, nodes = 2 * config.blocks * config.d_model * windows, min(windows, WINDOWS_TOGETHER_MAX) * window_tokens
    of_group = 4 * config.d_model * (4 * nodes + 4 * config.blocks * WINDOWS_TOGETHER_MAX)
    return keys + torch.get_num_threads() * of_group


def flops_per_node(config: TransformerConfig) -> float:
    """Floating-point operations of one node, the last block's savings left out."""
    return 2.0 * config.blocks * (4 + 2 * config.ffn_ratio) * config.d_model**2

"""The integers that every backend must give: float64 scores and sums on the device, which never round."""

import numpy as np
import torch
from gpu_setting import THRESHOLDS, Setting

from ffnsearch_indexer.index.base import RangeSums

QUERIES_TOGETHER, KEYS_TOGETHER = 512, 1 << 16


def oracle(setting: Setting, block: int, queries: np.ndarray, thresholds: tuple[float, ...] = ()) -> RangeSums:
    """The sums of queries [B, D] in a block, at its threshold or others; nothing is shared with the product."""
    levels = thresholds or (THRESHOLDS[block],)
    counts, keys = setting.counts, setting.keys[block]
    N, V = len(keys), counts.vocabulary_size
    places = np.repeat(np.arange(N), np.diff(counts.offsets))
    sums = torch.zeros((len(levels), len(queries), V + 1), dtype=torch.float64, device=setting.device)
    vectors = torch.from_numpy(queries).to(setting.device).double()
    for first in range(0, N, KEYS_TOGETHER):
        last = min(N, first + KEYS_TOGETHER)
        x = torch.from_numpy(keys[first:last]).to(setting.device).double()
        entries = slice(counts.offsets[first], counts.offsets[last])
        dense = np.zeros((last - first, V + 1))
        dense[places[entries] - first, counts.tokens[entries]] = counts.counts[entries]
        dense[:, V] = 1
        of_keys = torch.from_numpy(dense).to(setting.device)
        for row in range(0, len(queries), QUERIES_TOGETHER):
            scores = vectors[row : row + QUERIES_TOGETHER] @ x.T
            for level, threshold in enumerate(levels):
                sums[level, row : row + QUERIES_TOGETHER] += (scores > threshold).double() @ of_keys
    found = sums.permute(1, 0, 2).cpu().numpy().astype(np.int64)
    return RangeSums(found[:, :, :V], found[:, :, V])

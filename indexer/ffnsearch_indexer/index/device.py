"""What the backends on a GPU share: queries that are already there, the error of its scores, its free memory.

Shapes: B queries, D d_model.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffnsearch_indexer.corpora.substrings import NextTokenCounts
from ffnsearch_indexer.hardware.gpu import choose_device, device_errors
from ffnsearch_indexer.index.base import (
    Checkpoint,
    Float16,
    Float32,
    Float64,
    Index,
    Int64,
    Neighbors,
    RangeSums,
    nobody_waits,
)

PRODUCTS_MAX = 32
"""Most products that a tensor core adds in one step: 4 on Volta, 16 on Hopper and Blackwell."""


class QueuedSums(NamedTuple):
    """A search that is queued on a device.

    result: int64 [n], what it leaves on the device. read: turns such a result, once it is in this machine's memory,
    into sums, or None where the search must be done again in the usual way. It may be called each time that the same
    work is done, and keeps all tensors that the work reads beside the index and the queries.
    """

    result: Tensor
    read: Callable[[Int64], RangeSums | None]


class DeviceIndex(Index):
    """An index that searches on one of torch's devices. A device that fails raises DeviceError.

    device: `cpu` is for tests. Raises BackendError for `cuda` where it cannot be used.
    """

    def __init__(self, keys: Float16, counts: NextTokenCounts, *, device: str) -> None:
        super().__init__(keys, counts)
        self.device = torch.device(choose_device(device))
        self._error = device_score_error(keys.shape[1])

    def range_sum(
        self, queries: Float16 | Tensor, thresholds: Sequence[float], *, checkpoint: Checkpoint = nobody_waits
    ) -> RangeSums:
        """Sum on the device; the contract is the base's. Queries may be a tensor [B, D] float16 on it too."""
        with device_errors():
            vectors = self._begun(queries, thresholds, checkpoint)
            return self._range_sum(vectors, thresholds, checkpoint)

    def range_search(
        self,
        queries: Float16 | Tensor,
        threshold: float,
        *,
        ids: range | None = None,
        checkpoint: Checkpoint = nobody_waits,
    ) -> Neighbors:
        """List neighbors on the device; the contract is the base's. Queries may be a tensor, as in `range_sum`."""
        with device_errors():
            vectors = self._begun(queries, [threshold], checkpoint)
            return self._range_search(vectors, np.array([threshold], np.float64), self.require_ids(ids), checkpoint)

    def _begun(self, queries: Float16 | Tensor, thresholds: Sequence[float], checkpoint: Checkpoint) -> Tensor:
        """Begin a search, and return its queries on the device."""
        vectors = queries if isinstance(queries, Tensor) else to_device(queries, self.device)
        assert vectors.device.type == self.device.type, "queries are on the device of the index, or on none"
        self.begin(vectors, thresholds, checkpoint)
        return vectors

    def queue_sums(self, queries: Tensor, thresholds: Sequence[float]) -> QueuedSums | None:
        """Queue a search of queries that are on the device, without waiting for it; None where that is not possible."""
        return None

    @abstractmethod
    def _range_sum(self, queries: Tensor, thresholds: Sequence[float], checkpoint: Checkpoint) -> RangeSums:
        """Sum for queries [B, D] on the device."""

    @abstractmethod
    def _range_search(self, queries: Tensor, limit: Float64, ids: range, checkpoint: Checkpoint) -> Neighbors:
        """List the neighbors of queries [B, D] on the device above a limit [1], among those with some ids."""


def device_score_error(d_model: int) -> float:
    """Largest error of a score of unit float16 vectors from tensor cores that sum into float32.

    Products are exact. A step adds k products to the sum so far: all k + 1 numbers are cut off at the last of 24 bits
    of the largest, and so is the result, each by less than 2^-23 T, where T bounds every number and partial sum (N.
    Fasi, N. J. Higham, M. Mikaitis and S. Pranesh, Numerical behavior of NVIDIA tensor cores, 2021: k = 4 on Volta; F.
    A. Khattak and M. Mikaitis, Accurate models of NVIDIA tensor cores, arXiv 2512.07004, for Ampere to Blackwell, which
    keep one or two bits more, and k = 8 or 16). As the largest number is not cut off, a step is off by at most k + 1
    times 2u T, u = 2^-24, which is 2.5 k u T from k = 4 on, and there are less than (D + k - 1) / k steps. T is the
    product of the lengths, by Cauchy-Schwarz, each within 2^-10 of 1. A library may sum parts and add them up, which
    rounds once for each part. A factor of 3 instead of 2.5 covers all of this, and that T grows by what is lost.
    """
    return 3 * (d_model + PRODUCTS_MAX) * 2.0**-24 * (1 + 2.0**-10) ** 2


def limits_around(thresholds: Float64, error: float) -> Float32:
    """From which computed score on a score may exceed thresholds [S], and from which it must: [2, S] float32."""
    below = np.nextafter((thresholds - error).astype(np.float32), np.float32(-np.inf))
    above = np.nextafter((thresholds + error).astype(np.float32), np.float32(np.inf))
    limits: Float32 = np.stack([below, above])
    return limits


def free_bytes(device: torch.device) -> int:
    """How much may still be allocated on a device; on a CPU, where tests search, 128 MB."""
    if device.type != "cuda":
        return 1 << 27
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def to_device(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """Copy an array, which may be a read-only map, to a device, without waiting for the copy."""
    return torch.from_numpy(np.array(array)).to(device, non_blocking=True)

"""How prompts become queries, and substrings keys, on a GPU: batches of one fixed shape, replayed as one CUDA graph.

The compiled forward pass (`forward.py`) is the CPU's; this one is torch's, which runs anywhere. Between the two, as
between any two machines, a vector differs by a step of float16 here and there: a substring's key is its own query to
the bit only where both come from the same forward pass on the same kind of device, which `description` names. Answers
from mixed ones are exact for the queries at hand all the same.

Every batch has the same shape, whatever is asked, so a prompt's company cannot choose other kernels for it. Only a
library that treats the rows of one product differently could still do so; `rows_agree` says whether this one does.

Shapes: n windows, R rows of a batch, L window, K block, D d_model, V vocabulary.
"""

import copy
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ffnsearch_indexer.errors import ModelError
from ffnsearch_indexer.hardware.graphs import GraphRecorder
from ffnsearch_indexer.hardware.precision import require_full_precision
from ffnsearch_indexer.models.inference import not_finite
from ffnsearch_indexer.models.queries import Queries, pad
from ffnsearch_indexer.models.transformer import Block, Transformer
from ffnsearch_indexer.parts import parts_of

ROWS = 64
"""Windows in a batch: enough to occupy a GPU, and few enough that one prompt does not wait long for padding."""

MEASURED_BATCHES = 3
"""Batches whose time is taken for an estimate."""

PRECISIONS = ("float32", "float16", "bfloat16")
"""What weights and products may be; float32 is full float32, never TF32."""


def require_precision(precision: str) -> None:
    """Raise ModelError for anything but one of PRECISIONS."""
    if precision not in PRECISIONS:
        raise ModelError(
            f"{precision[:40]!r} is not a precision of a model: choose one of {', '.join(PRECISIONS)}",
            reason="UNKNOWN_PRECISION",
        )


class DeviceQueries(NamedTuple):
    """What the model says of n windows, left on its device: an index there takes the vectors as they are.

    vectors: [K, n, D] float16, unit. logits: [n, V] float32.
    """

    vectors: Tensor
    logits: Tensor

    @classmethod
    def brought(cls, queries: Queries, device: torch.device) -> "DeviceQueries":
        """Vectors taken to a device; the logits stay, because nothing reads them there."""
        return cls(torch.from_numpy(queries.vectors).to(device), torch.from_numpy(queries.logits))

    def fetch(self) -> Queries:
        """The same in the memory of this machine."""
        return Queries(self.vectors.cpu().numpy(), self.logits.cpu().numpy())


class _Batch(NamedTuple):
    """What one batch of R windows gives. is_finite: [], whether all norms and logits are."""

    vectors: Tensor
    logits: Tensor
    is_finite: Tensor


class DeviceModel:
    """A transformer on a device. One thread at a time may call it.

    It holds its own copy of the weights. precision: one of PRECISIONS. On a CPU everything is the same but the graph:
    there is none. Raises ModelError for another precision.
    """

    def __init__(
        self,
        model: Transformer,
        window_tokens: int,
        *,
        device: str = "cuda",
        precision: str = "float32",
        rows: int = ROWS,
    ) -> None:
        require_full_precision("the model")
        require_precision(precision)
        self.device, self.precision, self.window_tokens = torch.device(device), precision, window_tokens
        self._model = copy.deepcopy(model).eval().to(self.device, getattr(torch, precision))
        self._tokens = torch.zeros((rows, window_tokens), dtype=torch.int64, device=self.device)
        self._last = torch.zeros(rows, dtype=torch.int64, device=self.device)
        self._replay: Callable[[], _Batch] | None = None

    @property
    def rows(self) -> int:
        """How many windows are in a batch, R."""
        return len(self._tokens)

    @property
    def description(self) -> str:
        """What decides the last bits of a result: the same words, the same vectors."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        return f"torch {self.precision} on {name}, {self.rows} rows"

    def run_prompts(self, prompts: Sequence[NDArray[np.uint16]]) -> DeviceQueries:
        """Run the last L tokens of each prompt; raises PromptError for an empty one, as `queries.run_prompts` does."""
        return self.run(*pad(prompts, self.window_tokens))

    def extract_keys(self, windows: NDArray[np.uint16]) -> NDArray[np.float16]:
        """The canonical keys [K, n, D] of windows [n, L], each run whole: no prefix is shared."""
        lengths = np.full(len(windows), self.window_tokens, dtype=np.int64)
        return self.run(windows, lengths).fetch().vectors

    @torch.inference_mode()
    def run(self, windows: NDArray[np.uint16], lengths: NDArray[np.int64]) -> DeviceQueries:
        """Run the first `lengths` [n] tokens, 1 to L, of windows [n, L]; what stands behind them does not matter.

        Raises FfnSearchError for FFN outputs and logits that are not finite.
        """
        n, config = len(windows), self._model.config
        tokens = torch.from_numpy(windows.astype(np.int64)).to(self.device)
        last = torch.from_numpy(lengths - 1).to(self.device)
        vectors = torch.empty((config.blocks, n, config.d_model), dtype=torch.float16, device=self.device)
        logits = torch.empty((n, config.vocabulary_size), device=self.device)
        is_finite = torch.ones((), dtype=torch.bool, device=self.device)
        for part in parts_of(n, self.rows):
            here = part.stop - part.start
            self._tokens[:here], self._last[:here] = tokens[part], last[part]
            batch = self._run_batch()
            vectors[:, part], logits[part] = batch.vectors[:, :here], batch.logits[:here]
            is_finite &= batch.is_finite
        if not is_finite:
            raise not_finite(self.precision)
        return DeviceQueries(vectors, logits)

    def rows_agree(self, window: NDArray[np.uint16]) -> bool:
        """Whether one window [L] gives the same bits in every row of a batch."""
        found = self.run(np.repeat(window[None], self.rows, axis=0), np.full(self.rows, self.window_tokens))
        return all(
            bool((each == each.narrow(axis, 0, 1)).all()) for each, axis in ((found.vectors, 1), (found.logits, 0))
        )

    def seconds_per_window(self) -> float:
        """Measure this device for a moment: what a window of a full batch takes."""
        windows = np.zeros((MEASURED_BATCHES * self.rows, self.window_tokens), dtype=np.uint16)
        self.extract_keys(windows[: self.rows])  # records the graph
        started = time.perf_counter()
        self.extract_keys(windows)
        return (time.perf_counter() - started) / len(windows)

    def _run_batch(self) -> _Batch:
        """Run what is in `_tokens` and `_last`; the result is overwritten by the next batch."""
        if self._replay is None:
            self._replay = GraphRecorder(self.device).record(self._forward)
        return self._replay()

    def _forward(self) -> _Batch:
        """Run one batch, of which the last positions alone are kept.

        Attention is the plain one: fused kernels choose their arithmetic by shape and by version.
        """
        model, rows = self._model, torch.arange(self.rows, device=self.device)
        positions = torch.arange(self.window_tokens, device=self.device)
        x, ffn = model.token_embedding(self._tokens) + model.position_embedding(positions), []
        with sdpa_kernel(SDPBackend.MATH):
            for block in cast(list[Block], list(model.blocks)):
                x, outputs = block(x)
                ffn.append(outputs[rows, self._last])
        vectors = torch.stack(ffn).double()
        norms = vectors.square().sum(-1, keepdim=True).sqrt()
        units = (vectors / torch.where(norms > 0, norms, 1)).half()
        logits = model.head(model.final_norm(x[rows, self._last])).float()
        return _Batch(units, logits, torch.isfinite(norms).all() & torch.isfinite(logits).all())

"""What a build reads, and what must be the same for a killed one to be continued."""

import platform
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.build.request import BuildRequest
from ffnsearch_indexer.corpora.substrings import Substrings, find_substrings, pack_windows, sort_windows
from ffnsearch_indexer.corpora.tokenizer import Tokenizer, Tokens
from ffnsearch_indexer.errors import BackendError, ModelError
from ffnsearch_indexer.hardware.gpu import choose_device
from ffnsearch_indexer.models import extraction
from ffnsearch_indexer.models.on_device import DeviceModel, require_precision
from ffnsearch_indexer.models.packed import PackedModel, pack_model
from ffnsearch_indexer.models.transformer import TOKENIZER_FILE, Transformer
from ffnsearch_indexer.progress import Progress
from ffnsearch_indexer.store import keys
from ffnsearch_indexer.store.manifest import FORMAT_VERSION

LIBRARIES = ("ffnsearch", "torch", "numpy", "numba", "lmdb")


@dataclass(frozen=True)
class Source:
    """Model, tokens, and the windows in both orders.

    windows: [N, L] uint16, by id. order: [N] ids, in ascending order of windows. device: `cpu` or `cuda`.
    """

    request: BuildRequest
    model: Transformer
    tokenizer: Tokenizer
    tokens: Tokens
    substrings: Substrings
    windows: NDArray[np.uint16]
    order: NDArray[np.int64]
    device: str

    @cached_property
    def packed_model(self) -> PackedModel:
        """The model as windows are run with it on the CPU."""
        return pack_model(self.model)

    @cached_property
    def device_model(self) -> DeviceModel | None:
        """The model as windows are run with it on a GPU; None on the CPU."""
        if self.device == "cpu":
            return None
        return DeviceModel(self.model, self.windows.shape[1], device=self.device, precision=self.request.precision)

    @property
    def forward(self) -> str:
        """Which forward pass makes the keys: the same words, the same bytes."""
        return self.device_model.description if self.device_model else "compiled, on a CPU"

    def extract_keys(self, windows: NDArray[np.uint16]) -> NDArray[np.float16]:
        """The keys [K, n, D] of sorted windows [n, L]."""
        if self.device_model:
            return self.device_model.extract_keys(windows)
        return extraction.extract_keys(self.packed_model, windows)

    @cached_property
    def identity(self) -> dict[str, object]:
        """What must be the same for a killed build to be continued."""
        return {
            "format_version": FORMAT_VERSION,
            "model_sha256": self.model.sha256(),
            "tokenizer_sha256": self.tokenizer.sha256,
            "corpus_sha256": self.request.corpus.sha256,
            "split": self.request.split,
            "window_tokens": self.substrings.window_tokens,
            "shard_windows": keys.SHARD_WINDOWS,
            "forward_pass": self.forward,
            "set_of_libraries": libraries(),
        }


def read_source(request: BuildRequest, progress: Progress) -> Source:
    """Read what a request asks for; raises what `pipeline.build` says of input and devices."""
    corpus, window_tokens = request.corpus, request.window_tokens
    device = choose_device(request.device)
    require_precision(request.precision)
    if device == "cpu" and request.precision != "float32":
        raise BackendError(
            f"a model has the precision {request.precision} on a GPU alone: "
            "leave --precision out, or choose --device cuda",
            reason="PRECISION_NEEDS_GPU",
            precision=request.precision,
        )
    model = Transformer.load(request.model_folder)
    tokenizer = Tokenizer.load(request.model_folder / TOKENIZER_FILE)
    if tokenizer.vocabulary_size != model.config.vocabulary_size:
        raise ModelError(
            f"{request.model_folder} has a model of {model.config.vocabulary_size} tokens and a tokenizer of "
            f"{tokenizer.vocabulary_size}: take both from one training run, or choose another model"
        )
    limit = min(model.config.context_tokens, extraction.WINDOW_TOKENS_MAX)
    if not 1 <= window_tokens <= limit:
        raise ModelError(
            f"the window has {window_tokens} tokens; this model and the store allow 1 to {limit}: "
            "choose another --window-tokens"
        )
    tokens = tokenizer.encode(corpus.text, where=f"the corpus {corpus.name}")
    indexed = tokens[: corpus.train_tokens()] if request.split == "train" else tokens
    substrings = find_substrings(indexed, window_tokens, tokenizer.vocabulary_size, progress=progress)
    windows = substrings.tokens_of(indexed)
    order = sort_windows(pack_windows(windows, tokenizer.vocabulary_size))
    return Source(request, model, tokenizer, tokens, substrings, windows, order, device)


def libraries() -> dict[str, str]:
    """Which versions make what is written."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}

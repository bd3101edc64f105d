"""The transformer: small, pre-norm, causal; it returns its FFN outputs beside its logits.

Shapes: B batch, T position, D d_model, H heads, K block, V vocabulary.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from ffnsearch_indexer.errors import ModelError

CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE = "config.json", "model.safetensors", "tokenizer.json"


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a model; the defaults are those of the article's."""

    vocabulary_size: int = 65
    blocks: int = 6
    heads: int = 6
    d_model: int = 384
    context_tokens: int = 256
    ffn_ratio: int = 4
    dropout: float = 0.1  # outside attention only: inside, it would forbid the fused kernel

    def __post_init__(self) -> None:
        if min(self.vocabulary_size, self.blocks, self.heads, self.d_model, self.context_tokens, self.ffn_ratio) < 1:
            raise ModelError(f"every size of a model must be at least 1: {self}")
        if self.d_model % self.heads:
            raise ModelError(
                f"d_model {self.d_model} is not divisible by {self.heads} heads: choose a multiple of them"
            )
        if not 0 <= self.dropout < 1:
            raise ModelError(f"dropout {self.dropout} is not in [0, 1): choose 0 or more, and less than 1")


class TransformerOutput(NamedTuple):
    """What one forward pass gives.

    logits: [B, T, V] float32. ffn: K tensors [B, T, D], the FFN output of each block before the residual add.
    """

    logits: Tensor
    ffn: tuple[Tensor, ...]


class Dropout(nn.Module):
    """Dropout that draws eight random bits a value, so that its rate is a multiple of 1/256.

    torch's own draws one value after the other on a CPU and took a fifth of a training iteration.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.dropped = min(round(256 * rate), 255)

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.dropped):
            return x
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=x.device).random_(-(2**63), None)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= self.dropped
        return x * (kept.to(x.dtype) * (256 / (256 - self.dropped)))


class Attention(nn.Module):
    """Causal self-attention with all heads in one matrix; queries, keys and values without bias."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        mixed = _causal_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(B, T, D))


class Ffn(nn.Module):
    """Two linear maps with a ReLU between them."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, config.ffn_ratio * config.d_model)
        self.down = nn.Linear(config.ffn_ratio * config.d_model, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)))


class Block(nn.Module):
    """Attention, then FFN, each reading the normalised residual stream and adding to it."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.d_model)
        self.attention = Attention(config)
        self.ffn_norm = nn.LayerNorm(config.d_model)
        self.ffn = Ffn(config)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the residual stream after the block and the block's FFN output, both [B, T, D]."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        ffn = self.ffn(self.ffn_norm(x))
        return x + self.dropout(ffn), ffn


class Transformer(nn.Module):
    """The whole model. In eval mode and under `torch.inference_mode` it is safe to call from several threads."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocabulary_size, config.d_model)
        self.position_embedding = nn.Embedding(config.context_tokens, config.d_model)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.final_norm = nn.LayerNorm(config.d_model)
        self.head = nn.Linear(config.d_model, config.vocabulary_size)
        self.apply(_initialise)

    def forward(self, tokens: Tensor) -> TransformerOutput:
        """Run token ids [B, T], int64, T at most `context_tokens`."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x, ffn = self.dropout(self.token_embedding(tokens) + self.position_embedding(positions)), []
        for block in self.blocks:
            x, ffn_output = block(x)
            ffn.append(ffn_output)
        return TransformerOutput(self.head(self.final_norm(x)), tuple(ffn))

    def parameter_count(self) -> int:
        """Number of trained values."""
        return sum(parameter.numel() for parameter in self.parameters())

    def sha256(self) -> str:
        """What identifies this model: SHA-256 of its sizes and its float32 weights, in hexadecimal."""
        digest = hashlib.sha256(json.dumps(_sizes(self.config)).encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.float().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write config and weights, as `dtype`, into an existing folder; raises ModelError where one is not finite."""
        weights = {name: value.to(dtype).contiguous() for name, value in self.state_dict().items()}
        _require_finite(weights, folder)
        (folder / CONFIG_FILE).write_text(json.dumps(asdict(self.config), indent=1) + "\n")
        (folder / WEIGHTS_FILE).write_bytes(save(weights))

    @classmethod
    def load(cls, folder: Path) -> "Transformer":
        """Read what `save` wrote, as float32 and in eval mode; raises ModelError, which names the folder."""
        try:
            config = TransformerConfig(**json.loads((folder / CONFIG_FILE).read_text()))
            model = cls(config)
            weights = {name: value.float() for name, value in load_file(folder / WEIGHTS_FILE).items()}
            model.load_state_dict(weights)
        except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
            first_line = next(iter(str(error).splitlines()), repr(error))
            raise ModelError(
                f"no model can be loaded from {folder} ({first_line}): give a folder that `ffnsearch train` wrote",
                folder=folder,
            ) from None
        _require_finite(weights, folder)
        return model.eval().requires_grad_(False)


def _causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend with [B, H, T, D/H] each; a position sees itself and those before it."""
    if q.device.type != "cpu" or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    # With gradients on a CPU, plain products are faster than torch's fused kernel, whose backward pass is slow.
    T = q.shape[-2]
    future = torch.full((T, T), float("-inf"), dtype=q.dtype).triu(1)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + future
    return torch.softmax(scores, dim=-1, dtype=scores.dtype) @ v


def _require_finite(weights: dict[str, Tensor], folder: Path) -> None:
    """Refuse a model whose answers would not be numbers: it is damaged, or its training diverged."""
    for name, value in weights.items():
        if not value.isfinite().all():
            raise ModelError(
                f"{name} of the model in {folder} is not finite as {str(value.dtype).removeprefix('torch.')}: "
                "it is damaged, or was trained at too high a rate; copy it again, or train it again at a lower one",
                reason="NOT_FINITE",
                folder=folder,
            )


def _sizes(config: TransformerConfig) -> dict[str, object]:
    return {name: value for name, value in sorted(asdict(config).items()) if name != "dropout"}


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)

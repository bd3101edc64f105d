"""The weights of a transformer as compiled code reads them.

Shapes: K block, D d_model, H width of the FFN's hidden layer, V vocabulary, C context; see `products.pack` for P.
"""

from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ffnsearch_indexer.models.products import pack
from ffnsearch_indexer.models.transformer import Block, Transformer

Weights = NDArray[np.float32]


class PackedModel(NamedTuple):
    """What `forward.run` needs of a model, all float32. Immutable, safe to share between threads.

    token_embedding: [V, D]. position_embedding: [C, D]. Norms, [K, 2, D]: gain and shift. Matrices, [K, P, in, 32]:
    packed. Biases: [K, out]. The head is one of each without K. heads: how many attention heads there are.
    """

    token_embedding: Weights
    position_embedding: Weights
    attention_norm: Weights
    query: Weights
    key_value: Weights
    out: Weights
    out_bias: Weights
    ffn_norm: Weights
    up: Weights
    up_bias: Weights
    down: Weights
    down_bias: Weights
    final_norm: Weights
    head: Weights
    head_bias: Weights
    norm_epsilon: float
    heads: int

    @property
    def blocks(self) -> int:
        """How many blocks the model has, K."""
        return len(self.query)

    @property
    def d_model(self) -> int:
        """How wide an FFN output is, D."""
        return self.token_embedding.shape[1]

    @property
    def vocabulary_size(self) -> int:
        """How many tokens there are, V."""
        return self.token_embedding.shape[0]


def pack_model(model: Transformer) -> PackedModel:
    """Copy a model's weights into the order in which they are read: as much memory again, and a tenth of a second."""
    blocks, D = cast(list[Block], list(model.blocks)), model.config.d_model
    projections = _stack([block.attention.qkv.weight for block in blocks])
    outs = [block.attention.out for block in blocks]
    ups, downs = [block.ffn.up for block in blocks], [block.ffn.down for block in blocks]
    return PackedModel(
        token_embedding=_array(model.token_embedding.weight),
        position_embedding=_array(model.position_embedding.weight),
        attention_norm=np.stack([_norm(block.attention_norm) for block in blocks]),
        query=pack(projections[:, :D]),
        key_value=pack(projections[:, D:]),
        out=pack(_stack([out.weight for out in outs])),
        out_bias=_stack([out.bias for out in outs]),
        ffn_norm=np.stack([_norm(block.ffn_norm) for block in blocks]),
        up=pack(_stack([up.weight for up in ups])),
        up_bias=_stack([up.bias for up in ups]),
        down=pack(_stack([down.weight for down in downs])),
        down_bias=_stack([down.bias for down in downs]),
        final_norm=_norm(model.final_norm),
        head=pack(_array(model.head.weight)),
        head_bias=_array(model.head.bias),
        norm_epsilon=model.final_norm.eps,
        heads=model.config.heads,
    )


def _norm(norm: nn.LayerNorm) -> Weights:
    return np.stack([_array(norm.weight), _array(norm.bias)])


def _stack(weights: list[Tensor]) -> Weights:
    return np.stack([_array(weight) for weight in weights])


def _array(weight: Tensor) -> Weights:
    return weight.detach().float().cpu().numpy().copy()

"""The model: its size, its causality, one result from all its paths, and files that come back."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ffnsearch_indexer.errors import ModelError
from ffnsearch_indexer.models.transformer import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Dropout,
    Transformer,
    TransformerConfig,
)

SMALL = TransformerConfig(vocabulary_size=11, blocks=3, heads=2, d_model=16, context_tokens=24, dropout=0.0)


def make(config: TransformerConfig = SMALL, seed: int = 0) -> Transformer:
    """A model whose weights are large enough for every part to matter."""
    torch.manual_seed(seed)
    model = Transformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def some_tokens(rows: int = 4, positions: int = 24) -> torch.Tensor:
    return torch.randint(0, SMALL.vocabulary_size, (rows, positions), generator=torch.Generator().manual_seed(1))


def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(tmp_path: Path) -> None:
    model = make().requires_grad_(False)
    model.head.bias[3] = 1e5
    with pytest.raises(ModelError, match=r"head\.bias .* float16"):
        model.save(tmp_path, dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []
    model.save(tmp_path)
    whole = load_file(tmp_path / WEIGHTS_FILE)
    for value in (float("nan"), float("inf")):
        whole["head.bias"][3] = value
        save_file(whole, tmp_path / WEIGHTS_FILE)
        with pytest.raises(ModelError) as caught:
            Transformer.load(tmp_path)
        assert (caught.value.reason, str(tmp_path) in caught.value.message) == ("NOT_FINITE", True)


def test_the_article_has_this_many_parameters() -> None:
    with torch.device("meta"):
        assert Transformer(TransformerConfig()).parameter_count() == 10_788_929


def test_it_returns_logits_and_the_ffn_output_of_every_block() -> None:
    with torch.inference_mode():
        output = make().eval()(some_tokens())
    assert output.logits.shape == (4, 24, 11)
    assert [ffn.shape for ffn in output.ffn] == [(4, 24, 16)] * 3


def test_an_ffn_output_is_what_its_block_adds_last() -> None:
    model, seen = make().eval(), []
    handles = [block.register_forward_hook(lambda _, inputs, outputs: seen.append(outputs)) for block in model.blocks]
    with torch.inference_mode():
        output = model(some_tokens())
    for handle in handles:
        handle.remove()
    assert all(torch.equal(ffn, from_block) for ffn, (_, from_block) in zip(output.ffn, seen, strict=True))
    last_block = model.blocks[-1]
    with torch.inference_mode():
        x = seen[-2][0] + last_block.attention(last_block.attention_norm(seen[-2][0]))
        assert torch.allclose(seen[-1][0], x + last_block.ffn(last_block.ffn_norm(x)), atol=1e-6)
        assert torch.allclose(output.logits, model.head(model.final_norm(seen[-1][0])), atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_later_tokens_change_nothing_before_them(training: bool) -> None:
    model, tokens = make().train(training), some_tokens()
    changed = tokens.clone()
    changed[:, 10:] = (changed[:, 10:] + 1) % SMALL.vocabulary_size
    with torch.set_grad_enabled(training):  # with gradients attention is explicit, without it is fused
        before, after = model(tokens), model(changed)
    for one, other in zip((before.logits, *before.ffn), (after.logits, *after.ffn), strict=True):
        assert torch.equal(one[:, :10], other[:, :10])
        assert not torch.isclose(one[:, 10:], other[:, 10:]).all(dim=-1).any()


def test_explicit_attention_equals_fused_attention() -> None:
    model, tokens = make(), some_tokens()
    explicit = model.train()(tokens)
    with torch.inference_mode():
        fused = model.eval()(tokens)
    for one, other in zip((explicit.logits, *explicit.ffn), (fused.logits, *fused.ffn), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-5)


def test_dropout_is_off_in_eval_mode_and_on_in_training() -> None:
    model, tokens = make(replace(SMALL, dropout=0.5)), some_tokens()
    model.eval()
    assert torch.equal(model(tokens).logits, model(tokens).logits)
    model.train()
    assert not torch.equal(model(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.5, 0.999])
def test_dropout_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 1001)
    y = Dropout(rate).train()(x)
    dropped = (y == 0).float().mean().item()
    assert dropped == pytest.approx(rate, abs=1 / 256)
    assert y.mean().item() == pytest.approx(1, abs=0.05)
    assert len(y.unique()) == 2


def test_dropout_is_the_identity_at_rate_zero_and_in_eval_mode() -> None:
    x = torch.randn(7)
    assert Dropout(0.0).train()(x) is x
    assert Dropout(0.5).eval()(x) is x


def test_dropout_keeps_type_and_gradient() -> None:
    x = torch.ones(1000, dtype=torch.bfloat16, requires_grad=True)
    y = Dropout(0.25).train()(x)
    y.sum().backward()
    assert y.dtype == torch.bfloat16
    assert torch.equal(x.grad, y.detach())


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    model, tokens = make(replace(SMALL, dropout=0.3)), some_tokens()
    model.save(tmp_path)
    loaded = Transformer.load(tmp_path)
    assert loaded.config == model.config
    assert loaded.sha256() == model.sha256()
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    with torch.inference_mode():
        assert torch.equal(loaded(tokens).logits, model.eval()(tokens).logits)


def test_saved_in_half_precision_it_is_stable(tmp_path: Path) -> None:
    model = make()
    model.save(tmp_path, dtype=torch.float16)
    loaded = Transformer.load(tmp_path)
    assert loaded.head.weight.dtype == torch.float32
    assert loaded.sha256() != model.sha256()
    loaded.save(tmp_path, dtype=torch.float16)
    assert Transformer.load(tmp_path).sha256() == loaded.sha256()


def test_the_hash_is_of_sizes_and_weights_alone() -> None:
    assert make().sha256() == make(replace(SMALL, dropout=0.5)).sha256()
    assert make().sha256() != make(seed=1).sha256()
    assert make(replace(SMALL, heads=4)).sha256() != make().sha256()


@pytest.mark.parametrize(
    "sizes", [{"blocks": 0}, {"vocabulary_size": -1}, {"d_model": 15}, {"dropout": 1.0}, {"dropout": float("nan")}]
)
def test_impossible_sizes_are_refused(sizes: dict[str, float]) -> None:
    with pytest.raises(ModelError):
        replace(SMALL, **sizes)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (CONFIG_FILE, None),
        (CONFIG_FILE, b""),
        (CONFIG_FILE, b"[]"),
        (CONFIG_FILE, b'{"colour": 1}'),
        (CONFIG_FILE, b'{"blocks": "three"}'),
        (CONFIG_FILE, json.dumps({"vocabulary_size": 11, "blocks": 2, "heads": 2, "d_model": 16}).encode()),
        (WEIGHTS_FILE, None),
        (WEIGHTS_FILE, b""),
        (WEIGHTS_FILE, b"not weights"),
    ],
)
def test_a_damaged_folder_is_refused_with_its_name(tmp_path: Path, name: str, content: bytes | None) -> None:
    make().save(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match="no model can be loaded") as error:
        Transformer.load(tmp_path)
    assert error.value.metadata == {"folder": str(tmp_path)}


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    make().save(tmp_path)
    weights = (tmp_path / WEIGHTS_FILE).read_bytes()
    (tmp_path / WEIGHTS_FILE).write_bytes(weights[:-1])
    with pytest.raises(ModelError):
        Transformer.load(tmp_path)

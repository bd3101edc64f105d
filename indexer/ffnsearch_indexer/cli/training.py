"""The subcommand that trains a model: train."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ffnsearch_indexer.cli.options import SEED_MAX, AsJson, Corpus, Out, command, print_result, resumable
from ffnsearch_indexer.errors import FfnSearchError


def train(
    corpus: Corpus,
    out: Out,
    seed: Annotated[int, typer.Option(help="Seed of weights, windows and dropout.", min=0, max=SEED_MAX)] = 1,
    iterations: Annotated[int, typer.Option(help="Batches to train on.", min=1)] = 2000,
    batch_windows: Annotated[int, typer.Option(help="Windows in a batch.", min=1)] = 32,
    rate_peak: Annotated[float, typer.Option(help="Highest learning rate.")] = 1e-3,
    blocks: Annotated[
        int | None, typer.Option(help="Blocks of the model.", min=1, show_default="6, or those of --start")
    ] = None,
    heads: Annotated[
        int | None, typer.Option(help="Attention heads of a block.", min=1, show_default="6, or those of --start")
    ] = None,
    d_model: Annotated[
        int | None, typer.Option(help="Width of the residual stream.", min=1, show_default="384, or that of --start")
    ] = None,
    context_tokens: Annotated[
        int | None,
        typer.Option(
            help="Longest input, and length of a training window.", min=1, show_default="256, or that of --start"
        ),
    ] = None,
    dropout: Annotated[float, typer.Option(help="Share of values dropped, outside attention.")] = 0.1,
    vocabulary: Annotated[
        Path | None,
        typer.Option(help="A tokenizer.json whose characters to use.", show_default="the corpus' characters"),
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="A model to train further; sizes and characters are its own.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU where there is one.")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Train a model on the first nine tenths of a corpus; the rest measures it.

    A training run that was stopped is continued by the same command, with the same result.
    """
    from ffnsearch_indexer.console import ProgressDisplay
    from ffnsearch_indexer.corpora.corpus import read_corpus
    from ffnsearch_indexer.corpora.tokenizer import TINY_SHAKESPEARE, Tokenizer
    from ffnsearch_indexer.models.training import TrainingSettings
    from ffnsearch_indexer.models.training import train as run_training
    from ffnsearch_indexer.models.transformer import TOKENIZER_FILE, Transformer, TransformerConfig

    given = {"blocks": blocks, "heads": heads, "d_model": d_model, "context_tokens": context_tokens}
    sizes = {name: value for name, value in given.items() if value is not None}
    if start:
        _require_none([*sizes, *(["vocabulary"] if vocabulary else [])])
        vocabulary = start / TOKENIZER_FILE
    text = read_corpus(corpus)
    if vocabulary:
        tokenizer = Tokenizer.load(vocabulary)
    else:
        tokenizer = Tokenizer(TINY_SHAKESPEARE) if corpus == "shakespeare" else Tokenizer.of_text(text.text)
    if start:
        config = replace(Transformer.load(start).config, dropout=dropout)
    else:
        config = TransformerConfig(tokenizer.vocabulary_size, dropout=dropout, **sizes)
    settings = TrainingSettings(seed=seed, iterations=iterations, batch_windows=batch_windows, rate_peak=rate_peak)
    with resumable(out), ProgressDisplay() as display:
        record = run_training(text, tokenizer, config, settings, out, start=start, device=device, progress=display)
    result = {
        "model": str(out),
        "train_loss": record.final_train_loss,
        "validation_loss": record.final_validation_loss,
        "seconds": record.seconds,
    }
    losses = f"loss {record.final_train_loss:.4f} in training, {record.final_validation_loss:.4f} in validation"
    following = command("build", "--corpus", corpus, "--model", out, "--out", f"{out}.ffn")
    print_result(as_json, result, [f"trained {out}: {losses}", f"next: {following}"])


def _require_none(names: list[str]) -> None:
    """Refuse options of sizes and characters beside --start."""
    if names:
        option = f"--{names[0].replace('_', '-')}"
        raise FfnSearchError(
            f"{option} and --start exclude each other, for sizes and characters are those of the model to train "
            f"further: drop {option} or --start",
            reason="INVALID_REQUEST",
        )

"""The subcommand that trains a model: train."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ffnsearch_indexer.cli.options import SEED_MAX, AsJson, Corpus, Out, command, print_result, resumable


def train(
    corpus: Corpus,
    out: Out,
    seed: Annotated[int, typer.Option(help="Seed of weights, windows and dropout.", min=0, max=SEED_MAX)] = 1,
    iterations: Annotated[int, typer.Option(help="Batches to train on.", min=1)] = 2000,
    batch_windows: Annotated[int, typer.Option(help="Windows in a batch.", min=1)] = 32,
    rate_peak: Annotated[float, typer.Option(help="Highest learning rate.")] = 1e-3,
    blocks: Annotated[int, typer.Option(help="Blocks of the model.", min=1)] = 6,
    heads: Annotated[int, typer.Option(help="Attention heads of a block.", min=1)] = 6,
    d_model: Annotated[int, typer.Option(help="Width of the residual stream.", min=1)] = 384,
    context_tokens: Annotated[int, typer.Option(help="Longest input, and length of a training window.", min=1)] = 256,
    dropout: Annotated[float, typer.Option(help="Share of values dropped, outside attention.")] = 0.1,
    vocabulary: Annotated[
        Path | None,
        typer.Option(help="A tokenizer.json whose characters to use.", show_default="the corpus' characters"),
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="A model to train further; sizes and characters are its own.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
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

    text = read_corpus(corpus)
    if start:
        vocabulary = start / TOKENIZER_FILE
    if vocabulary:
        tokenizer = Tokenizer.load(vocabulary)
    else:
        tokenizer = Tokenizer(TINY_SHAKESPEARE) if corpus == "shakespeare" else Tokenizer.of_text(text.text)
    if start:
        config = replace(Transformer.load(start).config, dropout=dropout)
    else:
        config = TransformerConfig(tokenizer.vocabulary_size, blocks, heads, d_model, context_tokens, dropout=dropout)
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

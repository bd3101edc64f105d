"""The subcommands that make, check and measure things: train, build, verify, evaluate, calibrate, report."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ffnsearch_indexer.fidelity.protocols import Protocol, choose_protocols

if TYPE_CHECKING:
    from ffnsearch_indexer.store.snapshot import Manifest

CorpusOption = Annotated[
    str,
    typer.Option(
        "--corpus", help="A UTF-8 text file, a folder of .txt files, or the built-in `shakespeare`.", show_default=False
    ),
]
OutOption = Annotated[Path, typer.Option("--out", help="The folder to write; it must not exist.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


EXIT_INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it: 128 and the number of SIGINT."""


class SplitName(StrEnum):
    """Which part of a corpus is indexed."""

    ALL = "all"
    TRAIN = "train"


def register(app: typer.Typer) -> None:
    """Add the indexer's subcommands to an app."""
    add_command(
        app,
        build,
        "--corpus shakespeare --out shakespeare.ffn",
        "--corpus novel.txt --model my-model --out novel.ffn --estimate",
    )
    add_command(app, verify, "shakespeare.ffn")
    add_command(
        app,
        evaluate,
        "shakespeare.ffn",
        "shakespeare-train.ffn --protocol held-out --prompts 2000 --sister my-other-model --json",
        "tinyshakespeare.ffn --trained-on shakespeare --profile article --no-save",
    )
    add_command(app, calibrate, "shakespeare.ffn", "shakespeare.ffn --prompts 20000 --json")
    add_command(app, report, "shakespeare.ffn", "shakespeare.ffn --out shakespeare-report --json")
    add_command(
        app,
        train,
        "--corpus novel.txt --out my-model",
        "--corpus shakespeare --seed 2 --out sister",
        "--corpus novel.txt --start my-model --iterations 500 --out my-better-model",
    )


def add_command(app: typer.Typer, command: Callable[..., None], *examples: str) -> None:
    """Add a subcommand; its help ends in examples, whose lines stay as they are."""
    lines = (f"  ffnsearch {command.__name__} {example}".rstrip() for example in examples)
    app.command(epilog="\n".join(("\b", "Examples:", *lines)))(command)  # \b: do not fill these lines


def build(
    corpus: CorpusOption,
    out: OutOption,
    model: Annotated[
        Path | None, typer.Option(help="Folder of a trained model.", show_default="the reference model")
    ] = None,
    split: Annotated[SplitName, typer.Option(help="Index the whole text, or its first nine tenths.")] = SplitName.ALL,
    window_tokens: Annotated[int, typer.Option(help="Length L of a substring, in tokens.", min=1)] = 10,
    estimate: Annotated[bool, typer.Option("--estimate", help="Say what the build will take, and stop.")] = False,
    calibration_prompts: Annotated[
        int, typer.Option(help="Prompts for a first calibration after the build; 0 for none.", min=0)
    ] = 2000,
    as_json: AsJson = False,
) -> None:
    """Build a snapshot: run the model over every unique substring of a corpus, and index what its FFNs give.

    Then calibrate it, so that its answers are near the model's own; `ffnsearch calibrate` does so with more prompts. A
    build that was stopped is continued by the same command.
    """
    from ffnsearch_indexer import build as building
    from ffnsearch_indexer.console import ProgressDisplay
    from ffnsearch_indexer.corpora.corpus import read_corpus
    from ffnsearch_indexer.fidelity import calibrate as calibrating
    from ffnsearch_indexer.models import reference_folder
    from ffnsearch_indexer.store.work import work_folder

    started = time.monotonic()
    with _resumable(work_folder(out)), ProgressDisplay() as display:
        text, folder = read_corpus(corpus), model or reference_folder()
        if estimate:
            plan = building.estimate(
                text, folder, out, window_tokens=window_tokens, split=split.value, progress=display
            )
            return _print(as_json, vars(plan), _plan_lines(plan))
        manifest = building.build(
            text,
            folder,
            out,
            window_tokens=window_tokens,
            split=split.value,
            announce=lambda plan: display.say("\n".join(_plan_lines(plan))),
            progress=display,
        )
    if min(calibration_prompts, calibrating.most_prompts(manifest)) >= calibrating.PROMPTS_MIN:
        manifest = _calibrate_new(out, calibration_prompts)
    seconds = time.monotonic() - started
    result = {
        "snapshot": str(out),
        "snapshot_id": manifest.snapshot_id,
        "substrings": manifest.substrings,
        "seconds": seconds,
    }
    line = f"built {out}: {manifest.substrings:,} substrings, {manifest.total_bytes() / 1e9:.2f} GB, {seconds:.0f} s"
    _print(as_json, result, [line, f"next: ffnsearch info {out}, or ffnsearch predict {out} 'some text'"])


def _calibrate_new(snapshot: Path, prompts: int) -> "Manifest":
    """Calibrate a snapshot that was just built, and return its new manifest; stopped, it is whole all the same."""
    from ffnsearch_indexer.answer.predictor import Predictor
    from ffnsearch_indexer.console import ProgressDisplay
    from ffnsearch_indexer.fidelity.calibrate import calibrate as run_calibration
    from ffnsearch_indexer.store.datastore import Datastore
    from ffnsearch_indexer.store.snapshot import read_manifest

    try:
        with Datastore.open(snapshot, check="sizes") as datastore, ProgressDisplay() as display:
            run_calibration(Predictor(datastore), prompts=prompts, save=True, progress=display)
    except KeyboardInterrupt:
        typer.echo(f"stopped: {snapshot} is whole, but not calibrated: ffnsearch calibrate {snapshot}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    return read_manifest(snapshot)


def verify(
    snapshot: Annotated[Path, typer.Argument(help="A snapshot directory.", show_default=False)], as_json: AsJson = False
) -> None:
    """Read every byte of a snapshot and compare it with its manifest."""
    from ffnsearch_indexer.store.datastore import Datastore

    started = time.monotonic()
    with Datastore.open(snapshot, check="all") as datastore:
        manifest = datastore.manifest
    seconds = time.monotonic() - started
    result = {
        "snapshot": str(snapshot),
        "snapshot_id": manifest.snapshot_id,
        "files": len(manifest.files),
        "bytes": manifest.total_bytes(),
        "seconds": seconds,
    }
    line = f"{snapshot} is whole: {len(manifest.files)} files, {manifest.total_bytes():,} bytes, {seconds:.1f} s"
    _print(as_json, result, [line, f"snapshot id {manifest.snapshot_id}"])


def evaluate(
    snapshot: Annotated[Path, typer.Argument(help="A snapshot directory.", show_default=False)],
    protocol: Annotated[
        list[Protocol] | None,
        typer.Option(help="How to measure; repeat for several.", show_default="all that the snapshot allows"),
    ] = None,
    prompts: Annotated[int, typer.Option(help="Most prompts to measure with.", min=1)] = 20_000,
    seed: Annotated[
        int | None, typer.Option(help="Seed of their selection.", min=0, show_default="the article's, 1337")
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(help="One of the snapshot's profiles; repeat for several.", show_default="all"),
    ] = None,
    sister: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of another model, whose distance is the noise floor; repeat for several."),
    ] = None,
    trained_on: Annotated[
        str | None, typer.Option(help="The corpus that the model was trained on.", show_default="the snapshot's")
    ] = None,
    backend: Annotated[str, typer.Option(help="What searches: exact, or faiss.")] = "exact",
    no_save: Annotated[bool, typer.Option("--no-save", help="Leave the snapshot's manifest as it is.")] = False,
    as_json: AsJson = False,
    skip_verify: Annotated[
        bool, typer.Option("--skip-verify", help="Do not read and hash the whole snapshot first.")
    ] = False,
) -> None:
    """Measure how close a snapshot's answers are to its model's own distributions, and keep that in its manifest.

    A measurement that was stopped is continued by the same command.
    """
    from ffnsearch_indexer.answer.predictor import Predictor
    from ffnsearch_indexer.console import ProgressDisplay
    from ffnsearch_indexer.corpora.corpus import read_corpus
    from ffnsearch_indexer.fidelity import evaluate as evaluating
    from ffnsearch_indexer.fidelity.table import table_lines
    from ffnsearch_indexer.store.datastore import Datastore

    documents = {}
    works = [evaluating.work_folder(snapshot, each) for each in Protocol]
    with _resumable(*works), Datastore.open(snapshot, check="sizes" if skip_verify else "all") as datastore:
        protocols = choose_protocols(datastore.manifest.split, protocol or [])
        profiles = evaluating.choose_profiles(datastore.manifest, profile or [])
        corpus = read_corpus(trained_on) if trained_on else None
        predictor = Predictor(datastore, backend=backend)
        measurements = [
            evaluating.prepare(
                predictor, each, profiles, prompts=prompts, seed=seed, sisters=sister or [], trained_on=corpus
            )
            for each in protocols
        ]
        with ProgressDisplay() as display, ExitStack() as running:  # none's work goes before the last one's is done
            for measurement in measurements:
                evaluation = running.enter_context(measurement.run(save=not no_save, progress=display))
                documents[measurement.protocol.key] = evaluation.document
    tables = "\n\n".join("\n".join(table_lines(document)) for document in documents.values())
    _print(as_json, documents, [tables])


def calibrate(
    snapshot: Annotated[Path, typer.Argument(help="A snapshot directory.", show_default=False)],
    prompts: Annotated[int, typer.Option(help="Most prompts to calibrate with.", min=1)] = 8000,
    seed: Annotated[int, typer.Option(help="Seed of the order in which prompts are fitted.", min=0)] = 0,
    backend: Annotated[str, typer.Option(help="What searches: exact, or faiss.")] = "exact",
    no_save: Annotated[bool, typer.Option("--no-save", help="Leave the snapshot's manifest as it is.")] = False,
    as_json: AsJson = False,
    skip_verify: Annotated[
        bool, typer.Option("--skip-verify", help="Do not read and hash the whole snapshot first.")
    ] = False,
) -> None:
    """Find the thresholds and weights with which a snapshot's answers are nearest to its model's, and keep them.

    The profiles `fast`, `balanced` (the new default) and `best` differ in how much a search touches; `one-step` and
    `sum` are the best of their form. Earlier measurements of the snapshot go: measure again with `ffnsearch evaluate`,
    on prompts that no calibration sees. A calibration that was stopped is continued by the same command.
    """
    from ffnsearch_indexer.answer.predictor import Predictor
    from ffnsearch_indexer.console import ProgressDisplay
    from ffnsearch_indexer.fidelity import calibrate as calibrating
    from ffnsearch_indexer.fidelity.table import ladder_lines
    from ffnsearch_indexer.store.datastore import Datastore

    work = calibrating.work_folder(snapshot)
    with _resumable(work), Datastore.open(snapshot, check="sizes" if skip_verify else "all") as datastore:
        predictor = Predictor(datastore, backend=backend)
        with ProgressDisplay() as display:
            found = calibrating.calibrate(predictor, prompts=prompts, seed=seed, save=not no_save, progress=display)
    profiles = {name: profile.to_json() for name, profile in found.profiles.items()}
    lines = [*ladder_lines(found.document), "", f"next: ffnsearch evaluate {snapshot}"]
    _print(as_json, {**found.document, "profiles": profiles}, lines)


def report(
    snapshot: Annotated[Path, typer.Argument(help="A snapshot directory.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="The folder to write.", show_default="SNAPSHOT-report, beside the snapshot")
    ] = None,
    backend: Annotated[str, typer.Option(help="What searches: exact, or faiss.")] = "exact",
    as_json: AsJson = False,
    skip_verify: Annotated[
        bool, typer.Option("--skip-verify", help="Do not read and hash the whole snapshot first.")
    ] = False,
) -> None:
    """Show what `evaluate` and `calibrate` found as one page: figures, tables, best and worst prompts explained.

    The figures are written beside the page as PNG too. An earlier report in the same folder is replaced.
    """
    from ffnsearch_indexer.answer.predictor import Predictor
    from ffnsearch_indexer.console import ProgressDisplay
    from ffnsearch_indexer.fidelity.report import writing
    from ffnsearch_indexer.store.datastore import Check, Datastore
    from ffnsearch_indexer.store.snapshot import read_manifest

    folder = out or writing.default_folder(snapshot)
    writing.require_measured(snapshot, read_manifest(snapshot))
    writing.require_free(folder)
    check: Check = "sizes" if skip_verify else "all"
    with _resumable(), Datastore.open(snapshot, check=check) as datastore, ProgressDisplay() as display:
        page, *figures = writing.write_report(Predictor(datastore, backend=backend), folder, progress=display)
    result = {"report": str(page), "figures": [str(path) for path in figures]}
    _print(as_json, result, [f"wrote {page}, with {len(figures)} figures beside it as PNG"])


def train(
    corpus: CorpusOption,
    out: OutOption,
    seed: Annotated[int, typer.Option(help="Seed of weights, windows and dropout.", min=0)] = 1,
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
    with _resumable(out), ProgressDisplay() as display:
        record = run_training(text, tokenizer, config, settings, out, start=start, device=device, progress=display)
    result = {
        "model": str(out),
        "train_loss": record.final_train_loss,
        "validation_loss": record.final_validation_loss,
        "seconds": record.seconds,
    }
    losses = f"loss {record.final_train_loss:.4f} in training, {record.final_validation_loss:.4f} in validation"
    _print(
        as_json,
        result,
        [f"trained {out}: {losses}", f"next: ffnsearch build --corpus {corpus} --model {out} --out {out}.ffn"],
    )


def _plan_lines(plan: Any) -> list[str]:
    resumed = f", {plan.shards_done} of {plan.shards} shards are there already" if plan.shards_done else ""
    return [
        f"{plan.substrings:,} substrings with {plan.distinct_prefixes:,} distinct prefixes{resumed}",
        f"about {plan.seconds / 60:.1f} minutes, {plan.memory_bytes / 1e9:.1f} GB of memory, "
        f"{plan.disk_bytes / 1e9:.2f} GB of disk while building, {plan.snapshot_bytes / 1e9:.2f} GB in the end",
    ]


@contextmanager
def _resumable(*kept: Path) -> Iterator[None]:
    """Say, when the user stops the work, what is left of it, and where, and how it is continued."""
    try:
        yield
    except KeyboardInterrupt:
        begun = " and ".join(str(path) for path in kept if path.exists())
        left = f"what is done is in {begun}; the same command continues it" if begun else "nothing was written"
        typer.echo(f"stopped: {left}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _print(as_json: bool, result: dict[str, Any], lines: list[str]) -> None:
    typer.echo(json.dumps(result, indent=1) if as_json else "\n".join(lines))

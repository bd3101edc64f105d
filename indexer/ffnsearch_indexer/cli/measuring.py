"""The subcommands about fidelity: calibrate, evaluate, report."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ffnsearch_indexer.cli.options import (
    SEED_MAX,
    AsJson,
    Backend,
    Device,
    NoSave,
    SkipVerify,
    Snapshot,
    command,
    opened,
    print_result,
    resumable,
)
from ffnsearch_indexer.fidelity.defaults import CALIBRATION_PROMPTS, EVALUATION_PROMPTS
from ffnsearch_indexer.fidelity.protocols import Protocol, choose_protocols


def calibrate(
    snapshot: Snapshot,
    prompts: Annotated[int, typer.Option(help="Most prompts to calibrate with.", min=1)] = CALIBRATION_PROMPTS,
    seed: Annotated[int, typer.Option(help="Seed of the order in which prompts are fitted.", min=0, max=SEED_MAX)] = 0,
    backend: Backend = "auto",
    device: Device = "auto",
    no_save: NoSave = False,
    as_json: AsJson = False,
    skip_verify: SkipVerify = False,
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

    work = calibrating.calibration_folder(snapshot)
    with resumable(work), opened(snapshot, skip_verify=skip_verify) as datastore:
        predictor = Predictor(datastore, backend=backend, device=device)
        with ProgressDisplay() as display:
            found = calibrating.calibrate(predictor, prompts=prompts, seed=seed, save=not no_save, progress=display)
    profiles = {name: profile.to_json() for name, profile in found.profiles.items()}
    lines = [*ladder_lines(found.document), "", f"next: {command('evaluate', snapshot)}"]
    print_result(as_json, {**found.document, "profiles": profiles}, lines)


def evaluate(
    snapshot: Snapshot,
    protocol: Annotated[
        list[Protocol] | None,
        typer.Option(
            help="How to measure; repeat for several.", show_default="all that the snapshot allows and has prompts for"
        ),
    ] = None,
    prompts: Annotated[int, typer.Option(help="Most prompts to measure with.", min=1)] = EVALUATION_PROMPTS,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of their selection.", min=0, max=SEED_MAX, show_default="the article's, 1337"),
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
        str | None,
        typer.Option(
            help="The corpus that the model was trained on.", show_default="the snapshot's, where its record says so"
        ),
    ] = None,
    backend: Backend = "auto",
    device: Device = "auto",
    no_save: NoSave = False,
    as_json: AsJson = False,
    skip_verify: SkipVerify = False,
) -> None:
    """Measure how close a snapshot's answers are to its model's own distributions, and keep that in its manifest.

    A measurement that was stopped is continued by the same command.
    """
    from ffnsearch_indexer.answer.predictor import Predictor
    from ffnsearch_indexer.answer.profile import choose_profiles
    from ffnsearch_indexer.console import ProgressDisplay
    from ffnsearch_indexer.corpora.corpus import read_corpus
    from ffnsearch_indexer.fidelity import evaluate as evaluating
    from ffnsearch_indexer.fidelity.table import table_lines

    documents = {}
    works = [evaluating.measurement_folder(snapshot, each) for each in Protocol]
    with resumable(*works), opened(snapshot, skip_verify=skip_verify) as datastore:
        protocols = choose_protocols(datastore.manifest.split, protocol or [])
        profiles = choose_profiles(datastore.manifest.profiles, profile or [])
        corpus = read_corpus(trained_on) if trained_on else None
        predictor = Predictor(datastore, backend=backend, device=device)
        options: dict[str, Any] = dict(prompts=prompts, seed=seed, sisters=sister or [], trained_on=corpus)
        if protocol:
            measurements = [evaluating.prepare(predictor, each, profiles, **options) for each in protocols]
        else:
            say = partial(typer.echo, err=True)
            measurements = list(evaluating.prepare_possible(predictor, protocols, profiles, say=say, **options))
        with ProgressDisplay() as display, ExitStack() as running:  # none's work goes before the last one's is done
            for measurement in measurements:
                evaluation = running.enter_context(measurement.run(save=not no_save, progress=display))
                documents[measurement.protocol.key] = evaluation.document
    tables = "\n\n".join("\n".join(table_lines(document)) for document in documents.values())
    print_result(as_json, documents, [tables])


def report(
    snapshot: Snapshot,
    out: Annotated[
        Path | None, typer.Option(help="The folder to write.", show_default="SNAPSHOT-report, beside the snapshot")
    ] = None,
    backend: Backend = "auto",
    device: Device = "auto",
    as_json: AsJson = False,
    skip_verify: SkipVerify = False,
) -> None:
    """Show what `evaluate` and `calibrate` found as one page: figures, tables, best and worst prompts explained.

    The figures are written beside the page as PNG too. An earlier report in the same folder is replaced.
    """
    from ffnsearch_indexer.answer.predictor import Predictor
    from ffnsearch_indexer.console import ProgressDisplay
    from ffnsearch_indexer.fidelity.report import writing
    from ffnsearch_indexer.store.manifest import read_manifest

    folder = out or writing.default_folder(snapshot)
    writing.require_measured(snapshot, read_manifest(snapshot))
    writing.require_free(folder)
    with (
        resumable(folder),
        opened(snapshot, skip_verify=skip_verify) as datastore,
        ProgressDisplay() as display,
    ):
        page, *figures = writing.write_report(
            Predictor(datastore, backend=backend, device=device), folder, progress=display
        )
    result = {"report": str(page), "figures": [str(path) for path in figures]}
    print_result(as_json, result, [f"wrote {page}, with {len(figures)} figures beside it as PNG"])

"""What `build` and `index` do to a finished snapshot; where the user stops them, they leave it whole and say so."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ffnsearch_indexer.cli.options import EXIT_INTERRUPTED, command

if TYPE_CHECKING:
    from ffnsearch_indexer.additions.self_sums import SelfSumsPlan
    from ffnsearch_indexer.store.manifest import Manifest

RESUME = "the same command with --resume continues it"
"""What to do where a build was stopped after OUT was finished: other commands take other numbers of prompts."""


@contextmanager
def leaves_whole(snapshot: Path, rest: str) -> Iterator[None]:
    """Say, when the user stops the work, that the snapshot is whole, and what is not done."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"stopped: {snapshot} is whole{rest}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None


def calibrate_new(snapshot: Path, prompts: int, device: str, progress_json: Path | None) -> "Manifest":
    """Calibrate a snapshot that was just built; its new manifest."""
    from ffnsearch_indexer.answer.predictor import Predictor
    from ffnsearch_indexer.console import ProgressDisplay
    from ffnsearch_indexer.fidelity.calibrate import calibrate
    from ffnsearch_indexer.store.datastore import Datastore
    from ffnsearch_indexer.store.manifest import read_manifest

    with (
        leaves_whole(snapshot, f", but not calibrated; {RESUME}"),
        Datastore.open(snapshot, check="sizes") as datastore,
        ProgressDisplay(progress_json) as display,
    ):
        calibrate(Predictor(datastore, device=device), prompts=prompts, save=True, progress=display)
    return read_manifest(snapshot)


def evaluate_new(snapshot: Path, prompts: int, device: str, progress_json: Path | None) -> "Manifest":
    """Measure the default profile of a snapshot in every way that it allows and was not measured in; its manifest."""
    from ffnsearch_indexer.answer.predictor import Predictor
    from ffnsearch_indexer.answer.profile import choose_profiles
    from ffnsearch_indexer.console import ProgressDisplay
    from ffnsearch_indexer.fidelity import evaluate as evaluating
    from ffnsearch_indexer.fidelity.protocols import choose_protocols
    from ffnsearch_indexer.store.datastore import Datastore
    from ffnsearch_indexer.store.manifest import read_manifest

    with (
        leaves_whole(snapshot, f", but not measured; {RESUME}"),
        Datastore.open(snapshot, check="sizes") as datastore,
        ProgressDisplay(progress_json) as display,
    ):
        manifest, predictor = datastore.manifest, Predictor(datastore, device=device)
        profiles = choose_profiles(manifest.profiles, [manifest.default_profile])
        protocols = [
            protocol
            for protocol in choose_protocols(manifest.split, [])
            if protocol.key not in (manifest.fidelity or {})
        ]
        for measurement in evaluating.prepare_possible(
            predictor, protocols, profiles, say=display.say, prompts=prompts
        ):
            with measurement.run(save=True, progress=display):
                pass
    return read_manifest(snapshot)


def add_self_sums(snapshot: Path, profiles: list[str], backend: str, progress_json: Path | None = None) -> "Manifest":
    """Give a snapshot the self-sums of some profiles, of its default where none is named; its new manifest."""
    from ffnsearch_indexer.additions import self_sums
    from ffnsearch_indexer.answer.profile import choose_profiles
    from ffnsearch_indexer.console import ProgressDisplay
    from ffnsearch_indexer.store.manifest import read_manifest

    manifest = read_manifest(snapshot)
    chosen = choose_profiles(manifest.profiles, profiles or [manifest.default_profile])
    options = [option for name in profiles for option in ("--profile", name)]
    rest = f"; {command('index', snapshot, '--self-sums', *options)} continues its self-sums"
    with leaves_whole(snapshot, rest), ProgressDisplay(progress_json) as display:
        return self_sums.add_self_sums(
            snapshot,
            chosen,
            backend=backend,
            announce=lambda plan: display.say("\n".join(self_sums_lines(plan))),
            progress=display,
        )


def self_sums_lines(plan: "SelfSumsPlan") -> list[str]:
    """What self-sums will take, for a person."""
    from ffnsearch_indexer.files import size_in_words

    resumed = f", {plan.pieces_done} of {plan.pieces} pieces are there already" if plan.pieces_done else ""
    return [
        f"sums of {plan.substrings:,} substrings at {plan.thresholds} thresholds of all blocks{resumed}",
        f"about {plan.seconds / 60:.1f} minutes, {size_in_words(plan.disk_bytes)} of disk while they are made, "
        f"{size_in_words(plan.bytes)} in the end (estimated from a sample)",
    ]

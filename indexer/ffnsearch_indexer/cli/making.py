"""The subcommands that make and check snapshots: build, index, verify."""

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ffnsearch_indexer.cli.finishing import (
    RESUME,
    add_self_sums,
    calibrate_new,
    evaluate_new,
    leaves_whole,
    self_sums_lines,
)
from ffnsearch_indexer.cli.options import AsJson, Corpus, Faiss, Out, Snapshot, command, opened, print_result, resumable
from ffnsearch_indexer.corpora.corpus import Split
from ffnsearch_indexer.errors import BackendError, FfnSearchError
from ffnsearch_indexer.fidelity.defaults import FIRST_CALIBRATION_PROMPTS


class PrecisionName(StrEnum):
    """What the weights and products of a model on a GPU are."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


def build(
    corpus: Corpus,
    out: Out,
    model: Annotated[
        Path | None, typer.Option(help="Folder of a trained model.", show_default="the reference model")
    ] = None,
    split: Annotated[Split, typer.Option(help="Index the whole text, or its first nine tenths.")] = "all",
    window_tokens: Annotated[int, typer.Option(help="Length L of a substring, in tokens.", min=1)] = 10,
    device: Annotated[str, typer.Option(help="Where the model runs: auto, cpu, or cuda.")] = "auto",
    precision: Annotated[
        PrecisionName, typer.Option(help="Of the model, where it runs on a GPU: for keys, and for prompts later.")
    ] = PrecisionName.FLOAT32,
    estimate: Annotated[bool, typer.Option("--estimate", help="Say what the build will take, and stop.")] = False,
    calibration_prompts: Annotated[
        int, typer.Option(help="Prompts for a first calibration after the build; fewer than 50 for none.", min=0)
    ] = FIRST_CALIBRATION_PROMPTS,
    evaluation_prompts: Annotated[
        int, typer.Option(help="Prompts to measure its default profile with in the end; 0 for none.", min=0)
    ] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Where OUT is built already, only do what follows, unless it is done.")
    ] = False,
    self_sums: Annotated[
        bool,
        typer.Option("--self-sums", help="Keep the sums of all substrings: prompts from the corpus need no search."),
    ] = False,
    faiss: Faiss = None,
    progress_json: Annotated[
        Path | None,
        typer.Option(
            help="Append JSON lines {stage, done, total, detail}, and {error: {reason, message}}, to this file.",
            metavar="FILE",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build a snapshot: run the model over every unique substring of a corpus, and index what its FFNs give.

    Then calibrate it, so that its answers are near the model's own; `ffnsearch calibrate` takes more prompts. A build
    that was stopped is continued by the same command; with `--resume` also what follows when OUT is there.
    """
    from ffnsearch_indexer.additions.faiss import add_faiss
    from ffnsearch_indexer.build import finished, pipeline
    from ffnsearch_indexer.build.request import BuildRequest, is_there
    from ffnsearch_indexer.console import ProgressDisplay
    from ffnsearch_indexer.corpora.corpus import read_corpus
    from ffnsearch_indexer.fidelity import calibrate as calibrating
    from ffnsearch_indexer.files import size_in_words
    from ffnsearch_indexer.models import reference_folder
    from ffnsearch_indexer.store.faiss import kinds_of
    from ffnsearch_indexer.store.work import build_folder

    started, kinds = time.monotonic(), kinds_of(faiss)

    def request() -> BuildRequest:
        return BuildRequest(
            corpus=read_corpus(corpus),
            model_folder=model or reference_folder(),
            out=out,
            window_tokens=window_tokens,
            split=split,
            device=device,
            precision=precision.value,
            faiss=kinds,
        )

    if estimate:
        with resumable(), ProgressDisplay(progress_json) as display:
            plan = pipeline.estimate(request(), progress=display)
        return print_result(as_json, vars(plan), _plan_lines(plan, calibration_prompts))
    with resumable(build_folder(out)), ProgressDisplay(progress_json) as display:
        asked = request()
        if resume and is_there(out):
            manifest = finished.require_finished(asked)
            if manifest.trained_on is None:
                manifest = finished.add_training_text(asked)
        else:
            manifest = pipeline.build(
                asked,
                announce=lambda plan: display.say("\n".join(_plan_lines(plan, calibration_prompts))),
                progress=display,
            )
    is_calibrated = "calibration" in (manifest.fidelity or {})
    prompts = min(calibration_prompts, calibrating.most_prompts(manifest))
    if prompts >= calibrating.PROMPTS_MIN and not is_calibrated:
        manifest = calibrate_new(out, calibration_prompts, device, progress_json)
    elif calibration_prompts and not is_calibrated:
        typer.echo(f"not calibrated: {prompts} prompts, it takes {calibrating.PROMPTS_MIN}", err=True)
    if kinds:
        with leaves_whole(out, f", but lacks indexes of faiss'; {RESUME}"), ProgressDisplay(progress_json) as display:
            manifest = add_faiss(out, kinds, progress=display)
    if self_sums:
        manifest = add_self_sums(out, [], "tiles", progress_json)
    if evaluation_prompts:
        manifest = evaluate_new(out, evaluation_prompts, device, progress_json)
    seconds = time.monotonic() - started
    result = {
        "snapshot": str(out),
        "snapshot_id": manifest.snapshot_id,
        "substrings": manifest.substrings,
        "seconds": seconds,
    }
    line = f"built {out}: {manifest.substrings:,} substrings, {size_in_words(manifest.total_bytes())}, {seconds:.0f} s"
    print_result(as_json, result, [line, f"next: {command('info', out)}, or {command('predict', out, 'some text')}"])


def index(
    snapshot: Snapshot,
    self_sums: Annotated[
        bool | None,
        typer.Option(
            "--self-sums/--no-self-sums",
            help="Keep the sums of all substrings, so that prompts from the corpus need no search; or drop them.",
            show_default="as it is",
        ),
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            help="A profile whose thresholds these sums have; repeat for several.", show_default="its default"
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="What searches for these sums, on the CPU: auto, tiles, exact, or faiss.", show_default="tiles"
        ),
    ] = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="Say what --self-sums will take, and stop.")] = False,
    faiss: Faiss = None,
    as_json: AsJson = False,
) -> None:
    """Give a snapshot the tiles that it was built without; or, where options name them, self-sums or indexes of faiss'.

    Self-sums are searched for with tiles, which are made first where there are none. Nothing else changes but the
    snapshot's id. What was stopped is continued by the same command. After a calibration the sums of the new default
    profile are not there: the same command with --self-sums makes them.
    """
    from ffnsearch_indexer.additions.faiss import add_faiss
    from ffnsearch_indexer.additions.self_sums import drop_self_sums, estimate_self_sums
    from ffnsearch_indexer.additions.tiles import add_tiles
    from ffnsearch_indexer.answer.lookup import answered_by_lookup
    from ffnsearch_indexer.answer.profile import choose_profiles
    from ffnsearch_indexer.console import ProgressDisplay
    from ffnsearch_indexer.files import size_in_words
    from ffnsearch_indexer.store.faiss import FOLDERS, FaissPlan, kinds_of
    from ffnsearch_indexer.store.layout import SELF_SUMS_FOLDER, TILES_FOLDER
    from ffnsearch_indexer.store.manifest import read_manifest

    def announce(plan: FaissPlan) -> None:
        display.say(f"{plan.memory_bytes / 1e9:.1f} GB of memory, {size_in_words(plan.disk_bytes)} of disk")

    _require_purpose(self_sums, profile, backend, estimate, faiss)
    started, kinds, searched_by = time.monotonic(), kinds_of(faiss), backend or "tiles"
    needs_tiles = searched_by in ("tiles", "auto") if self_sums or estimate else not kinds and self_sums is None
    manifest = read_manifest(snapshot)
    if estimate:
        if needs_tiles and TILES_FOLDER not in manifest.parts:
            raise BackendError(
                f"{snapshot} has no tiles, and --self-sums makes them before it can be estimated: "
                f"run `{command('index', snapshot)}` first, or add --backend exact",
                reason="NO_TILES",
            )
        with resumable():
            chosen = choose_profiles(manifest.profiles, profile or [manifest.default_profile])
            plan = estimate_self_sums(snapshot, chosen, backend=searched_by)
        return print_result(as_json, vars(plan), self_sums_lines(plan))
    folders = [*([TILES_FOLDER] if needs_tiles else []), *(FOLDERS[kind] for kind in kinds)]
    with resumable(*(snapshot / folder for folder in folders)), ProgressDisplay() as display:
        if needs_tiles:
            manifest = add_tiles(snapshot, progress=display)
        if kinds:
            manifest = add_faiss(snapshot, kinds, announce=announce, progress=display)
    if self_sums:
        manifest = add_self_sums(snapshot, profile or [], searched_by)
    elif self_sums is False:
        manifest = drop_self_sums(snapshot)
    seconds = time.monotonic() - started
    result = {
        "snapshot": str(snapshot),
        "snapshot_id": manifest.snapshot_id,
        "bytes": manifest.total_bytes(),
        "profiles_answered_by_lookup": answered_by_lookup(snapshot, manifest),
        "seconds": seconds,
    }
    parts = " and ".join(sorted(manifest.parts, reverse=True)) or "no tiles"
    lines = [f"{snapshot} has {parts}: {size_in_words(manifest.total_bytes())} in all, {seconds:.0f} s"]
    if SELF_SUMS_FOLDER in manifest.parts:
        names = ", ".join(answered_by_lookup(snapshot, manifest)) or "none"
        lines.append(f"profiles with which prompts from its corpus need no search: {names}")
    print_result(as_json, result, lines)


def verify(snapshot: Snapshot, as_json: AsJson = False) -> None:
    """Read every byte of a snapshot and compare it with its manifest."""
    started = time.monotonic()
    with opened(snapshot) as datastore:
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
    print_result(as_json, result, [line, f"snapshot id {manifest.snapshot_id}"])


def _require_purpose(
    self_sums: bool | None, profile: list[str] | None, backend: str | None, estimate: bool, faiss: str | None
) -> None:
    """Refuse options of `index` that would do nothing."""
    for name, is_given in (("--profile", bool(profile)), ("--backend", backend is not None)):
        if is_given and not (self_sums or estimate):
            raise FfnSearchError(
                f"{name} only matters with --self-sums: add --self-sums, or drop {name}",
                reason="INVALID_REQUEST",
            )
    for name, is_given in (("--no-self-sums", self_sums is False), ("--faiss", faiss is not None)):
        if is_given and estimate:
            raise FfnSearchError(
                f"--estimate covers --self-sums only: drop it, or drop {name}",
                reason="INVALID_REQUEST",
            )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 60 else f"{seconds / 60:.1f} minutes"


def _plan_lines(plan: Any, calibration_prompts: int) -> list[str]:
    from ffnsearch_indexer.fidelity.calibrate import PROMPTS_MIN
    from ffnsearch_indexer.fidelity.selection import calibration_ids
    from ffnsearch_indexer.files import size_in_words

    follows = len(calibration_ids(plan.substrings, calibration_prompts)) >= PROMPTS_MIN
    calibration = " and what a calibration takes" if follows else ""
    resumed = f", {plan.shards_done} of {plan.shards} shards are there already" if plan.shards_done else ""
    return [
        f"{plan.substrings:,} substrings with {plan.distinct_prefixes:,} distinct prefixes{resumed}",
        f"about {_duration(plan.seconds)}{calibration}, {plan.memory_bytes / 1e9:.1f} GB of memory, "
        f"{size_in_words(plan.disk_bytes)} of disk while building, {size_in_words(plan.snapshot_bytes)} in the end",
    ]

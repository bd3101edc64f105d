"""What `bench` does to a snapshot: it measures how many prompts a second it answers on this machine."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ffnsearch_indexer.cli.options import opened, print_result, resumable

if TYPE_CHECKING:
    from ffnsearch_indexer.answer.speed import BatchSpeed

BATCHES = "1,16,64,512"
"""Prompts in a call where nobody says."""

PROMPTS = 512
"""Prompts to ask at each batch size where nobody says."""

BATCH_MAX = 65_536
"""Most prompts in a call: their sums and distributions are held together."""


def bench_snapshot(
    snapshot: Path,
    *,
    batches: str = BATCHES,
    backend: str = "auto",
    device: str = "auto",
    profile: str | None = None,
    prompts: int = PROMPTS,
    as_json: bool = False,
    skip_verify: bool = False,
) -> None:
    """Measure a snapshot, and print model, search, and both together.

    batches: prompts in a call, several separated by commas. profile: a name, None for the snapshot's default. Prompts
    are substrings of the corpus, the same in every run; a call never has one twice. The sums of some are compared with
    those of the backend `exact`, so that only right answers are timed; a backend that is approximate is timed as it is.
    """
    from ffnsearch_indexer.answer import speed
    from ffnsearch_indexer.answer.predictor import Predictor
    from ffnsearch_indexer.answer.profile import choose_profiles
    from ffnsearch_indexer.console import ProgressDisplay
    from ffnsearch_indexer.fidelity.selection import evaluation_ids

    sizes = _sizes(batches)
    with resumable(), opened(snapshot, skip_verify=skip_verify) as datastore:
        manifest = datastore.manifest
        (chosen,) = choose_profiles(manifest.profiles, [profile or manifest.default_profile])
        asked = list(datastore.substring_tokens()[evaluation_ids(manifest.substrings, max(prompts, *sizes))])
        if sizes[-1] > len(asked):
            typer.echo(f"no call has more than {len(asked):,} prompts: the snapshot has no more to ask", err=True)
            sizes = sorted({min(size, len(asked)) for size in sizes})
        with ProgressDisplay() as display:
            # the prompts are substrings: their sums would be read, not searched
            predictor = Predictor(datastore, backend=backend, device=device, self_sums=False)
            speeds = list(speed.measure(predictor, asked, chosen, sizes, progress=display))
    checked = 0 if predictor.approximate else min(len(asked), speed.CHECKED_PROMPTS)
    result = {
        "snapshot": str(snapshot),
        "snapshot_id": manifest.snapshot_id,
        "corpus": manifest.corpus_name,
        "substrings": manifest.substrings,
        "blocks": manifest.blocks,
        "backend": predictor.backend,
        "device": predictor.device,
        "approximate": predictor.approximate,
        "recall": predictor.recall,
        "profile": chosen.name,
        "prompts": len(asked),
        "prompts_compared_with_exact": checked,
        "cores": len(os.sched_getaffinity(0)),
        "batches": [of_batch.to_json() for of_batch in speeds],
    }
    heading = (
        f"{manifest.substrings:,} substrings of {manifest.corpus_name} in {manifest.blocks} blocks, "
        f"backend {predictor.backend} on {predictor.device}, profile {chosen.name}, {result['cores']} cores; "
    ) + (
        f"approximate: a query finds {predictor.recall:.1%} of its neighbors, in the measured mean"
        if predictor.approximate
        else f"the sums of {checked} prompts are those of exact"
    )
    print_result(as_json, result, [heading, "", *_table(speeds)])


def _sizes(batches: str) -> list[int]:
    """Batch sizes in ascending order, each once."""
    try:
        sizes = sorted({int(part) for part in batches.split(",")})
    except ValueError:
        sizes = []
    if not sizes or not 1 <= sizes[0] <= sizes[-1] <= BATCH_MAX:
        raise typer.BadParameter(f"{batches!r} is no list of numbers from 1 to {BATCH_MAX:,}", param_hint="--batch")
    return sizes


def _table(speeds: "list[BatchSpeed]") -> list[str]:
    """A line for each batch size, and how many neighbors were summed."""
    from ffnsearch_indexer.answer.speed import Times
    from ffnsearch_indexer.fidelity.table import aligned

    stages = Times._fields
    headings = ("prompts/s:", "together", *(f"{stage} alone" for stage in stages[:2]), "ms/prompt", *stages)
    rows = [
        (
            f"batch {of_batch.prompts_per_call:,}",
            f"{of_batch.together.prompts_per_second:,.1f}",
            *(f"{of_batch.alone(stage).prompts_per_second:,.1f}" for stage in stages[:2]),
            f"{of_batch.together.ms_per_prompt:,.2f}",
            *(f"{of_batch.alone(stage).share:.0%}" for stage in stages),
        )
        for of_batch in speeds
    ]
    neighbors = " ".join(f"{count:,.0f}" for count in speeds[-1].neighbors_by_block)
    return [*aligned([headings, *rows]), "", f"neighbors of a prompt, on average, block by block: {neighbors}"]

"""The subcommand about speed: bench, of a snapshot in this process or of a running service."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from ffnsearch_indexer.cli.options import EXIT_INTERRUPTED, AsJson, SkipVerify
from ffnsearch_indexer.cli.timing import BATCHES, PROMPTS, bench_snapshot
from ffnsearch_service.cli.servers import (
    ServerOptions,
    Target,
    access_of,
    is_directory,
    refuse_given,
    refuse_server_options,
    with_server_options,
)
from ffnsearch_service.errors import RequestError

if TYPE_CHECKING:
    from ffnsearch_service.load.service import LoadPlan

Number = TypeVar("Number", int, float)

SECONDS = 10.0
"""How long a level takes where nobody says: some hundred answers of a slow service."""

CALLERS = "1,8,64"
"""Levels where nobody says."""

RATE_MAX, CALLERS_MAX, LEVELS_MAX = 100_000, 10_000, 64
"""Most calls a second, most callers, and most of either in one command."""

CALLS_MAX = 10_000_000
"""Most calls at one rate: each is remembered until the level is summed up, in some 300 bytes."""


@with_server_options
def bench(
    target: Target,
    server: ServerOptions,
    batch: Annotated[
        str | None,
        typer.Option(help="Snapshot: prompts in a call; several, separated by commas.", show_default=BATCHES),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(help="Snapshot: what searches: auto, fused, tiles, exact, faiss, faiss-ivf.", show_default="auto"),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Snapshot: where model and search run: auto, cpu, or cuda.", show_default="auto")
    ] = None,
    prompts: Annotated[
        int | None,
        typer.Option(
            help="Snapshot: prompts to ask at each batch size, at least as many as the largest has.",
            min=1,
            show_default=str(PROMPTS),
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(help="Server: calls a second, whatever the answers; several, separated by commas."),
    ] = None,
    callers: Annotated[
        str | None,
        typer.Option(help="Server: callers that never pause; several, separated by commas.", show_default=CALLERS),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="Server: how long at each level.", min=0.1, max=3600, show_default=f"{SECONDS:g}"),
    ] = None,
    prompts_per_call: Annotated[
        int | None, typer.Option(help="Server: prompts in a call, none twice.", min=1, show_default="1")
    ] = None,
    arrivals: Annotated[
        Literal["poisson", "constant"] | None,
        typer.Option(help="Server: with --rate, how calls are spread.", show_default="poisson"),
    ] = None,
    connections: Annotated[
        int | None, typer.Option(help="Server: connections to take turns.", min=1, max=256, show_default="1")
    ] = None,
    prompts_file: Annotated[
        Path | None,
        typer.Option(help="Server: a prompt a line, or as JSON in a *.jsonl.", show_default="windows of a sonnet"),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="One of the snapshot's profiles.", show_default="its default")
    ] = None,
    as_json: AsJson = False,
    skip_verify: SkipVerify = False,
) -> None:
    """Measure how fast a snapshot is on this machine, or how fast a running service answers under load.

    Of a snapshot: prompts a second, for model, search, and both together. Prompts are substrings of the corpus, the
    same in every run; a call never has one twice. The sums of some are compared with those of the backend `exact`.

    Of a server: throughput, latency, and the stage times that its replies carry, at rates (latency counts from when a
    call was due) or to saturation by callers. Nothing is retried.
    """
    of_snapshot = {
        "--batch": batch,
        "--backend": backend,
        "--device": device,
        "--prompts": prompts,
        "--skip-verify": skip_verify or None,
    }
    of_server = {
        "--rate": rate,
        "--callers": callers,
        "--seconds": seconds,
        "--prompts-per-call": prompts_per_call,
        "--arrivals": arrivals,
        "--connections": connections,
        "--prompts-file": prompts_file,
    }
    if is_directory(target):
        refuse_given(of_server, f"is for a server, and {target} is a directory")
        refuse_server_options(target, server)
        bench_snapshot(
            Path(target),
            batches=batch or BATCHES,
            backend=backend or "auto",
            device=device or "auto",
            profile=profile,
            prompts=prompts or PROMPTS,
            as_json=as_json,
            skip_verify=skip_verify,
        )
        return
    refuse_given(of_snapshot, f"is for a snapshot directory, and {target} is a server")
    plan = _plan(rate, callers, seconds, prompts_per_call, arrivals, connections, profile, server)
    _bench_server(target, server, plan, prompts_file, as_json=as_json)


def _bench_server(
    target: str, server: ServerOptions, plan: "LoadPlan", prompts_file: Path | None, *, as_json: bool
) -> None:
    import asyncio

    from ffnsearch_indexer.console import ProgressDisplay
    from ffnsearch_service.load.service import measure_service
    from ffnsearch_service.show.as_json import print_json
    from ffnsearch_service.show.load import print_load

    try:
        with ProgressDisplay() as display:
            document = asyncio.run(
                measure_service(target, plan, access_of(server), prompts_file=prompts_file, progress=display)
            )
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    (print_json if as_json else print_load)(document)


def _plan(
    rate: str | None,
    callers: str | None,
    seconds: float | None,
    prompts_per_call: int | None,
    arrivals: Literal["poisson", "constant"] | None,
    connections: int | None,
    profile: str | None,
    server: ServerOptions,
) -> "LoadPlan":
    """What the options say about a load. Raises BadParameter for numbers out of range, RequestError for two ways."""
    from ffnsearch_service.load.service import LoadPlan

    if rate is not None and callers is not None:
        raise RequestError("--rate and --callers are two ways to load a server: choose one")
    if arrivals is not None and rate is None:
        raise RequestError("--arrivals is given without --rate, which it is for: add --rate, or leave it out")
    rates = _numbers(float, rate, "--rate", RATE_MAX) if rate is not None else []
    if max(rates, default=0.0) * (seconds or SECONDS) > CALLS_MAX:
        raise RequestError(
            f"--rate {rate} for {seconds or SECONDS:g} s makes more than {CALLS_MAX:,} calls: take less of either"
        )
    return LoadPlan(
        rates=rates,
        callers=[] if rate is not None else _numbers(int, callers or CALLERS, "--callers", CALLERS_MAX),
        seconds=seconds or SECONDS,
        prompts_per_call=prompts_per_call or 1,
        connections=connections or 1,
        arrivals=arrivals or "poisson",
        timeout_s=server.timeout_s,
        options={"profile": profile, "snapshot": server.snapshot},
    )


def _numbers(kind: Callable[[str], Number], text: str, option: str, most: float) -> list[Number]:
    """The levels of a load, in the order given."""
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= LEVELS_MAX or not all(0 < number <= most for number in numbers):
        raise typer.BadParameter(
            f"{text!r} is not a list of at most {LEVELS_MAX} numbers above 0 and up to {most:,.0f}", param_hint=option
        )
    return numbers

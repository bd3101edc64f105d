"""The command line `ffnsearch`: one subcommand after the other; each imports only what it needs."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from ffnsearch_indexer.cli import add_command, register
from ffnsearch_indexer.errors import FfnSearchError, ProfileError
from ffnsearch_service.errors import AddressError, RequestError, SettingsError

if TYPE_CHECKING:
    from ffnsearch_indexer.answer.profile import Profile
    from ffnsearch_service.client import Calls
    from ffnsearch_service.engine import Engine

EXIT_REFUSED = 2
"""Exit status for everything that the caller can mend: wrong arguments, files, addresses, prompts."""

Target = Annotated[str, typer.Argument(help="A snapshot directory, or HOST:PORT of a server.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Backend = Annotated[str, typer.Option(help="What searches: exact, or faiss.")]
Check = Literal["all", "sizes"]
ExcludeSelf = Annotated[bool, typer.Option("--exclude-self", help="Do not count the substring that equals the prompt.")]
ProfileName = Annotated[str | None, typer.Option(help="One of the snapshot's profiles; `info` lists them.")]
SkipVerify = Annotated[bool, typer.Option("--skip-verify", help="Do not read and hash the whole snapshot first.")]
TimeoutS = Annotated[float, typer.Option(help="Seconds that a call to a server may take.", min=0.001)]


def main() -> None:
    """Run the command line; one line on stderr and exit status 2 for every error of the tree."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what goes wrong is told once, by us
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads of torch made a search 1.6 times slower
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        make_app()(prog_name="ffnsearch")
    except FfnSearchError as error:
        _complain(error.message)
        sys.exit(EXIT_REFUSED)


def make_app() -> typer.Typer:
    """Put the subcommands of the indexer and of the service together."""
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        no_args_is_help=True,
        help="Search the FFN outputs of a transformer, and predict its next token from what is found.",
    )
    register(app)
    add_command(app, info, "shakespeare.ffn", "127.0.0.1:50051 --json")
    add_command(
        app,
        serve,
        "shakespeare.ffn",
        "plays=shakespeare.ffn novel.ffn --port 0 --backend faiss --threads 8",
        "--config ffnsearch.toml --check",
        "shakespeare.ffn --set metrics.port=9464 --set logging.format=json",
    )
    add_command(
        app,
        predict,
        "shakespeare.ffn 'And only l'",
        "127.0.0.1:50051 'hing tremb' 'my most gr' --top-n 5 --json",
        "shakespeare.ffn 'my most gr' --profile article --explain",
        "shakespeare.ffn 'my most gr' --profile-file mine.json",
        "two-blocks.ffn 'O Romeo, R' --threshold 0.9 --weight 1 --threshold 0.8 --weight 2",
    )
    add_command(
        app,
        neighbors,
        "shakespeare.ffn 'And only l' --block 4",
        "127.0.0.1:50051 'And only l' --block 5 --threshold 0.95 --limit 1000 --json",
        "shakespeare.ffn 'And only l' --block 4 --classes",
    )
    add_command(app, demo, "", "--out coriolanus.ffn")
    return app


def info(target: Target, as_json: AsJson = False, skip_verify: SkipVerify = False, timeout_s: TimeoutS = 30) -> None:
    """Tell what a snapshot or a server holds: corpus, model, profiles, fidelity, limits."""
    with _open(target, timeout_s=timeout_s, skip_verify=skip_verify) as calls:
        from ffnsearch_service.show import print_json
        from ffnsearch_service.show_info import print_info

        found = calls.info()
        (print_json if as_json else print_info)(found)


def serve(
    snapshots: Annotated[
        list[str] | None,
        typer.Argument(help="Snapshot directories; requests without a name go to the first.", metavar="[NAME=]PATH..."),
    ] = None,
    config_file: Annotated[
        Path | None, typer.Option("--config", help="A TOML file of settings.", metavar="FILE.toml")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0 takes a free one.", show_default="50051")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="What searches: tiles, exact, or faiss.", show_default="tiles")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads for the search.", show_default="all")] = None,
    skip_verify: SkipVerify = False,
    insecure_public: Annotated[
        bool, typer.Option("--insecure-public", help="Listen beyond this machine, unencrypted and open to anyone.")
    ] = False,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting, repeated.", metavar="SECTION.NAME=VALUE"),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Tell what would happen, and start nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --check: print JSON.")] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print a file of all settings, with their reasons.")
    ] = False,
) -> None:
    """Serve snapshots over gRPC until SIGTERM or Ctrl-C."""
    from ffnsearch_service import starting

    if print_config:
        from ffnsearch_service.settings.printing import default_toml

        print(default_toml(), end="")
        return
    flags = {
        "server.host": host,
        "server.port": port,
        "server.backend": backend,
        "server.threads": threads,
        "server.verify": "sizes" if skip_verify else None,
        "server.insecure_public": insecure_public or None,
    }
    try:
        loaded = starting.gather(snapshots or [], config_file, flags, assignments or [])
    except SettingsError as error:
        _refuse(error.problems)
    if check:
        from ffnsearch_service.settings import checking

        found = checking.check(loaded)
        starting.print_findings(found, as_json=as_json)
        return _refuse(found.problems) if found.problems else None
    starting.limit_threads(loaded.config.threads)
    from ffnsearch_service.server import run

    run(loaded.config, _announce)


def predict(
    target: Target,
    prompts: Annotated[
        list[str], typer.Argument(help="Text to continue; several are answered together.", metavar="PROMPT")
    ],
    profile: ProfileName = None,
    profile_file: Annotated[
        Path | None,
        typer.Option(help="A JSON file with a profile, as `info --json` prints them.", metavar="FILE.json"),
    ] = None,
    threshold: Annotated[
        list[float] | None, typer.Option(help="A threshold for each block, repeated, in order; with as many --weight.")
    ] = None,
    weight: Annotated[list[float] | None, typer.Option(help="A weight for each block, repeated, in order.")] = None,
    exclude_self: ExcludeSelf = False,
    top_n: Annotated[int, typer.Option(help="Most tokens to list.", min=1)] = 10,
    min_prob: Annotated[float, typer.Option(help="Least probability to list, in [0, 1].")] = 0.0,
    explain: Annotated[bool, typer.Option("--explain", help="Add what each block contributes to a token.")] = False,
    as_json: AsJson = False,
    backend: Backend = "tiles",
    skip_verify: SkipVerify = False,
    timeout_s: TimeoutS = 30,
) -> None:
    """Predict the next token: the model's own distribution and the approximation, side by side."""
    chosen = _profile(profile, profile_file, threshold or [], weight or [])
    with _open(target, backend=backend, timeout_s=timeout_s, skip_verify=skip_verify) as calls:
        from ffnsearch_service import show

        answer = calls.predict(
            prompts,
            profile=chosen,
            exclude_self=exclude_self,
            top_n=top_n,
            min_prob=min_prob,
            include_model=True,
            include_contributions=explain,
        )
        if as_json:
            show.print_json(answer)
        else:
            show.print_prediction(prompts, answer, explain=explain)
    failures = [result.error for result in answer.results if result.error is not None]
    for failure in failures:
        _complain(failure.message)
    if failures:
        raise typer.Exit(EXIT_REFUSED)


def neighbors(
    target: Target,
    prompt: Annotated[str, typer.Argument(help="Text whose neighbors are wanted.", show_default=False)],
    block: Annotated[int, typer.Option(help="Block of the model, from 0.", show_default=False)],
    threshold: Annotated[
        float | None, typer.Option(help="Least score, exclusive, in [-1, 1].", show_default="the profile's")
    ] = None,
    profile: ProfileName = None,
    exclude_self: ExcludeSelf = False,
    classes: Annotated[
        bool, typer.Option("--classes", help="Explain them: list the endings that are wholly or mostly above.")
    ] = False,
    min_share: Annotated[
        float | None,
        typer.Option(help="With --classes: least share of an ending that is above, in (0, 1].", show_default="0.5"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Most neighbors or classes to list.", min=1, show_default="20, or 10 classes")
    ] = None,
    as_json: AsJson = False,
    backend: Backend = "tiles",
    skip_verify: SkipVerify = False,
    timeout_s: TimeoutS = 30,
) -> None:
    """List the evidence: the substrings of one block above a threshold, best first, or what they have in common."""
    if min_share is not None and not classes:
        raise RequestError("--min-share is given without --classes, which it is for: add --classes, or leave it out")
    with _open(target, backend=backend, timeout_s=timeout_s, skip_verify=skip_verify) as calls:
        from ffnsearch_service import show
        from ffnsearch_service.asking import SearchOptions
        from ffnsearch_service.config import MIN_SHARE_DEFAULT
        from ffnsearch_service.evidence import collect

        options: SearchOptions = {"exclude_self": exclude_self, "profile_name": profile or ""}
        if threshold is not None:
            options["threshold"] = threshold
        if classes:
            least = MIN_SHARE_DEFAULT if min_share is None else min_share
            explained = calls.classes(prompt, block, classes_max=limit or 0, min_share=least, **options)
            (show.print_json if as_json else show.print_classes)(explained)
        else:
            found = collect(calls, prompt, block, limit=limit or 20, **options)
            (show.print_json if as_json else show.print_evidence)(found)


def demo(
    out: Annotated[
        Path | None, typer.Option(help="Where the snapshot goes, or is already.", show_default="a temporary folder")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the temporary folder.")] = False,
) -> None:
    """Show ffnsearch at work: index one play, serve it, and ask the server for predictions and their evidence."""
    from ffnsearch_service.demo import run_demo

    run_demo(out, keep=keep)


def _open(target: str, *, timeout_s: float, skip_verify: bool, backend: str = "tiles") -> "Calls":
    """Open a snapshot directory in this process, or call a server."""
    if Path(target).is_dir():
        from ffnsearch_service.local import LocalClient

        return LocalClient.open(Path(target), backend=backend, check=_check(skip_verify))
    if not re.fullmatch(r"\S+:\d{1,5}", target):
        raise AddressError(
            f"there is no snapshot at {target}: give the directory of one, or HOST:PORT of a server",
            reason="TARGET_NOT_FOUND",
        )
    from ffnsearch_service.client import Client

    return Client(target, timeout_s=timeout_s)


def _profile(
    name: str | None, file: Path | None, thresholds: Sequence[float], weights: Sequence[float]
) -> "Profile | str | None":
    """The profile that the options choose, None for the default one."""
    given = {
        "--profile": name is not None,
        "--profile-file": file is not None,
        "--threshold or --weight": bool(thresholds or weights),
    }
    ways = [way for way, is_given in given.items() if is_given]
    if len(ways) > 1:
        raise ProfileError(f"{ways[0]} is given, and {ways[1]} too: choose one way")
    if file is not None:
        from ffnsearch_service.profiles import load_profile

        return load_profile(file)
    if thresholds or weights:
        from ffnsearch_indexer.answer.profile import one_step

        return one_step("", thresholds, weights)
    return name


def _check(skip_verify: bool) -> Check:
    return "sizes" if skip_verify else "all"


def _announce(address: str, engine: "Engine") -> None:
    found = engine.get_info()
    print(
        f"serving {address}: snapshot {found.snapshot.id[:12]}, {found.snapshot.substrings:,} substrings, "
        f"backend {found.backend}; call it with: ffnsearch predict {address} 'some text'",
        flush=True,
    )


def _refuse(problems: Sequence[str]) -> NoReturn:
    """Tell every problem in a line of its own, and end."""
    for problem in problems:
        _complain(problem)
    raise typer.Exit(EXIT_REFUSED)


def _complain(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)


if __name__ == "__main__":
    main()

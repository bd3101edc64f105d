"""The command line `ffnsearch`: one subcommand after the other; each imports only what it needs."""

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from ffnsearch_indexer.cli import add_command, register
from ffnsearch_indexer.cli.options import EXIT_INTERRUPTED, SkipVerify
from ffnsearch_indexer.errors import FfnSearchError
from ffnsearch_service.cli.admin import make_admin_app
from ffnsearch_service.cli.asking import info, neighbors, predict
from ffnsearch_service.cli.bench import bench
from ffnsearch_service.cli.refusing import EXIT_REFUSED, complain, in_options, refuse
from ffnsearch_service.cli.tokens import register_tokens
from ffnsearch_service.errors import AbsentError, RequestError, SettingsError, StateError
from ffnsearch_service.version import software_version

if TYPE_CHECKING:
    from ffnsearch_service.answering.engine import Engine


def main() -> None:
    """Run the command line; one line on stderr and exit status 2 for every error of the tree, and a full disk."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # errors are printed once, by us
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads of torch made a search 1.6 times slower
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        try:
            make_app()(prog_name="ffnsearch")
        finally:
            sys.stdout.flush()
    except OSError as error:
        _end_output(error)
    except FfnSearchError as error:
        complain(in_options(error))
        sys.exit(EXIT_REFUSED)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _end_output(error: OSError) -> NoReturn:
    """Exit where nobody reads the output any more, or a disk is full; raise every other error."""
    from ffnsearch_indexer.files import is_full

    is_unread = error.errno == errno.EPIPE
    if not (is_unread or is_full(error)):
        raise error
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is still to be written
    if is_unread:
        sys.exit(1)
    where = f"for {error.filename}" if error.filename else "where the output goes"
    complain(f"no space is left {where}: free some, or let it go elsewhere")
    sys.exit(EXIT_REFUSED)


def _open_closed_streams() -> None:
    """Open closed standard streams on the null device: else the next files to be opened would take their places."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, os.fdopen(number, mode))


def make_app() -> typer.Typer:
    """Put the subcommands of the indexer and of the service together."""
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        no_args_is_help=True,
    )
    app.callback()(common)
    register(app)
    add_command(app, info, "shakespeare.ffn", "127.0.0.1:50051 --json")
    add_command(
        app,
        serve,
        "shakespeare.ffn",
        "plays=shakespeare.ffn novel.ffn --port 0 --backend faiss --threads 8",
        "--config ffnsearch.toml --check",
        "shakespeare.ffn --device cuda",
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
        "127.0.0.1:50051 --prompts-file prompts.txt --jsonl > answers.jsonl",
        "search.example:443 'And only l' --ca-file ca.pem --token-file token --snapshot plays",
    )
    add_command(
        app,
        neighbors,
        "shakespeare.ffn 'And only l' --block 4",
        "127.0.0.1:50051 'And only l' --block 5 --threshold 0.95 --limit 1000 --json",
        "127.0.0.1:50051 'And only l' --block 5 --limit 100000 --places-max 0 --jsonl > neighbors.jsonl",
        "shakespeare.ffn 'And only l' --block 4 --classes",
    )
    add_command(
        app,
        bench,
        "shakespeare.ffn",
        "shakespeare.ffn --batch 1,8,64 --backend exact --profile article --json",
        "127.0.0.1:50051 --callers 1,8,64 --prompts-per-call 16",
        "127.0.0.1:50051 --rate 50,100,200 --seconds 30 --json",
    )
    add_command(app, demo, "", "--out coriolanus.ffn")
    register_tokens(app)
    app.add_typer(make_admin_app(), name="admin")
    return app


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"ffnsearch {software_version()}")
        raise typer.Exit


def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version, and end.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Search the FFN outputs of a transformer, and predict its next token from what is found."""


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
        str | None,
        typer.Option(help="What searches: auto, fused, tiles, exact, faiss, or faiss-ivf.", show_default="auto"),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Where model and search run: auto, cpu, or cuda.", show_default="auto")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads for the model and the search.", show_default="all")
    ] = None,
    skip_verify: SkipVerify = False,
    insecure_public: Annotated[
        bool,
        typer.Option(
            "--insecure-public",
            help="Allow --host and metrics.host to be reached from other machines without TLS and tokens.",
        ),
    ] = False,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting, repeated.", metavar="SECTION.NAME=VALUE"),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Report what would happen, and start nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --check: print JSON.")] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print a file of all settings, with their reasons.")
    ] = False,
) -> None:
    """Serve snapshots over gRPC until SIGTERM, SIGHUP or Ctrl-C."""
    from ffnsearch_service.cli import starting

    if as_json and not check:
        raise RequestError("--json is for --check: add that, or leave it out")
    if print_config:
        from ffnsearch_service.settings.printing import default_toml

        print(default_toml(), end="")
        return
    flags = {
        "server.host": host,
        "server.port": port,
        "server.backend": backend,
        "server.device": device,
        "server.threads": threads,
        "server.verify": "sizes" if skip_verify else None,
        "server.insecure_public": insecure_public or None,
    }
    try:
        loaded = starting.gather(snapshots or [], config_file, flags, assignments or [])
    except SettingsError as error:
        refuse(error.problems)
    if check:
        from ffnsearch_service.settings import checking

        found = checking.check(loaded)
        starting.print_findings(found, as_json=as_json)
        return refuse(found.problems) if found.problems else None
    starting.limit_threads(loaded.config.threads)
    from ffnsearch_service.hosting import run

    run(loaded.config, _announce)


def demo(
    out: Annotated[
        Path | None, typer.Option(help="Where the snapshot goes, or is already.", show_default="a temporary folder")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the temporary folder.")] = False,
) -> None:
    """Show ffnsearch at work: index one play, serve it, and ask the server for predictions and their evidence."""
    from ffnsearch_service.demo import run_demo

    run_demo(out, keep=keep)


def _announce(address: str, engine: "Engine") -> None:
    try:
        found = engine.get_info()
    except (AbsentError, StateError) as error:  # an administrator can still give it one
        print(f"serving {address}: {error.message}; see: ffnsearch admin --help", flush=True)
        return
    print(
        f"serving {address}: snapshot {found.snapshot.id[:12]}, {found.snapshot.substrings:,} substrings, "
        f"backend {found.backend}; call it with: ffnsearch predict {address} 'some text'",
        flush=True,
    )

"""What the subcommands share: options, how a result is printed, and what is said where the user stops one."""

import json
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ffnsearch_indexer.store.datastore import Check, Datastore

Corpus = Annotated[
    str,
    typer.Option(
        "--corpus", help="A UTF-8 text file, a folder of .txt files, or the built-in `shakespeare`.", show_default=False
    ),
]
Out = Annotated[
    Path, typer.Option("--out", help="The folder to write; new, or begun by the same command.", show_default=False)
]
Snapshot = Annotated[Path, typer.Argument(help="A snapshot directory.", show_default=False)]
Backend = Annotated[str, typer.Option(help="What searches: auto, fused, tiles, exact, faiss, or faiss-ivf.")]
Device = Annotated[str, typer.Option(help="Where model and search run: auto, cpu, or cuda.")]
Faiss = Annotated[
    str | None,
    typer.Option(
        help="Add an index of faiss', in its own format: flat, ivf, or flat,ivf. Flat is exact; ivf misses neighbors.",
        metavar="KIND",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
NoSave = Annotated[bool, typer.Option("--no-save", help="Leave the snapshot's manifest as it is.")]
SkipVerify = Annotated[bool, typer.Option("--skip-verify", help="Do not read and hash the whole snapshot first.")]

SEED_MAX = 2**63 - 1
"""Largest seed that every library takes."""

EXIT_INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it: 128 and the number of SIGINT."""


def add_command(app: typer.Typer, command: Callable[..., None], *examples: str) -> None:
    """Add a subcommand; its help ends in examples, whose lines stay as they are."""
    app.command(epilog=epilog(f"{command.__name__} {example}" for example in examples))(command)


def epilog(examples: Iterable[str]) -> str:
    """The end of a subcommand's help: examples of what follows `ffnsearch`, a line each."""
    lines = (f"  ffnsearch {example}".rstrip() for example in examples)
    return "\n".join(("\b", "Examples:", *lines))  # \b: do not fill these lines


@contextmanager
def resumable(*kept: Path) -> Iterator[None]:
    """Say, when the user stops the work, what is kept of it, where, and how it is continued."""
    try:
        yield
    except KeyboardInterrupt:
        begun = " and ".join(str(path) for path in kept if path.exists())
        left = f"what is done is in {begun}; the same command continues it" if begun else "nothing was written"
        typer.echo(f"stopped: {left}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None


@contextmanager
def opened(snapshot: Path, *, skip_verify: bool = False) -> Iterator["Datastore"]:
    """Open a snapshot, and show how much of it has been read."""
    from ffnsearch_indexer.console import ProgressDisplay
    from ffnsearch_indexer.store.datastore import Datastore

    with ProgressDisplay(passing=True) as display:
        datastore = Datastore.open(snapshot, check=check(skip_verify), progress=display)
    with datastore:
        yield datastore


def check(skip_verify: bool) -> "Check":
    """How thoroughly a snapshot is looked at when it is opened."""
    return "sizes" if skip_verify else "all"


def command(*arguments: object) -> str:
    """What to type to run a subcommand, quoted as a shell wants it."""
    return shlex.join(["ffnsearch", *map(str, arguments)])


def print_result(as_json: bool, result: dict[str, Any], lines: list[str]) -> None:
    """Print a result for a program, or lines for a person."""
    typer.echo(json.dumps(result, indent=2) if as_json else "\n".join(lines))

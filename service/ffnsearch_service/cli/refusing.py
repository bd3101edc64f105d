"""How the command line says no: one line on stderr, and an exit status."""

import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from ffnsearch_service.show.terminal import harmless

EXIT_REFUSED = 2
"""Exit status for everything that the caller can mend: wrong arguments, files, addresses, prompts."""


def complain(message: str) -> None:
    """Print what is wrong on stderr, in one line."""
    print(f"error: {harmless(' '.join(message.split()))}", file=sys.stderr)


def refuse(problems: Sequence[str]) -> NoReturn:
    """Print every problem in a line of its own, and exit."""
    for problem in problems:
        complain(problem)
    raise typer.Exit(EXIT_REFUSED)

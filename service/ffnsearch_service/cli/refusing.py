"""How the command line says no: one line on stderr, and an exit status."""

import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from ffnsearch_indexer.errors import FfnSearchError
from ffnsearch_service.errors import ServiceError
from ffnsearch_service.show.terminal import harmless

EXIT_REFUSED = 2
"""Exit status for everything that the caller can mend: wrong arguments, files, addresses, prompts."""

_SAME_NAMES = (
    *("block", "threshold", "min_prob", "min_share", "top_n", "context_tokens", "places_max", "snapshot"),
    *("corpus", "model", "split", "window_tokens", "calibration_prompts", "evaluation_prompts", "alias", "etag"),
)
_OPTION_OF = {name: f"--{name.replace('_', '-')}" for name in _SAME_NAMES} | {
    "profile_name": "--profile",
    "classes_max": "--limit",
}
"""The option of the command line that sets a field of a request."""


def in_options(error: FfnSearchError) -> str:
    """What an error says, with the option at fault in place of the field of the request."""
    field = error.field if isinstance(error, ServiceError) else error.metadata.get("field", "")
    option = _OPTION_OF.get(field)
    return option + error.message.removeprefix(field) if option and error.message.startswith(field) else error.message


def complain(message: str) -> None:
    """Print what is wrong on stderr, in one line."""
    print(f"error: {harmless(' '.join(message.split()))}", file=sys.stderr)


def refuse(problems: Sequence[str]) -> NoReturn:
    """Print every problem in a line of its own, and exit."""
    for problem in problems:
        complain(problem)
    raise typer.Exit(EXIT_REFUSED)

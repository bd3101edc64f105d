"""How any result looks to a program."""

import json
import sys
from collections.abc import Iterable
from typing import Any

from ffnsearch_service.client.results import plain


def print_json(value: Any) -> None:
    """Print a result as JSON; its keys are the names of the result's fields."""
    print(json.dumps(plain(value), indent=2))


def print_json_lines(values: Iterable[Any]) -> None:
    """Print each result as a line of JSON, and let whoever reads the lines have them."""
    for value in values:
        print(json.dumps(plain(value)))
    sys.stdout.flush()

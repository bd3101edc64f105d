"""How any result looks to a program."""

import json
from typing import Any

from ffnsearch_service.client.results import plain


def print_json(value: Any) -> None:
    """Print a result as JSON; its keys are the names of the result's fields."""
    print(json.dumps(plain(value), indent=2))

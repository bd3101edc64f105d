"""How long work tells its caller how far it is."""

from collections.abc import Callable

Progress = Callable[[str, int, int, str], None]
"""Called as progress(stage, done, total, detail); done and total count units of the stage (substrings, iterations).

A total of 0 is not known.
"""


def silent(stage: str, done: int, total: int, detail: str = "") -> None:
    """Report nothing: the default."""

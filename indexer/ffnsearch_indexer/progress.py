"""How work that takes long reports its progress to its caller."""

from typing import Protocol


class Progress(Protocol):
    """Called as progress(stage, done, total, detail), as often as the work likes, from any of its threads."""

    def __call__(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Show that `done` of `total` units of a stage (substrings, iterations) are done; a total of 0 is unknown."""


def silent(stage: str, done: int, total: int, detail: str = "") -> None:
    """Report nothing: the default."""

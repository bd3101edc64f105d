"""How a table looks: with rich on a terminal, as aligned text elsewhere."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Table:
    """Rows of text under headings. right: the columns that align right. bars: columns for a terminal alone."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: frozenset[int] = frozenset()
    bars: frozenset[int] = frozenset()


def print_table(table: Table) -> None:
    """Print a table: with rich on a terminal, as aligned text elsewhere."""
    if sys.stdout.isatty():
        _print_rich(table)
    else:
        _print_plain(table)


def _print_rich(table: Table) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for column, heading in enumerate(table.headings):
        style = "cyan" if column in table.bars else ""
        justify: Literal["right", "left"] = "right" if column in table.right else "left"
        last = column == len(table.headings) - 1  # the one to give way where the terminal is narrow
        shown.add_column(Text(heading), justify=justify, style=style, no_wrap=not last, overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row))
    Console().print(shown)


def _print_plain(table: Table) -> None:
    columns = [column for column in range(len(table.headings)) if column not in table.bars]
    lines = [table.headings, *table.rows]
    widths = {column: max(len(line[column]) for line in lines) for column in columns}
    for line in lines:
        print("  ".join(_align(line[column], widths[column], column in table.right) for column in columns).rstrip())


def _align(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)

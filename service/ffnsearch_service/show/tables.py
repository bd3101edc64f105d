"""How a table looks: with rich on a terminal that is wide enough, as aligned text elsewhere."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ffnsearch_service.show.terminal import harmless

LAST_CHARACTERS_MIN = 20
"""The last column gives way where the terminal is narrow, down to so many characters a line."""


WIDTH_MAX = 1 << 16
"""Wider than any terminal: rich is asked for the width of a table as if there were this much room."""


@dataclass(frozen=True)
class Table:
    """Rows of text under headings. right: the columns that align right. bars: columns for a terminal alone."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: frozenset[int] = frozenset()
    bars: frozenset[int] = frozenset()


def print_table(table: Table) -> None:
    """Print a table: with rich on a terminal, as aligned text elsewhere, and where rich would have to cut something.

    Characters that cannot be printed are shown as escapes.
    """
    lines = [[harmless(cell) for cell in line] for line in (table.headings, *table.rows)]
    shown = replace(table, headings=lines[0], rows=lines[1:])
    if not (sys.stdout.isatty() and _printed_rich(shown)):
        _print_plain(shown)


def _printed_rich(table: Table) -> bool:
    """Print a table with rich; False, and nothing, where the terminal is too narrow for it."""
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for column, heading in enumerate(table.headings):
        style = "cyan" if column in table.bars else ""
        justify: Literal["right", "left"] = "right" if column in table.right else "left"
        last = column == len(table.headings) - 1  # the one to give way where the terminal is narrow
        longest = max(cell_len(line[column]) for line in (table.headings, *table.rows))
        least = min(LAST_CHARACTERS_MIN, longest) if last else longest
        shown.add_column(
            Text(heading), justify=justify, style=style, no_wrap=not last, overflow="fold", min_width=least
        )
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row))
    console = Console()
    if Measurement.get(console, console.options.update_width(WIDTH_MAX), shown).minimum > console.width:
        return False
    console.print(shown)
    return True


def _print_plain(table: Table) -> None:
    columns = [column for column in range(len(table.headings)) if column not in table.bars]
    lines = [table.headings, *table.rows]
    widths = {column: max(len(line[column]) for line in lines) for column in columns}
    for line in lines:
        print("  ".join(_align(line[column], widths[column], column in table.right) for column in columns).rstrip())


def _align(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)

"""How results look: tables with bars on a terminal, aligned text elsewhere, JSON on request."""

import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ffnsearch_service.evidence import Evidence
from ffnsearch_service.results import Distribution, Info, Neighbor, PredictResult, PromptResult, Timings, plain

BAR_CHARACTERS = 24
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


@dataclass(frozen=True)
class Table:
    """Rows of text under headings. right: the columns that align right. bars: columns for a terminal alone."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: frozenset[int] = frozenset()
    bars: frozenset[int] = frozenset()


def print_prediction(prompts: Sequence[str], prediction: PredictResult) -> None:
    """Print the answers that could be given, model and approximation side by side, with what each block found."""
    for prompt, result in zip(prompts, prediction.results, strict=True):
        if result.status != "INVALID":
            _print_answer(prompt, result)
    profile = prediction.profile_name or "the given one"
    backend = _backend(prediction.backend, prediction.approximate)
    print(f"snapshot {prediction.snapshot_id[:12]}, profile {profile}, backend {backend}")
    print(_timing_line(prediction.timings))


def print_evidence(found: Evidence) -> None:
    """Print neighbors with what follows them and where they are."""
    print(
        f"block {found.block}, score above {found.threshold:g}: {found.total_neighbors:,} substrings, "
        f"the best {len(found.neighbors):,} of them:\n"
    )
    rows = [
        (f"{neighbor.score:.6f}", str(neighbor.id), quoted(neighbor.text), _followers(neighbor), _first_place(neighbor))
        for neighbor in found.neighbors
    ]
    print_table(Table(("score", "id", "substring", "followed by", "first place"), rows, right=frozenset({0, 1})))


def print_info(info: Info) -> None:
    """Print what is served."""
    for title, values in (("snapshot", info.snapshot), ("model", info.model), ("limits", info.limits)):
        print_table(Table((title, ""), [(name, _number(value)) for name, value in values.items()]))
        print()
    steps = [
        (
            _marked(name, info.default_profile_name),
            str(block),
            f"{step.threshold:g}",
            f"{step.weight:g}",
            profile.source,
        )
        for name, profile in info.profiles.items()
        for block, block_steps in enumerate(profile.blocks)
        for step in block_steps
    ]
    print_table(Table(("profile", "block", "threshold", "weight", "source"), steps, right=frozenset({1, 2, 3})))
    print(f"\nbackend {_backend(info.backend, info.approximate)}, version {info.server_version}")


def print_json(value: Any) -> None:
    """Print a result as JSON; its keys are the names of the result's fields."""
    print(json.dumps(plain(value), indent=2))


def print_table(table: Table) -> None:
    """Print a table: with rich on a terminal, as aligned text elsewhere."""
    if sys.stdout.isatty():
        _print_rich(table)
    else:
        _print_plain(table)


def visible(text: str) -> str:
    """Show a token so that every character can be seen."""
    return quoted(text)[1:-1].replace(" ", "␠")


def quoted(text: str) -> str:
    """Show a text on one line, in quotes; spaces stay."""
    shown = (_ESCAPES.get(c, c if c.isprintable() else c.encode("unicode_escape", "replace").decode()) for c in text)
    return f'"{"".join(shown)}"'


def bar(probability: float) -> str:
    """A bar whose length is the probability, to an eighth of a character."""
    eighths = round(probability * BAR_CHARACTERS * 8)
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


def _print_answer(prompt: str, result: PromptResult) -> None:
    print(f"\n{quoted(prompt)}{_remark(result)}\n")
    print_table(_side_by_side(result.model, result.distribution))
    if result.status == "NO_SUPPORT":
        print("\nno support: no substring above the thresholds has a successor; lower them, or use a larger corpus")
    if result.hellinger is not None:
        print(f"\nHellinger distance {result.hellinger:.4f} (0: the same distribution, 1: nothing in common)")
    print()
    print_table(_block_table(result))
    print()


def _remark(result: PromptResult) -> str:
    used = f"its last {result.used_tokens} tokens are used"
    if result.short_prompt:
        used = f"shorter than the window, its {result.used_tokens} tokens are used"
    return f"  ({used}; {'not in the corpus' if result.self_id is None else f'substring {result.self_id}'})"


def _side_by_side(model: Distribution | None, answer: Distribution | None) -> Table:
    columns = [distribution.tokens if distribution else () for distribution in (model, answer)]
    rows = [
        tuple(itertools.chain.from_iterable(_token_cells(token) for token in pair))
        for pair in itertools.zip_longest(*columns)
    ]
    return Table(("model", "", "", "approximation", "", ""), rows, right=frozenset({1, 4}), bars=frozenset({2, 5}))


def _token_cells(token: Any) -> tuple[str, str, str]:
    return ("", "", "") if token is None else (visible(token.text), f"{token.probability:.4f}", bar(token.probability))


def _block_table(result: PromptResult) -> Table:
    rows = [
        (str(block), f"{step.threshold:g}", f"{step.weight:g}", f"{step.neighbors:,}", f"{step.mass:,}")
        for block, steps in enumerate(result.blocks)
        for step in steps
    ]
    headings = ("block", "threshold", "weight", "neighbors", "mass")
    return Table(headings, rows, right=frozenset(range(len(headings))))


def _followers(neighbor: Neighbor) -> str:
    shown = [f"{visible(token.text)} {token.count}" for token in neighbor.next_tokens[:5]]
    return ", ".join(shown) + (", …" if len(neighbor.next_tokens) > len(shown) else "")


def _first_place(neighbor: Neighbor) -> str:
    if not neighbor.places:
        return f"{neighbor.total_places} in all"
    place = neighbor.places[0]
    more = f" and {neighbor.total_places - 1} more" if neighbor.total_places > 1 else ""
    before, middle, after = (quoted(text)[1:-1] for text in (place.before, neighbor.text, place.after))
    return f"{before}[{middle}]{after}  (at {place.position}{more})"


def _timing_line(timings: Timings) -> str:
    stages = [(name.removesuffix("_ns"), value / 1e6) for name, value in plain(timings).items()]
    *parts, (_, total_ms) = stages
    return f"{total_ms:.1f} ms: " + ", ".join(f"{name} {value:.1f}" for name, value in parts)


def _backend(name: str, approximate: bool) -> str:
    return f"{name} (approximate: it may miss neighbors)" if approximate else name


def _marked(name: str, default: str) -> str:
    return f"{name} (default)" if name == default else name


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


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
        shown.add_column(heading, justify=justify, style=style, no_wrap=not last, overflow="fold")
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

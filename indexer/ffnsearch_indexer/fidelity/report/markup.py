"""The smallest pieces of a page: text that is safe and visible, numbers that all look alike, tables, pictures."""

import base64
import html
from collections.abc import Iterable, Sequence

from ffnsearch_indexer.fidelity.report.charts import Picture

VISIBLE = {"\n": "⏎", "\t": "⇥", "\r": "␍"}
MINUS = "\N{MINUS SIGN}"
NONE = "\u2013"


def inline(text: str) -> str:
    """Corpus text for a page: it is not taken for markup, and stays on one line."""
    shown = (VISIBLE.get(c, c if c.isprintable() else c.encode("unicode_escape").decode()) for c in text)
    return html.escape("".join(shown))


def visible(text: str) -> str:
    """A token or a prompt: as `inline`, and spaces at its ends can be seen."""
    start, end = len(text) - len(text.lstrip(" ")), len(text.rstrip(" "))
    return "␣" * start + inline(text[start:end]) + "␣" * (len(text) - max(end, start))


def distance(value: float | None) -> str:
    """A distance, or another number of its size."""
    return NONE if value is None else f"{value:.3f}"


def share(value: float) -> str:
    """A share as a percentage."""
    return f"{value:.1%}".replace("%", "&nbsp;%")


def signed(value: float) -> str:
    """A number with its sign."""
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", MINUS)  # + 0.0: no negative zero


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, marked: int | None = None) -> str:
    """A table of cells that are markup already; the first of each row names it. marked: the row to point out."""
    head = "".join(f'<th scope="col">{heading}</th>' for heading in headings)
    body = "\n".join(
        f'<tr{" class=marked" if number == marked else ""}><th scope="row">{name}</th>'
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
        for number, (name, *cells) in enumerate(rows)
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def picture(drawn: Picture) -> str:
    """A figure with its caption, inside the page."""
    content = base64.b64encode(drawn.svg).decode()
    return (
        f'<figure><img alt="{html.escape(drawn.alt)}" src="data:image/svg+xml;base64,{content}">'
        f"<figcaption>{html.escape(drawn.caption)}</figcaption></figure>"
    )


def section(name: str, title: str, *parts: str) -> str:
    """A section of the page that can be linked to; nothing where it has no part."""
    inside = "\n".join(part for part in parts if part)
    return f'<section id="{name}">\n<h2>{title}</h2>\n{inside}\n</section>' if inside else ""

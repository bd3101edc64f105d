"""How every figure looks, and how it becomes a picture: colours that everyone can tell apart, and legible in print."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Text

BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#E69F00",
    "#CC79A7",
    "#56B4E9",
    "#222222",
)
GREY, PALE = "#5F6670", "#C9CED6"

SERIES = tuple(
    zip(
        (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK),
        ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1))),
        "osD^vPX",
        strict=True,
    )
)
"""Colour, line and marker of a series of several; each of the three tells them apart alone."""

STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # names may have a $
    "font.size": 10.5,
    "axes.titlesize": 12.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.labelcolor": BLACK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E3E6EA",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": BLACK,
    "ytick.labelcolor": BLACK,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    "lines.linewidth": 1.9,
    "svg.hashsalt": "ffnsearch",  # the same picture is the same file
}
WIDTH_INCHES = 9.0
PNG_DPI = 160

Paint = Callable[[Figure], None]


@dataclass(frozen=True)
class Picture:
    """One finished figure. name: of its files. caption: one sentence to read it by. alt: what it shows, in words."""

    name: str
    caption: str
    alt: str
    png: bytes = field(repr=False)
    svg: bytes = field(repr=False)


def draw(name: str, height_inches: float, caption: str, alt: str, paint: Paint) -> Picture:
    """Let `paint` fill a figure in the style of the house, and keep it as PNG and as SVG."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
        paint(figure)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once, for both files
        return Picture(name, caption, alt, _saved(figure, "png"), _saved(figure, "svg"))


def series_style(number: int) -> tuple[str, object, str]:
    """Colour, line and marker of one of several series; they come round again with another pairing."""
    colour = SERIES[number % len(SERIES)][0]
    _, line, marker = SERIES[(number + number // len(SERIES)) % len(SERIES)]
    return colour, line, marker


def readable(text: Text) -> None:
    """Keep a text apart from the lines that it stands on."""
    text.set_path_effects([withStroke(linewidth=3, foreground="white")])


def from_zero(axes: Axes, label: str) -> None:
    """Let the y axis begin at 0, and say what it shows."""
    axes.set_ylim(bottom=0)
    axes.set_ylabel(label)
    axes.grid(visible=False, axis="x")


def _saved(figure: Figure, form: str) -> bytes:
    # Nothing that changes from run to run, and no address, is written beside the picture.
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    metadata = {"Software": None} if form == "png" else nothing
    file = io.BytesIO()
    figure.savefig(file, format=form, dpi=PNG_DPI, metadata=metadata)
    return file.getvalue()

"""The figure of groups of prompts: which of them are answered best."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from ffnsearch_indexer.fidelity.evaluation import Document
from ffnsearch_indexer.fidelity.report.charts import BLUE, GREY, PALE, Picture, draw, from_zero, readable

GROUPS_MAX = 9
"""More groups of prompts by support than these are joined in pairs, so that their names and numbers have room."""


def groups(document: Document) -> Picture:
    """The mean distance of prompts in and outside the training text, where that is known, and by how much was found."""
    parts = [
        (label, document[key])
        for label, key in (("training\ntext", "in_training"), ("other\ntext", "not_in_training"))
        if document[key] and document[key]["count"]
    ]
    by_support = support_groups(document["by_support"])
    columns = [("next tokens found for the prompt, at the widest thresholds", by_support)]
    if parts:
        columns.insert(0, ("prompt from", parts))

    def paint(figure: Figure) -> None:
        widths = (1, 4.2)[-len(columns) :]
        grid = figure.subplots(
            2, len(columns), sharex="col", squeeze=False, width_ratios=widths, height_ratios=(2.2, 1)
        )
        for axes in grid[0, 1:]:
            axes.sharey(grid[0, 0])
        for (above, below), (label, shown) in zip(grid.T, columns, strict=True):
            _group_column(above, below, shown, document)
            below.set_xlabel(label)
            below.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        from_zero(grid[0, 0], "mean distance")
        grid[0, 0].set_ylim(top=1.22 * max(part["mean"] for _, part in [*parts, *by_support]) or None)
        from_zero(grid[1, 0], "share of prompts")
        figure.align_ylabels(grid[:, 0])
        grid[0, 0].set_title("Which prompts are answered best", pad=30)
        legend = grid[0, -1].legend(
            handles=[
                Line2D([], [], color=BLUE, marker="o", label="mean distance of these prompts"),
                Line2D([], [], color=GREY, linestyle=":", label="of all prompts"),
                Patch(facecolor=PALE, edgecolor=GREY, label="how many they are"),
            ],
            ncols=3,
            loc="lower right",
            bbox_to_anchor=(1, 1),
        )
        legend.set_in_layout(False)

    of_parts = "that do and do not occur in the model's training text, and " if parts else ""
    told = "; ".join(f"{name}: {part['mean']:.3f}" for name, part in [*parts, *by_support]).replace("\n", " ")
    return draw(
        f"groups-{document['protocol']}",
        4.6,
        f"Mean distance of the prompts {of_parts}by how many next tokens the search found; below, how many prompts "
        "there are of each.",
        f"Mean Hellinger distance by group of prompts. {told}.",
        paint,
    )


def _group_column(above: Axes, below: Axes, groups: list[tuple[str, dict[str, Any]]], document: Document) -> None:
    """Draw the mean distance of each group, and how large it is."""
    means, counts = ([part[name] for _, part in groups] for name in ("mean", "count"))
    places = range(len(groups))
    above.axhline(document["hellinger"]["mean"], color=GREY, linestyle=":", linewidth=1.4)
    above.locator_params(axis="y", nbins=5)
    above.plot(places, means, "o-" if len(groups) > 2 else "o", color=BLUE, markersize=6.5)
    for place, mean in zip(places, means, strict=True):
        readable(
            above.annotate(f"{mean:.3f}", (place, mean), (0, 9), textcoords="offset points", ha="center", fontsize=9)
        )
    below.bar(places, np.array(counts) / document["prompts"], 0.72, color=PALE, edgecolor=GREY, linewidth=0.8)
    below.set_xticks(places, [name for name, _ in groups])
    for axes in (above, below):
        axes.set_xlim(-0.6, len(groups) - 0.4)
        axes.grid(visible=False, axis="x")


def support_groups(by_support: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Groups of prompts by support as pairs of a name and the group; of many groups, every two are joined."""
    width = 1 if len(by_support) <= GROUPS_MAX else 2
    parts: dict[int, list[dict[str, Any]]] = {}
    for part in by_support:
        power = int(math.log2(part["support_from"])) if part["support_from"] else -width
        parts.setdefault(power // width, []).append(part)
    return [(_support_label(group * width), _joined(of_group)) for group, of_group in parts.items()]


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    counts = [part["count"] for part in parts]
    return {"count": sum(counts), "mean": float(np.average([part["mean"] for part in parts], weights=counts))}


def _support_label(power: int) -> str:
    """The least number of found tokens in a group, a power of 2 (k is 1,024); "none" for the group without any."""
    if power < 0:
        return "none"
    size, letter = next(((size, letter) for size, letter in ((20, "M"), (10, "k"), (0, "")) if power >= size))
    return f"{2 ** (power - size)}{letter}+"

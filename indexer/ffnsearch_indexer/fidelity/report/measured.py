"""The figures of one measurement: how far the answers are from the model, and how far everything else is."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ffnsearch_indexer.fidelity.baselines import LABELS
from ffnsearch_indexer.fidelity.evaluation import Document
from ffnsearch_indexer.fidelity.report.charts import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILION,
    Picture,
    draw,
    from_zero,
)

DISTANCE = "Hellinger distance to the model"
ARTICLE = "article"
MARKS = {"profile": (BLUE, "o"), "retrained": (ORANGE, "D"), "block": (GREEN, "^"), "baseline": (GREY, "s")}
"""Colour and marker of a kind of answer."""


def compared(document: Document) -> list[tuple[str, str, dict[str, Any]]]:
    """Kind, name and measures of all that was compared with the model, nearest first."""
    baselines = document["baselines"]
    rows = [("profile", f"profile {name}", measures) for name, measures in document["profiles"].items()]
    sisters = document["sisters"]
    rows += [
        ("retrained", f"retrained model {number}" if len(sisters) > 1 else "retrained model", measures)
        for number, measures in enumerate(sisters, 1)
    ]
    rows += [("block", f"best block alone ({baselines['best_block']['block']})", baselines["best_block"])]
    rows += [("baseline", label, baselines[name]) for name, label in LABELS.items() if name in baselines]
    return sorted(rows, key=lambda row: float(row[2]["hellinger"]["mean"]))


def histogram(document: Document) -> Picture:
    """How many prompts are answered how far from the model, beside retrained models and the article's constants."""
    of_default = document["profiles"][document["profile"]]["hellinger"]
    of_article = document["profiles"].get(ARTICLE, {}).get("hellinger")
    sisters = [sister["hellinger"] for sister in document["sisters"]]
    edges = np.array(of_default["histogram"]["edges"])
    retrained = f"{len(sisters)} retrained models" if len(sisters) > 1 else "a retrained model"

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        shown = [_bars(axes, of_default, f"answers, profile {document['profile']}")]
        if of_article and document["profile"] != ARTICLE:
            shown.append(_outline(axes, edges, [of_article], "answers, the article's constants", VERMILION, "--"))
        if sisters:
            shown.append(_outline(axes, edges, sisters, retrained, BLACK, "-"))
        axes.set(xlim=(0, min(1.0, max(shown) + 0.02)), xlabel=f"{DISTANCE} (0: the same, 1: nothing in common)")
        from_zero(axes, "share of prompts")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_title(f"How far from the model, on {document['prompts']:,} prompts")
        handles, labels = axes.get_legend_handles_labels()
        order = sorted(range(len(labels)), key=lambda number: not labels[number].startswith("answers, profile"))
        axes.legend([handles[number] for number in order], [labels[number] for number in order], loc="upper right")

    mean = f"{of_default['mean']:.3f}"
    floor = f" The black line is how far {retrained} of the same kind, from another seed, would be." if sisters else ""
    return draw(
        f"histogram-{document['protocol']}",
        3.9,
        f"Bars are the answers, the further left the closer to the model; upright lines are means.{floor}",
        f"Histogram of Hellinger distances: answers have a mean of {mean}"
        + (f", {retrained} {document['noise_floor']:.3f}." if sisters else "."),
        paint,
    )


def _bars(axes: Axes, distance: dict[str, Any], label: str) -> float:
    """Draw one answer's distances as bars, and return where they end."""
    edges, counts = (np.array(distance["histogram"][name]) for name in ("edges", "counts"))
    share = counts / counts.sum()
    axes.bar(
        edges[:-1],
        share,
        np.diff(edges),
        align="edge",
        color="#A9CDE4",
        edgecolor=BLUE,
        linewidth=0.8,
        label=f"{label}: mean {distance['mean']:.3f}",
    )
    axes.axvline(distance["mean"], color=BLUE, linewidth=1.6)
    return _end(edges, counts)


def _outline(
    axes: Axes, edges: np.ndarray, distances: list[dict[str, Any]], label: str, colour: str, line: str
) -> float:
    """Draw the distances of one or several, put together, as an outline, and return where it ends."""
    counts = np.sum([distance["histogram"]["counts"] for distance in distances], axis=0)
    mean = float(np.mean([distance["mean"] for distance in distances]))
    style: dict[str, Any] = {"color": colour, "linestyle": line, "linewidth": 1.6}
    axes.stairs(counts / counts.sum(), edges, label=f"{label}: mean {mean:.3f}", **style)
    axes.axvline(mean, **style, alpha=0.7, ymax=0.96)
    return _end(edges, counts)


def _end(edges: np.ndarray, counts: np.ndarray) -> float:
    """The upper edge of the last bin that is not empty."""
    return float(edges[np.flatnonzero(counts)[-1] + 1])


def comparison(document: Document) -> Picture:
    """The mean distance, and its spread, of all that was compared with the model."""
    rows = compared(document)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for place, (kind, _, measures) in enumerate(rows):
            colour, marker = MARKS[kind]
            quantiles, mean = measures["hellinger"]["quantiles"], measures["hellinger"]["mean"]
            axes.plot([quantiles["0.05"], quantiles["0.95"]], [place] * 2, color=colour, linewidth=1.2)
            axes.plot(
                [quantiles["0.25"], quantiles["0.75"]],
                [place] * 2,
                color=colour,
                linewidth=7,
                alpha=0.35,
                solid_capstyle="butt",
            )
            axes.plot(mean, place, marker, color=colour, markersize=8, markeredgecolor="white")
            axes.annotate(
                f"{mean:.3f}", (1.01, place), xycoords=("axes fraction", "data"), va="center", annotation_clip=False
            )
        axes.set_yticks(range(len(rows)), [name for _, name, _ in rows])
        answering = [name for _, name, _ in rows].index(f"profile {document['profile']}")
        axes.get_yticklabels()[answering].set_fontweight("bold")
        axes.set(ylim=(len(rows) - 0.5, -0.5), xlim=(0, None), xlabel=DISTANCE)
        axes.grid(visible=False, axis="y")
        axes.annotate("mean", (1.01, 1.02), xycoords="axes fraction", color=GREY, annotation_clip=False)
        axes.set_title("Answers, other models and simple guesses, nearest first")

    nearest, farthest = rows[0], rows[-1]
    return draw(
        f"comparison-{document['protocol']}",
        1.3 + 0.36 * len(rows),
        "The mark is the mean, the thick bar holds the middle half of the prompts, the thin line nine in ten.",
        f"Mean distances, nearest first: from {nearest[1]} with {nearest[2]['hellinger']['mean']:.3f} to "
        f"{farthest[1]} with {farthest[2]['hellinger']['mean']:.3f}; the table below has all of them.",
        paint,
    )

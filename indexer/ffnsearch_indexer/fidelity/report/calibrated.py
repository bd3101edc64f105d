"""The figures of a calibration: one block alone at every threshold, and what a closer answer costs."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from ffnsearch_indexer.fidelity.evaluation import Document
from ffnsearch_indexer.fidelity.report.charts import (
    BLUE,
    ORANGE,
    VERMILION,
    Picture,
    draw,
    readable,
    series_style,
)
from ffnsearch_indexer.fidelity.report.measured import DISTANCE

KINDS = {"sum": ("o", BLUE), "product": ("s", VERMILION)}


def calibration_pictures(calibration: Document, floor: float | None) -> list[Picture]:
    """The curves of the blocks and the ladder of profiles, each where it is there. floor: of retrained models."""
    pictures = []
    if calibration.get("curves"):
        pictures.append(_curves(calibration))
    if calibration.get("ladder"):
        pictures.append(_ladder(calibration, floor))
    return pictures


def _curves(calibration: Document) -> Picture:
    curves = [
        {name: np.array(curve[name], dtype=float) for name in ("thresholds", "hellinger", "neighbors")}
        for curve in calibration["curves"]
    ]
    best = [int(np.argmin(curve["hellinger"])) for curve in curves]

    def paint(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.7, 1))
        for block, (curve, at) in enumerate(zip(curves, best, strict=True)):
            colour, line, marker = series_style(block)
            style = {"color": colour, "linestyle": line}
            least = f"{curve['hellinger'][at]:.3f} at {curve['thresholds'][at]:.2f}"
            above.plot(curve["thresholds"], curve["hellinger"], **style)
            above.plot(
                curve["thresholds"][at], curve["hellinger"][at], marker, color=colour, markersize=8,
                markeredgecolor="white", zorder=4,
            )  # fmt: skip
            above.plot([], [], marker=marker, label=f"block {block}: {least}", **style)
            found = curve["neighbors"] > 0
            below.plot(curve["thresholds"][found], curve["neighbors"][found], **style)
        above.set(ylabel=f"mean {DISTANCE.split(' to ')[0]}", title="One block alone, at every threshold")
        above.legend(title="smallest distance", loc="upper left", bbox_to_anchor=(1, 1), alignment="left")
        below.set_yscale("log")
        below.yaxis.set_major_formatter(
            FuncFormatter(lambda number, _: f"{number:,.0f}" if number >= 1 else f"{number:g}")
        )
        below.yaxis.set_minor_formatter(NullFormatter())
        below.set(ylabel="mean neighbors", xlabel="threshold (cosine)")

    told = "; ".join(
        f"block {block}: {curve['hellinger'][at]:.3f} at {curve['thresholds'][at]:.2f}"
        for block, (curve, at) in enumerate(zip(curves, best, strict=True))
    )
    return draw(
        "curves",
        5.2,
        "Above, how far the answer of one block is from the model as its threshold rises, with a mark where it is "
        "nearest; below, how many substrings are then found.",
        f"Distance of each block alone over thresholds; smallest: {told}.",
        paint,
    )


def _ladder(calibration: Document, floor: float | None) -> Picture:
    ladder: list[dict[str, Any]] = calibration["ladder"]
    default = calibration.get("default")

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for rung in ladder:
            marker, colour = KINDS[rung["kind"]]
            mean, (low, high) = rung["hellinger"], rung["ci95"]
            is_default = default in rung["profiles"]
            axes.errorbar(
                rung["neighbors"], mean, [[mean - low], [high - mean]], fmt=marker, color=colour, capsize=3,
                markersize=10 if is_default else 7.5, markerfacecolor=colour if is_default else "white",
                markeredgewidth=1.8,
            )  # fmt: skip
            label = axes.annotate(
                ", ".join(rung["profiles"]) + (" (default)" if is_default else ""),
                (rung["neighbors"], high),
                (0, 9),
                textcoords="offset points",
                ha="center",
                fontsize=9.5,
                fontweight="bold" if is_default else "normal",
            )
            readable(label)
        if floor is not None:
            axes.axhline(floor, color=ORANGE, linestyle="--", linewidth=1.6, label=f"retrained models: {floor:.3f}")
        for kind in dict.fromkeys(rung["kind"] for rung in ladder):
            marker, colour = KINDS[kind]
            axes.plot([], [], marker, color=colour, markerfacecolor="white", markeredgewidth=1.8, label=kind)
        axes.set(
            xlabel="substrings above the lowest thresholds, a prompt (all blocks)",
            ylabel="mean distance",
            title="What a closer answer costs",
        )
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.margins(x=0.2, y=0.16)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))

    told = "; ".join(
        f"{rung['name']}: {rung['hellinger']:.3f} for {rung['neighbors']:,.0f} neighbors" for rung in ladder
    )
    return draw(
        "ladder",
        4.0,
        "Each mark is a profile that was tried, with the 95 % interval of its mean distance; those with a name are "
        "kept. Lower is closer to the model, further left is cheaper to search.",
        f"Mean distance against the neighbors that a search finds. {told}.",
        paint,
    )

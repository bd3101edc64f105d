"""The figure of a profile: where its steps are, and how much each counts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ffnsearch_indexer.answer.profile import Profile
from ffnsearch_indexer.fidelity.report.charts import BLUE, VERMILION, Picture, draw

LABEL_GAP = 0.07
"""Least gap between a block's thresholds, as a part of the whole axis, that leaves room for weights in figures."""


def profile_picture(profile: Profile, weights: Sequence[Sequence[float]], typical: bool) -> Picture:
    """The steps of a profile: thresholds along, blocks down, weights as dots.

    weights: for each block those of its steps. typical: whether they depend on the prompt, and these are medians.
    """
    largest = max((abs(weight) for of_block in weights for weight in of_block), default=0) or 1.0
    blocks = len(profile.blocks)
    has_room = _has_room([sorted(of_block) for of_block in profile.thresholds_by_block])

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for block, of_block in enumerate(weights):
            thresholds = profile.thresholds(block)
            order = np.argsort(thresholds)
            axes.plot(np.array(thresholds)[order], [block] * len(order), color="#E3E6EA", linewidth=5, zorder=1)
            for threshold, weight in zip(thresholds, of_block, strict=True):
                is_positive = weight >= 0
                axes.scatter(
                    threshold,
                    block,
                    s=12 + (430 if is_positive else 300) * abs(weight) / largest,  # diamonds look larger
                    marker="o" if is_positive else "D",
                    color=(BLUE + "B0") if is_positive else "white",
                    edgecolor=BLUE if is_positive else VERMILION,
                    linewidth=1 if is_positive else 2,
                    zorder=3,
                )
                if has_room:
                    label = f"{weight:.3g}".replace("-", "\N{MINUS SIGN}")
                    axes.annotate(
                        label,
                        (threshold, block),
                        (0, -10 - 7 * (abs(weight) / largest) ** 0.5),
                        textcoords="offset points",
                        ha="center",
                        va="top",
                        fontsize=8.5,
                    )
        axes.set_yticks(range(blocks), [f"block {block}" for block in range(blocks)])
        axes.set(ylim=(blocks - 0.3, -0.7), xlabel="threshold (cosine)")
        axes.margins(x=0.06)
        axes.grid(visible=False, axis="y")
        axes.set_title(f"Profile {profile.name}: where it looks, and what counts", pad=34)
        _weight_legend(axes.legend, weights, largest)

    how = "; ".join(
        f"block {block}: "
        + (", ".join(f"{w:.3g} above {t:.3g}" for t, w in zip(profile.thresholds(block), of, strict=True)))
        for block, of in enumerate(weights)
        if of
    )
    medians = " Weights depend on how much is found; these are the medians of a few prompts." if typical else ""
    return draw(
        "profile",
        1.6 + 0.62 * blocks,
        "Each dot is a step: what is found above its threshold (along) in its block (down) counts by its area; an open "
        f"diamond is a negative weight, evidence against.{medians}",
        f"Weights of the profile's steps. {how}.",
        paint,
    )


def _has_room(thresholds: Sequence[Sequence[float]]) -> bool:
    """Whether no two thresholds of a block are so close that their labels would meet."""
    every = [threshold for of_block in thresholds for threshold in of_block]
    gaps = [float(gap) for of_block in thresholds for gap in np.diff(of_block)]
    return not gaps or min(gaps) >= LABEL_GAP * (max(every) - min(every))


def _weight_legend(legend: Any, weights: Sequence[Sequence[float]], largest: float) -> None:
    """Show how large a dot of some weights is, and what is negative."""
    has_negative = any(weight < 0 for of_block in weights for weight in of_block)
    dots = [
        Line2D(
            [], [], linestyle="", marker="o", color=BLUE + "B0", markeredgecolor=BLUE,
            markersize=(12 + 430 * part) ** 0.5, label=f"{part * largest:.2g}",
        )
        for part in (0.1, 0.5, 1.0)
    ]  # fmt: skip
    if has_negative:
        dots.append(
            Line2D(
                [], [], linestyle="", marker="D", color="white", markeredgecolor=VERMILION,
                markeredgewidth=2, markersize=9, label="negative",
            )
        )  # fmt: skip
    legend(handles=dots, ncols=len(dots), loc="lower right", bbox_to_anchor=(1, 1.0), columnspacing=1.2)

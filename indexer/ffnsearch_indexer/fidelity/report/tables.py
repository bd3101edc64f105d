"""The tables of a page: all that was compared, the ladder of a calibration, the snapshot's profiles, the words."""

import html
from collections.abc import Mapping
from typing import Any

from ffnsearch_indexer.answer.profile import Profile
from ffnsearch_indexer.fidelity.evaluation import Document
from ffnsearch_indexer.fidelity.report.markup import NONE, distance, share, table
from ffnsearch_indexer.fidelity.report.measured import compared

CI = "95&nbsp;% CI"
INFINITE = "∞"

TERMS = {
    "Hellinger distance": "between two next-token distributions: 0 for equal ones, 1 where they have no token in "
    "common. A prompt for which nothing is found counts as 1.",
    "95 % CI": "made so that it holds the mean over all text of this kind, answered by this index and model, in 95 of "
    "100 cases: a bootstrap of passages of the text, each with all of its prompts, since neighbouring prompts are "
    "answered alike. Too narrow for texts of a few thousand tokens.",
    "KL": "Kullback-Leibler divergence of the answer from the model, in nats, over the prompts where it is finite; it "
    "is infinite where an answer gives no probability to a token that the model thinks possible.",
    "profile": "for each block of the model, thresholds and weights that turn what is found into an answer.",
    "neighbors": "substrings of the indexed text whose FFN output in a block has a cosine above the threshold with "
    "the prompt's.",
    "retrained model": "a model of the same kind, trained again from another seed: how much two equally good models "
    "differ.",
    "best block alone": "what the one block that does best answers without the others, the sums of its steps added up.",
    "own next tokens": "what follows the prompt itself in the indexed text.",
    "back-off n-gram": "what follows the longest ending of the prompt that occurs in the indexed text.",
    "smoothed n-gram": "what follows each ending of the prompt, the longer ones smoothed by the shorter (Witten-Bell).",
    "fitted n-gram": "what follows each ending of the prompt, weighted as a calibrated profile is, on the same "
    "prompts: what is nearer is more than counts of endings give when they are weighted in the same way.",
    "unigram": "how often each token occurs, whatever the prompt.",
}


def comparison_table(document: Document) -> str:
    """Everything that was compared with the model, nearest first; the profile that answers is pointed out."""
    headings = ("", "mean", CI, "median", "below 0.2", "same top token", "KL (nats)", "no support")
    rows = [(html.escape(name), *_measures(measures)) for _, name, measures in compared(document)]
    marked = [name for name, *_ in rows].index(html.escape(f"profile {document['profile']}"))
    return table(headings, rows, marked=marked)


def ladder_table(calibration: Document) -> str:
    """The ways to answer that a calibration found, in its order; nothing where there is none."""
    ladder = calibration.get("ladder") or []
    if not ladder:
        return ""
    headings = ("tried", "kind", "steps", "distance", CI, "neighbors", "kept as")
    rows = [
        (
            html.escape(rung["name"]),
            html.escape(rung["kind"]),
            f"{rung['steps']:,}",
            distance(rung["hellinger"]),
            _interval(rung["ci95"]),
            f"{rung['neighbors']:,.0f}",
            html.escape(", ".join(rung["profiles"]) or NONE),
        )
        for rung in ladder
    ]
    chosen = [number for number, rung in enumerate(ladder) if calibration["default"] in rung["profiles"]]
    return table(headings, rows, marked=chosen[0] if chosen else None)


def profile_table(profiles: Mapping[str, Profile], default: str) -> str:
    """The profiles of a snapshot, the default one pointed out."""
    rows = [
        (
            html.escape(name),
            profile.kind,
            ", ".join(str(len(steps)) for steps in profile.blocks),
            html.escape(profile.source or NONE),
        )
        for name, profile in profiles.items()
    ]
    shown = table(
        ("", "kind", "steps in each block", "where it comes from"), rows, marked=list(profiles).index(default)
    )
    return f'<div class="text">{shown}</div>'


def terms() -> str:
    """The words of the page."""
    return "\n".join(
        [
            '<dl class="terms">',
            *(f"<dt>{html.escape(term)}</dt><dd>{told}</dd>" for term, told in TERMS.items()),
            "</dl>",
        ]
    )


def _measures(measures: dict[str, Any]) -> tuple[str, ...]:
    hellinger, divergence = measures["hellinger"], measures["kl"]["model_to_answer"]
    mean, infinite = divergence["mean_finite"], divergence["infinite_share"]
    return (
        distance(hellinger["mean"]),
        _interval(hellinger["ci95"]),
        distance(hellinger["quantiles"]["0.5"]),
        share(hellinger["below_0.2"]),
        share(measures["top1_agreement"]),
        INFINITE
        if mean is None
        else distance(mean) + (f"<small>{INFINITE} for {share(infinite)}</small>" * (infinite > 0)),
        share(measures["no_support"]),
    )


def _interval(interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{distance(low)} to {distance(high)}".replace(" ", "&nbsp;")

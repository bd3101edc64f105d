"""A measurement and a calibration as tables for a person: a line for each profile, block, baseline and sister."""

from collections.abc import Iterator, Sequence
from typing import Any

from ffnsearch_indexer.fidelity.baselines import LABELS
from ffnsearch_indexer.fidelity.evaluation import Document

HEADINGS = ("", "mean", "95 %", "std", "max", "below 0.2", "top-1", "no support")


def table_lines(document: Document) -> list[str]:
    """The lines of one protocol's document, aligned."""
    rows = [HEADINGS, *((name, *_cells(measures)) for name, measures in _rows(document))]
    prompts = f"{document['prompts']:,} {'prompt' if document['prompts'] == 1 else 'prompts'} of {document['corpus']}"
    return [
        f"{document['protocol'].replace('_', '-')}: Hellinger distance to the model on {prompts}, {_seen(document)}, "
        f"{document['seconds']:,.0f} s",
        "",
        *aligned(rows),
    ]


def ladder_lines(document: Document) -> list[str]:
    """The lines of a calibration's document: what was tried, how near it came, what it costs, and what is kept."""
    rows = [
        ("tried", "distance", "95 %", "neighbors", "kept as"),
        *(
            (
                *_distance(rung),
                f"{rung['neighbors']:,.0f}",
                ", ".join(f"{name} *" if name == document["default"] else name for name in rung["profiles"]),
            )
            for rung in document["ladder"]
        ),
        (*_distance(document["ngram"]), "none", "(to compare with)"),
    ]
    return [
        f"{document['protocol'].replace('_', '-')}: {document['prompts']:,} prompts, of which "
        f"{document['judged_prompts']:,} judge; {document['seconds']:,.0f} s; * the new default",
        "",
        *aligned(rows),
    ]


def _distance(rung: dict[str, Any]) -> tuple[str, str, str]:
    return rung["name"], f"{rung['hellinger']:.4f}", "{:.4f} to {:.4f}".format(*rung["ci95"])


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as lines, the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]


def _seen(document: Document) -> str:
    if document["in_training"] is None:
        return "not known to be what the model was trained on"
    return f"{document['in_training']['count']:,} in the model's training text"


def _rows(document: Document) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, measures in document["profiles"].items():
        yield f"profile {name}{' *' if name == document['profile'] else ''}", measures
    for block, measures in enumerate(document["blocks"]):
        is_best = block == document["baselines"]["best_block"]["block"]
        yield f"block {block} alone{' (best)' if is_best else ''}", measures
    for name, label in LABELS.items():
        if name in document["baselines"]:
            yield label, document["baselines"][name]
    for number, measures in enumerate(document["sisters"]):
        yield f"sister {number}, {measures['model_sha256'][:12]}", measures


def _cells(measures: dict[str, Any]) -> list[str]:
    distance = measures["hellinger"]
    low, high = distance["ci95"]
    shares = (distance["below_0.2"], measures["top1_agreement"], measures["no_support"])
    return [
        f"{distance['mean']:.4f}",
        f"{low:.4f} to {high:.4f}",
        f"{distance['std']:.4f}",
        f"{distance['max']:.4f}",
        *(f"{share:.1%}" for share in shares),
    ]

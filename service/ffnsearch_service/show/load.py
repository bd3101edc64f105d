"""How a load looks to a person: a line for each level, and below where the time of the answers went."""

from collections.abc import Mapping, Sequence
from typing import Any

from ffnsearch_service.load.measuring import STAGES
from ffnsearch_service.load.summary import PERCENTILES
from ffnsearch_service.show.tables import Table, print_table

LATE_MS_MAX = 1.0
"""Above this, a line says that the measuring itself was late."""


def print_load(document: Mapping[str, Any]) -> None:
    """Print what `measure_service` gives."""
    levels = document["levels"]
    how = "poisson arrivals" if document["arrivals"] == "poisson" else "constant arrivals"
    load = f"calls at a rate, {how}" if levels[0]["rate"] else "callers that never pause"
    print(
        f"{document['address']}: snapshot {document['snapshot_id'][:12]}, backend {document['backend']}; {load}; "
        f"{_counted(document['prompts_per_call'], 'prompt')} a call, {document['seconds']:g} s a level, "
        f"{_counted(document['connections'], 'connection')}\n"
    )
    print_table(_levels_table(levels))
    print()
    print_table(_stages_table(levels))
    for level in levels:
        _print_doubts(level)


def _levels_table(levels: Sequence[Mapping[str, Any]]) -> Table:
    """What was offered, what was answered, and how fast; a further line for each code that is not OK."""
    rows = []
    for level in levels:
        for code, found in level["codes"].items():
            is_answered = code == "OK"
            rate = level["calls_per_second"] if is_answered else found["calls"] / level["seconds"]
            prompts = f"{level['prompts_per_second']:,.1f}" if is_answered else ""
            latency = (f"{found['latency_ms'][name]:,.2f}" for name in PERCENTILES)
            rows.append((_level(level), code, f"{found['calls']:,}", f"{rate:,.1f}", prompts, *latency))
    percentiles = [name.replace("_", ".") for name in PERCENTILES]
    headings = ("load", "code", "calls", "calls/s", "prompts/s", f"ms: {percentiles[0]}", *percentiles[1:])
    return Table(headings, rows, right=frozenset(set(range(len(headings))) - {0, 1}))


def _stages_table(levels: Sequence[Mapping[str, Any]]) -> Table:
    """Where the time of the answers went: median and 99th percentile of each stage, in milliseconds."""
    rows = [
        (
            _level(level),
            *(_median_and_p99(level["stages_ms"][stage]) for stage in STAGES),
            _median_and_p99(level["outside_ms"]),
        )
        for level in levels
    ]
    headings = ("ms: p50 (p99)", *STAGES, "outside")
    return Table(headings, rows, right=frozenset(range(1, len(headings))))


def _median_and_p99(percentiles_ms: Mapping[str, float]) -> str:
    return f"{percentiles_ms['p50']:,.2f} ({percentiles_ms['p99']:,.2f})" if percentiles_ms else ""


def _level(level: Mapping[str, Any]) -> str:
    return f"{level['rate']:g} calls/s" if level["rate"] else _counted(level["callers"], "caller")


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'s' if number > 1 else ''}"


def _print_doubts(level: Mapping[str, Any]) -> None:
    """Say so where the measuring itself could not keep up."""
    late_ms = level["late_ms"].get("p99", 0.0)
    if late_ms > LATE_MS_MAX:
        print(f"\n{_level(level)}: 1 call in 100 was begun {late_ms:,.1f} ms late or more, which counts as latency")
    if level["unsent"]:
        print(f"\n{_level(level)}: {level['unsent']:,} calls were not sent, so many were unanswered already")

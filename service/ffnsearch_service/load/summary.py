"""What does a load say in short? Throughput, codes, percentiles of latency, and where the time of answers went."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from ffnsearch_service.load.measuring import STAGES, Load, Sample

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9, "max": 100.0}

Document = dict[str, Any]


def summary(load: Load, prompts_per_call: int) -> Document:
    """The figures of one load, for JSON; times in milliseconds.

    latency_ms counts from when a call was due. late_ms is how long after that it was begun: what the measuring itself
    adds. outside_ms is what answers took beyond the total that their replies report, from when the call was begun: the
    network, gRPC and the event loops at both ends.
    """
    answered = [sample for sample in load.samples if sample.reply.code == "OK"]
    per_second = len(answered) / load.wall_s if load.wall_s else 0.0
    codes = sorted({sample.reply.code for sample in load.samples}, key=lambda code: (code != "OK", code))
    return {
        "rate": load.rate,
        "callers": load.callers,
        "seconds": load.wall_s,
        "calls": len(load.samples),
        "unsent": load.unsent,
        "calls_per_second": per_second,
        "prompts_per_second": per_second * prompts_per_call,
        "late_ms": percentiles_ms(sample.begun_s - sample.due_s for sample in load.samples),
        "codes": {code: _of_code([s for s in load.samples if s.reply.code == code]) for code in codes},
        "stages_ms": {
            stage: percentiles_ms(sample.reply.stages_ns[place] / 1e9 for sample in answered)
            for place, stage in enumerate(STAGES)
        },
        "outside_ms": percentiles_ms(_outside_s(sample) for sample in answered),
    }


def percentiles_ms(durations_s: Iterable[float]) -> dict[str, float]:
    """Percentiles and mean of durations, in milliseconds; empty where there are none."""
    found = np.fromiter(durations_s, np.float64) * 1e3
    if not len(found):
        return {}
    values = np.percentile(found, list(PERCENTILES.values()))
    return {"mean": float(found.mean()), **dict(zip(PERCENTILES, values.tolist(), strict=True))}


def _of_code(samples: list[Sample]) -> Document:
    return {"calls": len(samples), "latency_ms": percentiles_ms(sample.done_s - sample.due_s for sample in samples)}


def _outside_s(sample: Sample) -> float:
    return sample.done_s - sample.begun_s - sample.reply.stages_ns[STAGES.index("total")] / 1e9

"""Three times the load that an engine can carry: who is taken in is answered in time, the rest is refused at once.

What `benchmarks/overload.py` measures for a minute on a real snapshot, for some seconds on an engine whose batches take
a stated time, so that its capacity is the same on every machine.
"""

import asyncio
import importlib
import os
import time
from pathlib import Path
from typing import Any

import pytest
from serving import serving

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_indexer.answer.predictor import Predictor
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_service.answering.engine import Engine
from ffnsearch_service.answering.opened import OpenSnapshot
from ffnsearch_service.config import Limits

BATCH_S, PROMPT_S = 0.04, 0.005
LIMITS = Limits(batch_prompts_max=16, piece_prompts_max=4)
CAPACITY = LIMITS.batch_prompts_max / (BATCH_S + LIMITS.batch_prompts_max * PROMPT_S)
"""Prompts a second: a full queue of 4,096 would take half a minute."""

DEADLINE_S = 1.5


class PacedPredictor(Predictor):
    """Takes a stated time for each batch and each prompt, and looks between them whether anybody still waits."""

    def search(self, prompts: Any, *arguments: Any, checkpoint: Any, **options: Any) -> Any:
        ends_s = time.perf_counter() + BATCH_S + PROMPT_S * len(prompts)
        found = super().search(prompts, *arguments, checkpoint=checkpoint, **options)
        while (left_s := ends_s - time.perf_counter()) > 0:
            checkpoint()
            time.sleep(min(left_s, PROMPT_S))
        return found


@pytest.fixture(scope="module")
def measured(tiny_snapshot: Path) -> Any:
    """What is found with calls of 4 prompts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        overload = importlib.import_module("overload")
    request = pb.PredictRequest(prompts=[pb.Prompt(text=text) for text in ("And only l", "hing tremb", "my", "o")])
    plan = overload.Plan(
        4, seconds=2.5, idle_seconds=0.8, deadline_s=DEADLINE_S, batch_prompts_max=LIMITS.batch_prompts_max
    )
    predictor = PacedPredictor(Datastore.open(tiny_snapshot, check="sizes"))
    with Engine.of(OpenSnapshot(predictor, LIMITS)) as engine, serving(engine) as address:
        return asyncio.run(overload.measure(address, os.getpid(), [request], plan))


def test_the_engine_is_the_bottleneck(measured: Any) -> None:
    assert measured["before"]["prompts_per_second"] <= CAPACITY * 1.05
    assert measured["offered_calls_per_second"] == pytest.approx(3 * measured["before"]["calls_per_second"])
    assert measured["under_load"]["unsent"] == 0


def test_who_is_taken_in_is_answered_before_the_deadline(measured: Any) -> None:
    load = measured["under_load"]
    assert load["accepted_latency_ms"]["p99"] < 1e3 * DEADLINE_S
    assert load["answered"]["prompts_per_second"] > 0.6 * measured["before"]["prompts_per_second"]


def test_the_rest_is_refused_at_once_and_told_when_to_come_back(measured: Any) -> None:
    load = measured["under_load"]
    refused = load["refused"]
    assert load["others"] == {}
    assert refused["calls"] + load["answered"]["calls"] + load["deadline_exceeded"]["calls"] == load["calls"]
    assert refused["calls"] > load["calls"] / 4, "a third could be answered, and what waits when the load ends"
    assert refused["with_retry_info"] == refused["calls"]
    assert 0 < refused["retry_after_s"][2] < 2 * DEADLINE_S, "the queue is as long as callers wait, not longer"
    assert refused["latency_ms"]["p50"] < 100


def test_it_leaves_no_traces(measured: Any) -> None:
    assert measured["after_to_before"] > 0.6
    assert measured["memory"]["growth_mb"] < 50

"""Measurements of a small text, and two profiles to measure."""

from collections.abc import Sequence
from typing import Any

from ffnsearch_indexer.answer.predictor import Predictor
from ffnsearch_indexer.answer.profile import Profile, Step, SumProfile, one_step
from ffnsearch_indexer.fidelity.evaluate import prepare
from ffnsearch_indexer.fidelity.evaluation import Evaluation
from ffnsearch_indexer.fidelity.protocols import Protocol
from ffnsearch_indexer.progress import Progress, silent
from tiny import random_text

ALPHABET = "abc\n"
WINDOW = 5
TEXT = random_text(1, 600, ALPHABET)
EVEN = one_step("even", (0.9999, 0.999), (1, 2), source="high, so that some prompts find nothing")
STEPS = SumProfile(
    "steps", ((Step(0.98, 2.0), Step(0.9, 0.5), Step(0.85, 0.1)), (Step(0.95, 1.0),)), 0.5, source="by hand"
)
PROFILES = (EVEN, STEPS)
PROMPTS = 30


def evaluate(
    predictor: Predictor,
    protocol: Protocol,
    profiles: Sequence[Profile],
    *,
    save: bool = False,
    progress: Progress = silent,
    **options: Any,
) -> Evaluation:
    """Prepare a measurement and run it to its end."""
    with prepare(predictor, protocol, profiles, **options).run(save=save, progress=progress) as evaluation:
        return evaluation


def measure(predictors: dict[str, Predictor], protocol: Protocol, **options: Any) -> Evaluation:
    """Measure the two profiles on the snapshot that a protocol needs."""
    return evaluate(predictors[protocol.indexed_split], protocol, PROFILES, **{"prompts": PROMPTS} | options)

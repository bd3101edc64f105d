"""Profiles of both kinds with what calibration found, and measured fidelity, for a snapshot of the tiny corpus."""

import shutil
from pathlib import Path

from ffnsearch_indexer.answer.profile import Expectation, ProductProfile, ProductStep, Step, SumProfile, one_step
from tiny import revise

EVEN = one_step("even", [0.85, 0.85], [1.0, 1.0])
SUM = SumProfile(
    "added",
    ((Step(0.6, 0.5), Step(0.9, 2.0, 0.1, (0.05, -0.05))), (Step(0.8, 1.0, -0.2),)),
    mass_power=0.5,
    source="made up",
    expectation=Expectation((0.0, 1.5, 3.0), (0.7, 0.4, 0.2)),
)
PRODUCT = ProductProfile(
    "multiplied",
    (
        (
            ProductStep(0.5, 0.3, prior_mass=20.0),
            ProductStep(0.8, 0.6, 0.05, (0.02, -0.01), prior_mass=5.0),
            ProductStep(0.95, 1.2, prior_mass=0.5),
        ),
        (ProductStep(0.7, 0.8, prior_mass=10.0), ProductStep(0.9, -0.2, -0.03, prior_mass=2.0)),
    ),
    0.7,
    tuple(0.01 * token - 0.3 for token in range(65)),
    source="made up",
    expectation=Expectation((0.0, 2.0, 4.0), (0.6, 0.3, 0.1)),
)
PROFILES = {profile.name: profile for profile in (EVEN, SUM, PRODUCT)}


def measures(mean: float) -> dict[str, object]:
    """What is told of one measured thing."""
    distance = {"mean": mean, "std": 0.1, "ci95": [mean - 0.01, mean + 0.02], "max": mean + 0.3, "below_0.2": 0.5}
    return {"hellinger": distance, "top1_agreement": 0.8, "no_support": 0.015}


FIDELITY = {
    "held_out": {
        "prompts": 2000,
        "profile": "multiplied",
        **measures(0.25),
        "baselines": {},
        "sisters": [],
        "noise_floor": None,
    },
    "leave_one_out": {
        "prompts": 20000,
        "profile": "added",
        **measures(0.15),
        "baselines": {},
        "sisters": [measures(0.06), measures(0.08)],
        "noise_floor": 0.07,
    },
    "calibration": {"anything": 1},
}


def calibrate(tiny: Path, folder: Path) -> Path:
    """Copy a snapshot of the tiny corpus, and give it these profiles and measurements; returns the copy."""
    shutil.copytree(tiny, folder)
    documents = {name: profile.to_json() for name, profile in PROFILES.items()}
    revise(folder, profiles=documents, default_profile="multiplied", fidelity=FIDELITY)
    return folder

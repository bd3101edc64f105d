"""Finds the profiles of a snapshot: search once, fit profiles of growing size, judge them, keep the cheapest.

Shapes: n prompts.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ffnsearch_indexer.answer.prediction import Float64, combine, support
from ffnsearch_indexer.answer.predictor import Predictor
from ffnsearch_indexer.answer.profile import Profile
from ffnsearch_indexer.errors import FidelityError
from ffnsearch_indexer.fidelity import fitting
from ffnsearch_indexer.fidelity.bands import GRID, Bands, bytes_of_prompt, collect, prompts_of_chunk
from ffnsearch_indexer.fidelity.baselines import ngram_bands
from ffnsearch_indexer.fidelity.chunks import identity_of_search, require_exact, work_in
from ffnsearch_indexer.fidelity.defaults import CALIBRATION_PROMPTS
from ffnsearch_indexer.fidelity.endings import Endings
from ffnsearch_indexer.fidelity.expectation import expectation
from ffnsearch_indexer.fidelity.metrics import confidence_interval, measure, normalised
from ffnsearch_indexer.fidelity.protocols import CALIBRATION, Protocol
from ffnsearch_indexer.fidelity.selection import calibration_ids
from ffnsearch_indexer.files import beside
from ffnsearch_indexer.index.base import Int64
from ffnsearch_indexer.progress import Progress, silent
from ffnsearch_indexer.store.manifest import Manifest, revise_manifest

PROMPTS_MIN = 50
"""A profile would learn fewer prompts by heart."""

BYTES_MAX = 2 << 30
"""Most memory for what is found for all prompts (`Bands`): with it, all of a calibration stays below 8 GB.

What is found is held twice while the chunks are put together, 4.3 GB, and once from then on. A fit holds its steps'
sums as floats beside it, of 12 thresholds of 21 and four fifths of the prompts: 1 GB, and as much again while they are
made. A batch with its gradients takes 3.2 GB at most (`fitting.BATCH_SUMS`): together 6.4 GB. What follows the endings
for an n-gram is 13 steps of one block: 0.2 GB where there are six. Judging, the curves and the choice of one step a
block hold less than what is found once more. Mapped files of the snapshot come on top.
"""

JUDGED_SHARE = 0.2
"""Share of the prompts that no weight is fitted to: they judge."""

GAIN_MIN = 0.0005
"""Least gain for which more steps are tried."""

SLACK = {"fast": 0.02, "balanced": 0.004, "best": 0.0}
"""How much farther than the nearest a profile of this name may be: it is the one with the fewest neighbors of those."""

DEFAULT = "balanced"

STAIRCASES: dict[int, tuple[float, ...]] = {
    1: (0.88,),
    2: (0.8, 0.92),
    4: (0.7, 0.8, 0.88, 0.94),
    8: (0.6, 0.7, 0.76, 0.8, 0.84, 0.88, 0.92, 0.96),
    12: (0.6, 0.64, 0.7, 0.74, 0.78, 0.8, 0.84, 0.88, 0.9, 0.92, 0.95, 0.98),
}
"""Thresholds of every block, by their number."""


class Rung(NamedTuple):
    """One profile that was tried.

    distances: [n] of the judging prompts. ci95: of their mean. neighbors: how many substrings are above its lowest
    thresholds, a prompt on average, over all blocks: what any exact search must touch.
    """

    profile: Profile
    distances: Float64
    ci95: tuple[float, float]
    neighbors: float


@dataclass(frozen=True)
class Calibration:
    """What a calibration found. profiles: those to keep, by name. document: the JSON form of all figures."""

    profiles: dict[str, Profile]
    default: str
    document: dict[str, Any]


def calibrate(
    predictor: Predictor,
    *,
    prompts: int = CALIBRATION_PROMPTS,
    seed: int = 0,
    save: bool = False,
    progress: Progress = silent,
) -> Calibration:
    """Find profiles whose answers are near the model's own, on prompts that no evaluation looks at.

    prompts: how many at most. seed: of the order in which prompts are fitted. save: write profiles and figures into
    the snapshot's manifest; evaluations of earlier profiles go. It works in `calibration_folder`, beside the snapshot,
    and continues there what was killed. A snapshot of the training split is calibrated without each prompt's own row
    (leave-one-out), so that prompts from elsewhere find the same; one of the whole text with it.

    Raises FidelityError where there are too few prompts, and BackendError where what an approximate backend finds is
    to be saved.
    """
    started = time.monotonic()
    if save:
        require_exact(predictor)
    datastore = predictor.datastore
    ids = calibration_ids(datastore.manifest.substrings, min(prompts, most_prompts(datastore.manifest)))
    if len(ids) < PROMPTS_MIN:
        raise FidelityError(
            f"{len(ids)} prompts are too few to calibrate with; it takes {PROMPTS_MIN}: allow more, or build a "
            "snapshot of a longer text or with a smaller vocabulary",
            reason="TOO_FEW_PROMPTS",
            prompts=len(ids),
        )
    protocol = Protocol.PARITY if datastore.manifest.split == "all" else Protocol.LEAVE_ONE_OUT
    folder = calibration_folder(datastore.path)
    positions = datastore.first_positions[ids]
    chosen = datastore.windows[positions]
    exclude_self = protocol is Protocol.LEAVE_ONE_OUT
    identity = {
        **identity_of_search(predictor, chosen, exclude_self=exclude_self),
        "grid": list(GRID),
        "chunk_prompts": prompts_of_chunk(datastore.manifest),
    }
    with work_in(folder, identity):
        bands = collect(predictor, chosen, folder, exclude_self=exclude_self, progress=progress)
        run = _Run(bands, positions, seed, progress)
        kept = _keep(run.ladder())
        endings = Endings(datastore.substring_tokens(), datastore.counts)
        of_endings = ngram_bands(endings, chosen, ids, bands, exclude_self=exclude_self)
        thresholds = [of_endings.thresholds]
        ngram = _Run(of_endings, positions, seed, progress).attempt("n-gram", fitting.fit_product, thresholds)
        calibration = Calibration(
            profiles={name: _named(rung, name, run.judged, datastore.manifest) for name, rung in kept.items()},
            default=DEFAULT,
            document={
                "protocol": protocol.key,
                "prompts": len(ids),
                "judged_prompts": len(run.judged.model),
                "seed": seed,
                "default": DEFAULT,
                "curves": _curves(bands),
                "ladder": [_describe(rung, kept) for rung in run.rungs],
                "ngram": {**_describe(ngram, kept), "profile": ngram.profile.to_json()},
                "seconds": time.monotonic() - started,
            },
        )
        if save:
            _save(datastore.path, calibration)
    return calibration


def most_prompts(manifest: Manifest) -> int:
    """How many prompts a calibration can take: what the snapshot has for it, and what fits into memory."""
    return min(BYTES_MAX // bytes_of_prompt(manifest), len(calibration_ids(manifest.substrings, manifest.substrings)))


def calibration_folder(snapshot: Path) -> Path:
    """Where a calibration works until it is done, beside the snapshot."""
    return beside(snapshot, ".calibrate")


class _Run:
    """One calibration's prompts, parted into those that are fitted to and those that judge, and the rungs so far."""

    def __init__(self, bands: Bands, positions: Int64, seed: int, progress: Progress) -> None:
        judged = int(JUDGED_SHARE * len(bands.model))
        self.judged, self.fitted = bands.take(slice(judged)), bands.take(slice(judged, None))
        self.rungs: list[Rung] = []
        self._positions, self._seed, self._progress = positions[:judged], seed, progress

    def ladder(self) -> list[Rung]:
        """Fit profiles of growing size, of each kind as long as more steps bring something."""
        blocks = range(self.fitted.freq.shape[1])
        self.attempt("one-step", fitting.fit_sum, fitting.choose_one_step(self.fitted))
        steps = self._climb("sum", fitting.fit_sum, (4, 8))
        thresholds = [STAIRCASES[steps] for _ in blocks]
        self.attempt(f"sum-{steps}-mass-power", fitting.fit_sum, thresholds, mass_power=True)
        self.attempt(f"sum-{steps}-by-support", fitting.fit_sum, thresholds, by_support=True)
        self._climb("product", fitting.fit_product, (1, 2, 4, 8, 12))
        return self.rungs

    def _climb(self, name: str, fit: Callable[..., Profile], numbers: Sequence[int]) -> int:
        """Try staircases of growing length until one brings nothing, and return the length of the best."""
        best, nearest = numbers[0], np.inf
        for steps in numbers:
            rung = self.attempt(f"{name}-{steps}", fit, [STAIRCASES[steps] for _ in range(self.fitted.freq.shape[1])])
            if rung.distances.mean() > nearest - GAIN_MIN:
                break
            best, nearest = steps, rung.distances.mean()
        return best

    def attempt(self, name: str, fit: Callable[..., Profile], thresholds: fitting.Thresholds, **options: bool) -> Rung:
        """Fit one profile and judge it."""

        def show(iteration: int) -> None:
            self._progress(f"fit {name}", iteration, fitting.ITERATIONS)

        profile = fit(self.fitted, thresholds, seed=self._seed, progress=show, **options)
        distances = _distances(profile, self.judged)
        rung = Rung(
            profile=replace(profile, name=name),
            distances=distances,
            ci95=confidence_interval(distances, self._positions),
            neighbors=_neighbors(self.judged, thresholds),
        )
        self._progress(f"fit {name}", fitting.ITERATIONS, fitting.ITERATIONS, f"distance {rung.distances.mean():.4f}")
        self.rungs.append(rung)
        return rung


def _keep(rungs: Sequence[Rung]) -> dict[str, Rung]:
    """The rungs that become profiles, by the name they get: the simplest, the nearest sum, and those within SLACK."""
    nearest = min(rung.distances.mean() for rung in rungs)
    within = {
        name: [rung for rung in rungs if rung.distances.mean() <= nearest + slack] for name, slack in SLACK.items()
    }
    return {
        "one-step": rungs[0],
        "sum": min((rung for rung in rungs if rung.profile.kind == "sum"), key=lambda rung: rung.distances.mean()),
        **{
            name: min(allowed, key=lambda rung: (rung.neighbors, rung.distances.mean()))
            for name, allowed in within.items()
        },
    }


def _named(rung: Rung, name: str, judged: Bands, manifest: Manifest) -> Profile:
    """The profile of a rung under its name, with where it comes from and what distance to expect of it."""
    source = f"{rung.profile.name}, calibrated on {manifest.corpus_name}, {len(judged.model):,} judging prompts"
    supports = support(judged.at(rung.profile.thresholds_by_block))
    return replace(rung.profile, name=name, source=source, expectation=expectation(supports, rung.distances))


def _distances(profile: Profile, bands: Bands) -> Float64:
    """The distances [n] of a profile's answers, computed as the service does."""
    answers, has_support = combine(profile, bands.at(profile.thresholds_by_block), bands.unigram)
    return measure(answers, has_support, bands.model).hellinger


def _neighbors(bands: Bands, thresholds: fitting.Thresholds) -> float:
    lowest = [bands.thresholds.index(min(of_block)) for of_block in thresholds]
    return float(sum(bands.neighbors[:, block, step].mean() for block, step in enumerate(lowest)))


def _curves(bands: Bands) -> list[dict[str, Any]]:
    """For each block alone: the mean distance and the mean number of neighbors at every threshold of the grid."""

    def distances(block: int) -> Iterator[float]:
        for step in range(len(bands.thresholds)):
            answers, has_support = normalised(bands.freq[:, block, step])
            yield float(measure(answers, has_support, bands.model).hellinger.mean())

    return [
        {
            "thresholds": list(bands.thresholds),
            "hellinger": list(distances(block)),
            "neighbors": bands.neighbors[:, block].mean(axis=0).tolist(),
        }
        for block in range(bands.freq.shape[1])
    ]


def _describe(rung: Rung, kept: dict[str, Rung]) -> dict[str, Any]:
    return {
        "name": rung.profile.name,
        "kind": rung.profile.kind,
        "steps": max(len(steps) for steps in rung.profile.blocks),
        "hellinger": float(rung.distances.mean()),
        "ci95": list(rung.ci95),
        "neighbors": rung.neighbors,
        "profiles": [name for name, other in kept.items() if other is rung],
    }


def _save(snapshot: Path, calibration: Calibration) -> None:
    profiles = {name: profile.to_json() for name, profile in calibration.profiles.items()}
    revise_manifest(
        snapshot,
        lambda manifest: replace(
            manifest,
            profiles=manifest.profiles | profiles,
            default_profile=calibration.default,
            fidelity={CALIBRATION: calibration.document},
        ),
    )

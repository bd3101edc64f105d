"""A report, top to bottom: what the snapshot's manifest says, drawn and explained, written into a folder."""

import os
from functools import partial
from pathlib import Path

import numpy as np

from ffnsearch_indexer.answer.predictor import Predictor
from ffnsearch_indexer.answer.profile import Profile, profiles_of
from ffnsearch_indexer.errors import FidelityError, OutputError
from ffnsearch_indexer.fidelity.evaluation import Document
from ffnsearch_indexer.fidelity.protocols import CALIBRATION, Protocol
from ffnsearch_indexer.fidelity.report.calibrated import calibration_pictures
from ffnsearch_indexer.fidelity.report.explained import explain, typical_weights
from ffnsearch_indexer.fidelity.report.groups import groups
from ffnsearch_indexer.fidelity.report.measured import comparison, histogram
from ffnsearch_indexer.fidelity.report.page import GENERATOR, Content, Measured, render
from ffnsearch_indexer.fidelity.report.steps import profile_picture
from ffnsearch_indexer.files import PARTIAL, beside, disk_errors, write_whole
from ffnsearch_indexer.progress import Progress, silent
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_indexer.store.manifest import Manifest

PAGE_FILE = "report.html"
FIGURE_PREFIX = "figure-"

TYPICAL_PROMPTS = 16
"""How many prompts show what a step's weight is where it depends on the prompt: one batch of the model."""


def default_folder(snapshot: Path) -> Path:
    """Where a report goes, beside the snapshot."""
    return beside(snapshot, "-report")


def require_measured(snapshot: Path, manifest: Manifest) -> None:
    """Refuse (FidelityError) a snapshot that has nothing to tell."""
    if not manifest.fidelity:
        raise FidelityError(
            f"{snapshot} has no measurement to report: run `ffnsearch evaluate {snapshot}` first",
            reason="NOT_MEASURED",
            snapshot=snapshot,
        )


def require_free(folder: Path) -> None:
    """Refuse (OutputError) a folder that holds something else than an earlier report, or the beginning of one."""
    if not folder.exists() or (folder.is_dir() and {path.name for path in folder.iterdir()} <= {PAGE_FILE + PARTIAL}):
        return
    page = folder / PAGE_FILE
    if not (page.is_file() and GENERATOR.encode() in page.read_bytes()[:2000]):
        raise OutputError(
            f"{folder} exists and is no earlier report: delete it, or choose another folder with --out",
            reason="OUTPUT_EXISTS",
            folder=folder,
        )


def write_report(predictor: Predictor, folder: Path, *, progress: Progress = silent) -> list[Path]:
    """Write a snapshot's report into a folder, and return its files: the page, then the figures as PNG.

    What an earlier report left there is replaced; other files stay. Raises FidelityError for a snapshot without a
    measurement, OutputError where the folder is another's or the disk refuses.
    """
    require_measured(predictor.datastore.path, predictor.datastore.manifest)
    require_free(folder)
    content = gather(predictor, progress)
    page = render(content).encode(errors="backslashreplace")  # the name of a file may be no text
    figures = {folder / f"{FIGURE_PREFIX}{drawn.name}.png": drawn.png for drawn in content.all_pictures}
    files = {folder / PAGE_FILE: page, **figures}  # the page first: by it a report that is stopped is known again
    with disk_errors("make room, or choose another folder with --out"):
        for path, data in files.items():
            write_whole(path, partial(Path.write_bytes, data=data))
        for stale in set(folder.glob(f"{FIGURE_PREFIX}*.png")) - files.keys():
            stale.unlink()
    return list(files)


def gather(predictor: Predictor, progress: Progress = silent) -> Content:
    """Read what was measured, draw it, and explain the best and the worst prompts."""
    manifest = predictor.datastore.manifest
    fidelity = manifest.fidelity or {}
    documents: dict[Protocol, Document] = {each: fidelity[each.key] for each in Protocol if each.key in fidelity}
    calibration: Document = fidelity.get(CALIBRATION) or {}
    profiles = profiles_of(manifest.profiles)
    default = profiles[manifest.default_profile]

    def measured(protocol: Protocol, document: Document) -> Measured:
        # A measurement was made with the profile that was the default then, if the snapshot still has it.
        profile = profiles.get(document["profile"], default)
        pictures = histogram(document), comparison(document), groups(document)
        return Measured(protocol, document, pictures, explain(predictor, document, profile, progress), profile)

    floors = {each.key: document["noise_floor"] for each, document in documents.items()}
    is_typical, weights = _weights(predictor, default)
    return Content(
        snapshot=Path(os.path.abspath(predictor.datastore.path)).name,
        manifest=manifest,
        measured=[measured(protocol, document) for protocol, document in documents.items()],
        calibration=calibration,
        calibrated=calibration_pictures(calibration, floors.get(calibration.get("protocol", ""))),
        profiles=profiles,
        drawn=profile_picture(default, weights, is_typical),
    )


def _weights(predictor: Predictor, profile: Profile) -> tuple[bool, list[list[float]]]:
    """Whether the weights of a profile depend on the prompt, and what they are, in the middle of a few prompts."""
    steps = [step for of_block in profile.blocks for step in of_block]
    if not any(step.support_weight or any(step.block_support_weights) for step in steps):
        return False, [[step.weight for step in of_block] for of_block in profile.blocks]
    datastore: Datastore = predictor.datastore
    ids = np.unique(np.linspace(0, datastore.manifest.substrings - 1, TYPICAL_PROMPTS).astype(np.int64))
    prompts = [datastore.substring(int(number)) for number in ids]
    found = predictor.search(prompts, profile.thresholds_by_block, exclude_self=True)
    return True, typical_weights(profile, [sums.freq for sums in found.sums])

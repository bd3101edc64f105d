"""Which command builds what was asked for?"""

import sys
from pathlib import Path
from typing import NamedTuple

from ffnsearch_service.builds.record import BuildSpec
from ffnsearch_service.confined import Folders


class BuildPaths(NamedTuple):
    """What a build reads, and what it makes. model: None for the one that ffnsearch ships."""

    corpus: Path
    model: Path | None
    out: Path


def paths_of(spec: BuildSpec, folders: Folders) -> BuildPaths:
    """What the names of a specification mean.

    Raises RequestError, AbsentError, StateError for names that the folders do not have or allow.
    """
    return BuildPaths(
        corpus=folders.corpus(spec.corpus, field="corpus"),
        model=folders.model(spec.model, field="model") if spec.model else None,
        out=folders.snapshot(spec.name, field="name"),
    )


def build_command(spec: BuildSpec, folders: Folders, *, resume: bool) -> list[str]:
    """The `ffnsearch build` command of a specification, without where its progress goes. Raises as `paths_of` does.

    resume: where the snapshot is built already, do what follows its build, unless that is done too.
    """
    paths = paths_of(spec, folders)
    command = [sys.executable, "-P", "-m", "ffnsearch_service.cli", "build", "--json"]
    command += ["--corpus", str(paths.corpus), "--out", str(paths.out)]
    command += ["--window-tokens", str(spec.window_tokens), "--split", spec.split]
    command += ["--calibration-prompts", str(spec.calibration_prompts)]
    command += ["--evaluation-prompts", str(spec.evaluation_prompts)]
    if paths.model:
        command += ["--model", str(paths.model)]
    if resume:
        command.append("--resume")
    return command

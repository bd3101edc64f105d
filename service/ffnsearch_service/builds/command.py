"""Which command builds what was asked for?"""

import sys

from ffnsearch_service.builds.record import BuildSpec
from ffnsearch_service.confined import Folders


def build_command(spec: BuildSpec, folders: Folders, *, resume: bool) -> list[str]:
    """The `ffnsearch build` command of a specification, without where its progress goes.

    resume: go on where only the calibration is missing. Raises RequestError, AbsentError, StateError for names that the
    folders do not have or allow.
    """
    corpus = folders.corpus(spec.corpus, field="corpus")
    out = folders.snapshot(spec.name, field="name")
    model = ["--model", str(folders.model(spec.model, field="model"))] if spec.model else []
    return [
        *(sys.executable, "-P", "-m", "ffnsearch_service.cli", "build"),
        *("--corpus", str(corpus)),
        *("--out", str(out)),
        *model,
        *("--window-tokens", str(spec.window_tokens)),
        *("--split", spec.split),
        *("--calibration-prompts", str(spec.calibration_prompts)),
        *("--evaluation-prompts", str(spec.evaluation_prompts)),
        *(["--resume"] if resume else []),
        "--json",
    ]

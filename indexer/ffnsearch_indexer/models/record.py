"""The training record beside a model: the runs that made the model, and the text it was trained on."""

import json
from pathlib import Path
from typing import Any

RECORD_FILE = "training.json"

Record = dict[str, Any]
"""What one training run did: a `training.TrainingRecord` in its JSON form."""

UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError)
"""What reading a record raises where there is none, or where the file is not one."""


def read_runs(model_folder: Path) -> list[Record]:
    """The records of all runs that made the model in a folder, the last run's last. Raises one of UNREADABLE."""
    return runs_in(json.loads((model_folder / RECORD_FILE).read_text()))


def runs_in(record: Record) -> list[Record]:
    """The records of all runs that made a model, from that of the last one, which lists those before it."""
    last = {name: value for name, value in record.items() if name != "earlier"}
    return [*record.get("earlier", []), last]


def training_text(model_folder: Path) -> dict[str, str] | None:
    """`corpus` and `corpus_sha256` of the one text that the model in a folder was trained on, as its record has them.

    None where the record does not say, or where there were several texts.
    """
    try:
        runs = read_runs(model_folder)
        names = {str(run["corpus_sha256"]): str(run["corpus"]) for run in runs}
        is_whole = not runs[0].get("started_from")
    except UNREADABLE:
        return None
    if not is_whole or len(names) > 1:
        return None
    ((sha256, name),) = names.items()
    return {"corpus": name, "corpus_sha256": sha256}

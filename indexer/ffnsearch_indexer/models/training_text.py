"""What was a model trained on, as far as the record beside it says?"""

import json
from pathlib import Path

from ffnsearch_indexer.models.training import RECORD_FILE


def training_text(model_folder: Path) -> dict[str, str] | None:
    """`corpus` and `corpus_sha256` of the one text that the model in a folder was trained on, as its record has them.

    None where no record says it, or there were several texts.
    """
    try:
        record = json.loads((model_folder / RECORD_FILE).read_text())
        runs = [*record.get("earlier", []), record]
        names = {str(run["corpus_sha256"]): str(run["corpus"]) for run in runs}
        is_whole = not runs[0].get("started_from")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    if not is_whole or len(names) > 1:
        return None
    ((sha256, name),) = names.items()
    return {"corpus": name, "corpus_sha256": sha256}

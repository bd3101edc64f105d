"""What `ffnsearch calibrate` and `ffnsearch evaluate` left in a snapshot, as results: one file for each protocol.

    ffnsearch calibrate SNAPSHOT && ffnsearch evaluate SNAPSHOT --sister MODEL
    python benchmarks/fidelity.py SNAPSHOT

Writes results/fidelity-CORPUS-PROTOCOL.json, with the calibration that the measured profiles come from. Where no
sisters were measured, those of the result that is there stay as they are, if they answered the same prompts: they take
hours to train.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import recording

from ffnsearch_indexer.store.manifest import Manifest, read_manifest

RESULTS = Path(__file__).parent / "results"
CIRCUMSTANCES = ("revision", "time")
DECISIVE = ("model_sha256", "corpus", "split", "substrings", "protocol", "prompts", "seed", "trained_on")
"""What decides which prompts are asked, and whose answers sisters are compared with."""


def main() -> None:
    """Read, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("snapshot", type=Path)
    parser.add_argument("--results", default=RESULTS, type=Path, help="where results are, and are written")
    options = parser.parse_args()
    manifest = read_manifest(options.snapshot)
    documents = dict(manifest.fidelity or {})
    calibration = documents.pop("calibration", None)
    if not documents:
        raise SystemExit("nothing is measured: run `ffnsearch evaluate` first")
    for protocol, document in documents.items():
        path = options.results / f"fidelity-{manifest.corpus_name}-{protocol.replace('_', '-')}.json"
        result = {"benchmark": "fidelity", **_identity(manifest), **document, "calibration": calibration}
        recording.write(path, result if result["sisters"] else result | _earlier_sisters(path, result))


def _earlier_sisters(path: Path, result: dict[str, Any]) -> dict[str, Any]:
    """The sisters of an earlier result of the same prompts, and when they were measured; nothing where none is."""
    if not path.exists():
        return {}
    earlier = json.loads(path.read_text())
    if not earlier["sisters"] or any(earlier[name] != result[name] for name in DECISIVE):
        return {}
    measured = earlier.get("sisters_measured") or {name: earlier[name] for name in CIRCUMSTANCES}
    return {name: earlier[name] for name in ("sisters", "noise_floor")} | {"sisters_measured": measured}


def _identity(manifest: Manifest) -> dict[str, Any]:
    return {
        "snapshot_id": manifest.snapshot_id,
        "model_sha256": manifest.model_sha256,
        "corpus": manifest.corpus_name,
        "split": manifest.split,
        "substrings": manifest.substrings,
    }


if __name__ == "__main__":
    main()

"""What `ffnsearch calibrate` and `ffnsearch evaluate` left in a snapshot, as results: one file for each protocol.

    ffnsearch calibrate SNAPSHOT && ffnsearch evaluate SNAPSHOT --sister MODEL
    python benchmarks/fidelity.py SNAPSHOT

Writes results/fidelity-CORPUS-PROTOCOL.json, with the calibration that the measured profiles come from.
"""

import argparse
from pathlib import Path
from typing import Any

import recording

from ffnsearch_indexer.store.snapshot import Manifest, read_manifest

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Read, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("snapshot", type=Path)
    manifest = read_manifest(parser.parse_args().snapshot)
    documents = dict(manifest.fidelity or {})
    calibration = documents.pop("calibration", None)
    if not documents:
        raise SystemExit("nothing is measured: run `ffnsearch evaluate` first")
    for protocol, document in documents.items():
        path = RESULTS / f"fidelity-{manifest.corpus_name}-{protocol.replace('_', '-')}.json"
        recording.write(path, {"benchmark": "fidelity", **_identity(manifest), **document, "calibration": calibration})


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

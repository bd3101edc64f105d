"""How many prompts a second a snapshot answers, model and search together, and what share that is of the slower alone.

python benchmarks/end_to_end.py --snapshot DIR --json FILE [--plot FILE.png] [--profile article,balanced] [--batch ...]
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import figures
import recording

from ffnsearch_indexer.fidelity.table import aligned


def main() -> None:
    """Run `ffnsearch bench` for each profile, print the shares, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--snapshot", required=True, type=Path)
    parser.add_argument("--json", required=True, type=Path, help="where to write the result")
    parser.add_argument("--plot", type=Path, help="where to draw where the time goes, as PNG")
    parser.add_argument("--profile", default="article,balanced", help="profiles of the snapshot, with commas")
    parser.add_argument("--batch", default="1,16,64,512", help="prompts in a call, with commas")
    parser.add_argument("--prompts", default="512", help="prompts to ask at each batch size")
    options = parser.parse_args()
    ffnsearch = str(Path(sys.executable).parent / "ffnsearch")
    asked = ["--batch", options.batch, "--prompts", options.prompts, "--skip-verify", "--json"]
    measured: dict[str, Any] = {}
    for profile in options.profile.split(","):
        run = recording.run_measured([ffnsearch, "bench", str(options.snapshot), "--profile", profile, *asked])
        measured[profile] = json.loads(run["output"]) | {"memory_peak_gb": run["memory_peak_gb"]}
    recording.write(options.json, {"benchmark": "end_to_end", "measured": measured})
    if options.plot:
        options.plot.write_bytes(figures.stages(json.loads(options.json.read_text())))
    for profile, speeds in measured.items():
        print("\n".join(["", profile, *_lines(speeds["batches"])]))


def _lines(batches: list[dict[str, Any]]) -> list[str]:
    rows: list[tuple[str, ...]] = [("prompts/s:", "together", "model alone", "search alone", "share of the slower")]
    for speed in batches:
        together, model, search = (speed[stage]["prompts_per_second"] for stage in ("together", "model", "search"))
        share = together / min(model, search)
        rows.append((f"batch {speed['batch']}", f"{together:.1f}", f"{model:.1f}", f"{search:.1f}", f"{share:.0%}"))
    return aligned(rows)


if __name__ == "__main__":
    main()

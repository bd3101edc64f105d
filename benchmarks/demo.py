"""What a newcomer waits for: time and memory of `ffnsearch demo`, with what it printed.

python benchmarks/demo.py --json FILE
"""

import argparse
import sys
from pathlib import Path

import recording


def main() -> None:
    """Run the demonstration, print what it printed, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", required=True, type=Path, help="where to write the result")
    options = parser.parse_args()
    run = recording.run_measured([str(Path(sys.executable).parent / "ffnsearch"), "demo"])
    print(run["output"])
    run["command"] = ["ffnsearch", "demo"]
    recording.write(options.json, {"benchmark": "demo", **run})


if __name__ == "__main__":
    main()

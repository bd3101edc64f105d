"""How a script runs that compares backends integer by integer, and can draw again what it measured earlier."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import recording

Result = dict[str, Any]


def parser(description: str) -> argparse.ArgumentParser:
    """The options that `run` reads; the script adds its own. Its help is the first line of the description."""
    made = argparse.ArgumentParser(description=description.splitlines()[0])
    made.add_argument("--snapshot", type=Path, help="without it, the JSON is read")
    made.add_argument("--json", required=True, type=Path, help="where to write the result")
    made.add_argument("--plot", type=Path, help="a PNG file to draw the result to")
    return made


def run(
    options: argparse.Namespace,
    measure: Callable[[argparse.Namespace], Result],
    lines: Callable[[Result], list[str]],
    draw: Callable[[Result], bytes],
) -> None:
    """Measure, or read what was measured; print; draw. Exits with an error where an integer differs."""
    if options.snapshot:
        recording.write(options.json, measure(options))
    result = json.loads(options.json.read_text())
    print("\n".join(lines(result)))
    if options.plot:
        options.plot.write_bytes(draw(result))
    if result["differing_integers"]:
        sys.exit(f"{result['differing_integers']:,} integers differ from those of `exact`: the figures say nothing")


def numbers(text: str) -> list[int]:
    """What an option says that takes numbers with commas between them, in ascending order."""
    return sorted(int(part) for part in text.split(","))

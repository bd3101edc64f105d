"""All checks and measurements of the search on a GPU, in one run of less than 8 minutes.

    benchmarks/gpu.sh [FILE.json]
    benchmarks/gpu.sh [FILE.json] --only faiss range_search_gpu                these, and the chip's ceilings
    python benchmarks/gpu.py --json FILE [--device cpu --characters 3000]      the same on a CPU: for the script itself

It makes the reference corpus' keys with the reference model on the device, and needs torch, Triton, numpy, numba and
safetensors alone; a GPU build of faiss for what faiss does. Measurements run one after the other; what one finds stands
in the result under its name, or why it found nothing, or how it failed. Where one loses the device, those after it run
in a new process, with a result of their own (FILE-rest.json). On a CPU the kernels run in Triton's interpreter, and the
figures say nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gpu_model
import gpu_search
import gpu_together
import recording
import torch
from gpu_setting import CORPORA, Setting, make_setting

from ffnsearch_indexer.errors import BackendError
from ffnsearch_indexer.index.faiss.library import gpu_problem
from ffnsearch_indexer.models.on_device import ROWS


class UnavailableError(Exception):
    """What a measurement needs is not installed; the message is one line that says what."""


def _model(setting: Setting) -> dict[str, Any]:
    """The forward pass: prompts a second, keys a second, how far from the compiled one; and in other batches.

    Smaller ones would answer one prompt sooner, larger ones make more keys a second, if they gave the same bits.
    """

    def measure(rows: int, keys: int, calls: tuple[int, ...]) -> dict[str, Any]:
        return gpu_model.measure(
            setting.model, setting.windows, device=setting.device, rows=rows, keys=keys, calls=calls
        )

    usual = measure(ROWS, 100_000, gpu_model.CALLS)
    smaller = [measure(rows, 1024, (1, 16)) for rows in (4, 16)]
    larger = [measure(rows, 100_000, ()) for rows in (256, 1024)]
    return {**usual, "other_batches": smaller + larger}


def _with_faiss(measure: Callable[[Setting], Any]) -> Callable[[Setting], Any]:
    """What only a GPU build of faiss can do."""

    def measured(setting: Setting) -> Any:
        try:
            problem = gpu_problem()
        except BackendError as error:
            problem = error.message
        if problem:
            raise UnavailableError(f"{problem}; its method is emulated instead")
        return measure(setting)

    return measured


MEASUREMENTS: dict[str, Callable[[Setting], Any]] = {
    "ceilings": gpu_search.ceilings,
    "agreement": gpu_search.agreement,
    "rates": gpu_search.rates,
    "together": gpu_together.together,
    "graphs": gpu_together.graphs,
    "range_search_gpu_emulated": gpu_search.top_k_emulation,
    "neighbors": gpu_search.neighbors,
    "where_time_goes": gpu_together.where_time_goes,
    "model": _model,
    "tilings": gpu_search.tilings,
    "range_search_gpu": _with_faiss(gpu_search.range_search_gpu),
    "faiss": _with_faiss(gpu_search.faiss_rates),
}
"""What is measured, in this order: the most important first. Each takes the setting, or raises UnavailableError."""


def main() -> None:
    """Make the setting, measure, write after each measurement."""
    options = _parser().parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no GPU that torch can use: nothing was measured")
    if options.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # read where kernels are defined, at the first search
    setting = make_setting(options.device, options.corpus, options.characters, options.budget_seconds)
    result = {
        "benchmark": "gpu",
        "device": _device(options.device),
        "substrings": len(setting.keys[0]),
        "blocks": len(setting.keys),
        "build_seconds": setting.seconds,
    }
    chosen = {"ceilings", *(options.only or MEASUREMENTS)}  # other measurements tell their share of the ceilings
    waiting = [name for name in MEASUREMENTS if name in chosen]
    while waiting:
        name = waiting.pop(0)
        started = time.monotonic()
        try:
            is_time = setting.left_seconds() > 0
            setting.found[name] = MEASUREMENTS[name](setting) if is_time else {"not_measured": "no time left"}
        except UnavailableError as error:
            setting.found[name] = {"not_measured": str(error)}
        except Exception:  # what else can be measured is: machines with a GPU are rare
            setting.found[name] = {"failed": traceback.format_exc()}
            traceback.print_exc()
        recording.write(options.json, {**result, **setting.found})
        print(f"{name}: {time.monotonic() - started:.1f} s", json.dumps(setting.found[name])[:1500], flush=True)
        if _is_lost(setting):
            _measure_anew(options, waiting, setting.left_seconds())
            sys.exit(f"the device was lost in {name}: what was left is in {_rest_of(options.json)}")
    if _differing(setting.found):
        sys.exit("integers differ from what they must be: the figures say nothing")
    if failed := [name for name, found in setting.found.items() if "failed" in found]:
        sys.exit(f"failed: {', '.join(failed)}")


def _is_lost(setting: Setting) -> bool:
    """Whether the device takes no more work from this process: after an illegal access, for one, it never does."""
    try:
        setting.synchronize()
    except RuntimeError:
        return True
    return False


def _measure_anew(options: argparse.Namespace, names: Sequence[str], seconds: float) -> None:
    """Measure what is left in a process of its own, whose result lies beside this one's."""
    command = [sys.executable, __file__, "--json", _rest_of(options.json), "--corpus", options.corpus]
    command += ["--budget-seconds", seconds, "--only", *names]
    if options.characters:
        command += ["--characters", options.characters]
    if names:
        subprocess.run(list(map(str, command)), check=False)


def _rest_of(path: Path) -> Path:
    return path.with_stem(f"{path.stem}-rest")


def _differing(found: Any) -> int:
    """All integers that differ, wherever a result tells of some."""
    if isinstance(found, dict):
        return sum(each if name == "differing_integers" else _differing(each) for name, each in found.items())
    return sum(map(_differing, found)) if isinstance(found, list) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", required=True, type=Path, help="where to write the result")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    corpus = next((path for path in CORPORA if path.exists()), None)
    parser.add_argument("--corpus", default=corpus, required=corpus is None, type=Path, help="a UTF-8 text")
    parser.add_argument("--characters", type=int, help="of the corpus' beginning; all by default")
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, help="all by default", metavar="MEASUREMENT")
    parser.add_argument("--budget-seconds", type=float, default=420, help="after these nothing new is begun")
    return parser


def _device(kind: str) -> dict[str, Any]:
    """The GPU that is measured; of a CPU the kind alone."""
    if kind == "cpu":
        return {"name": kind}
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "memory_gb": round(properties.total_memory / 1e9, 1),
        "cuda": torch.version.cuda,
    }


if __name__ == "__main__":
    main()

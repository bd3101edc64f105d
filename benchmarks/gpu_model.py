"""How fast a model runs on a device: prompts a second into queries, substrings a second into keys, against the CPU's.

python benchmarks/gpu_model.py --snapshot shakespeare.ffn --device cuda --json FILE

`measure` is for other scripts. Vectors are compared with those of the compiled forward pass before anything is timed.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import recording
import torch
from numpy.typing import NDArray

from ffnsearch_indexer.models.extraction import extract_keys
from ffnsearch_indexer.models.on_device import ROWS, DeviceModel
from ffnsearch_indexer.models.packed import pack_model
from ffnsearch_indexer.models.transformer import Transformer

CALLS = (1, 16, 64, 256, 1024, 4096)
"""Prompts in a call."""

ROUNDS = 7
"""Calls of each size that are timed; the median counts."""

COMPARED = 256
"""Windows whose vectors are compared with the compiled forward pass."""


def main() -> None:
    """Measure a snapshot's model at each precision and batch shape, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--snapshot", required=True, type=Path, help="whose model runs, and whose substrings")
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--precisions", default="float32,float16,bfloat16")
    parser.add_argument("--rows", default=str(ROWS), help="windows in a batch of the device; several, with commas")
    parser.add_argument("--calls", default=",".join(map(str, CALLS)), help="prompts in a call, with commas")
    parser.add_argument("--keys", type=int, default=100_000, help="substrings to make keys of")
    parser.add_argument("--json", required=True, type=Path, help="where to write the result")
    options = parser.parse_args()
    from ffnsearch_indexer.store.datastore import Datastore  # here, so that `gpu.py` does without a store

    with Datastore.open(options.snapshot, check="sizes") as datastore:
        model, windows = datastore.model, datastore.substring_tokens()
    measured = [
        measure(
            model,
            windows,
            device=options.device,
            precision=precision,
            rows=rows,
            calls=_numbers(options.calls),
            keys=options.keys,
        )
        for precision in options.precisions.split(",")
        for rows in _numbers(options.rows)
    ]
    recording.write(options.json, {"benchmark": "gpu_model", "substrings": len(windows), "measured": measured})


def measure(
    model: Transformer,
    windows: NDArray[np.uint16],
    *,
    device: str,
    precision: str = "float32",
    rows: int = ROWS,
    calls: tuple[int, ...] = CALLS,
    keys: int = 100_000,
) -> dict[str, Any]:
    """Compare and time a model on a device. windows: [N, L], different. keys: how many of them the rate of keys is of.

    The seconds of a call are from token ids on the host to queries on the device (`on_device`), and to queries and
    logits on the host (`to_host`).
    """
    on_device = DeviceModel(model, windows.shape[1], device=device, precision=precision, rows=rows)
    some = np.unique(windows[:: max(1, len(windows) // COMPARED)][:COMPARED], axis=0)
    found = on_device.extract_keys(some)  # which warms up, too
    usual = DeviceModel(model, windows.shape[1], device=device, precision=precision).extract_keys(some)
    built = windows[:keys]
    started = time.perf_counter()
    on_device.extract_keys(built)
    key_seconds = time.perf_counter() - started
    return {
        "forward_pass": on_device.description,
        "precision": precision,
        "rows": rows,
        "rows_agree": on_device.rows_agree(windows[0]),
        "compared_windows": len(some),
        "from_compiled": _difference(found, extract_keys(pack_model(model), some)),
        f"from_{ROWS}_rows": _difference(found, usual),
        "keys": len(built),
        "keys_seconds": key_seconds,
        "keys_per_second": len(built) / key_seconds,
        "calls": {str(prompts): _time_calls(on_device, windows, prompts) for prompts in calls},
    }


def _difference(found: NDArray[np.float16], expected: NDArray[np.float16]) -> dict[str, float]:
    """How far vectors are from others."""
    difference = np.abs(found.astype(np.float64) - expected)
    return {"largest": float(difference.max()), "share_of_components": float((difference > 0).mean())}


def _time_calls(on_device: DeviceModel, windows: NDArray[np.uint16], prompts: int) -> dict[str, Any]:
    asked = list(np.resize(windows, (prompts, windows.shape[1])))
    lengths = np.full(prompts, windows.shape[1], dtype=np.int64)
    batch = np.stack(asked)
    left, fetched = [], []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        on_device.run(batch, lengths)
        if on_device.device.type == "cuda":
            torch.cuda.synchronize()
        left.append(time.perf_counter() - started)
        started = time.perf_counter()
        on_device.run_prompts(asked).fetch()
        fetched.append(time.perf_counter() - started)
    return {"on_device": _rate(left[1:], prompts), "to_host": _rate(fetched[1:], prompts)}


def _rate(seconds: list[float], prompts: int) -> dict[str, Any]:
    return {"prompts_per_second": prompts / float(np.median(seconds)), "samples_s": seconds}


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


if __name__ == "__main__":
    main()

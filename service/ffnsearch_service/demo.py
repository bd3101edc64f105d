"""The demonstration: index one play, serve it in a process of its own, ask it over gRPC, show the evidence."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ffnsearch_indexer.build.pipeline import build
from ffnsearch_indexer.build.request import BuildRequest
from ffnsearch_indexer.console import ProgressDisplay
from ffnsearch_indexer.corpora import shakespeare
from ffnsearch_indexer.corpora.corpus import Corpus
from ffnsearch_indexer.models import reference_folder
from ffnsearch_service.client import Client
from ffnsearch_service.client.evidence import best_pages
from ffnsearch_service.client.interface import Calls
from ffnsearch_service.client.results import PromptResult
from ffnsearch_service.errors import AddressError
from ffnsearch_service.settings.sources import ENVIRONMENT_PREFIX
from ffnsearch_service.show import answers as show
from ffnsearch_service.show.terminal import quoted

PROMPTS = ("And only l", "hing tremb", "my most gr")
TOP_N = 5
NEIGHBORS = 3
STOP_S = 15.0
"""How long the server may take to end; its own grace is shorter."""


def run_demo(out: Path | None, *, keep: bool) -> None:
    """Run the demonstration with a snapshot in `out`, built unless it is there, or in a temporary folder."""
    if out is not None:
        return _demonstrate(out)
    if keep:
        return _demonstrate(Path(tempfile.mkdtemp(prefix="ffnsearch-demo-")) / "coriolanus.ffn")
    with tempfile.TemporaryDirectory(prefix="ffnsearch-demo-") as folder:
        _demonstrate(Path(folder) / "coriolanus.ffn")


def _demonstrate(snapshot: Path) -> None:
    if snapshot.exists():
        _say(f"Using the snapshot in {snapshot}.")
    else:
        _build(snapshot)
    _say("Starting a server; the first one after an installation compiles the search, which takes half a minute.")
    started = time.perf_counter()
    with _served(snapshot) as address, Client(address) as client:
        _say(f"Serving it at {address}, in a process of its own, ready after {time.perf_counter() - started:.1f} s.")
        _ask(client)
    _say("The server has stopped.")


def _build(snapshot: Path) -> None:
    text = shakespeare.render(1)
    _say(f"Indexing Coriolanus ({len(text):,} characters) with the reference model, in {snapshot}.")
    started = time.perf_counter()
    with ProgressDisplay() as display:
        manifest = build(BuildRequest(Corpus("coriolanus", text), reference_folder(), snapshot), progress=display)
    seconds = time.perf_counter() - started
    _say(f"{manifest.substrings:,} substrings in {manifest.blocks} blocks, {seconds:.1f} s.")


@contextmanager
def _served(snapshot: Path) -> Iterator[str]:
    """Serve a snapshot in another process, on a free port; yields the address, and ends the process afterwards."""
    command = [sys.executable, "-m", "ffnsearch_service.cli", "serve", str(snapshot), "--port", "0"]
    command += ["--set", "logging.level=warning"]  # the answers are what is shown, not a line for each
    others = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=others) as process:
        assert process.stdout is not None
        try:
            yield _address(process.stdout.readline())
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _address(line: str) -> str:
    """Read the address from the line that a server prints when it is ready: `serving ADDRESS: ...`."""
    words = line.split()
    if not words or words[0] != "serving":
        raise AddressError("the server did not start: its own message is above", reason="SERVER_NOT_STARTED")
    return words[1].removesuffix(":")


def _ask(calls: Calls) -> None:
    answer = calls.predict(PROMPTS, top_n=TOP_N, include_model=True, include_contributions=True)
    show.print_prediction(PROMPTS, answer)
    for prompt, result in zip(PROMPTS, answer.results, strict=True):
        block = _weightiest_block(result)
        print(f"\nWhy {quoted(prompt)}: in ", end="")
        show.print_evidence(best_pages(calls, prompt, block, limit=NEIGHBORS), block, NEIGHBORS)
    print()


def _weightiest_block(result: PromptResult) -> int:
    """The block with evidence that contributes most to the likeliest token, or the first where there is no answer."""
    searched = [block for block, steps in enumerate(result.blocks) if steps]
    if result.distribution is None:
        return searched[0]
    contributions = result.distribution.tokens[0].block_contributions
    return max(searched, key=lambda block: contributions[block])


def _say(line: str) -> None:
    print(line, flush=True)

"""Builds and trainings in processes of their own, killed before a chosen operation on files, or denied the disk.

The processes are forked from one that has imported everything and computed nothing, so that each starts at once.
"""

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ffnsearch_indexer.additions import faiss, self_sums, tiles
from ffnsearch_indexer.build import pipeline
from ffnsearch_indexer.build import plan as planning
from ffnsearch_indexer.build.request import BuildRequest
from ffnsearch_indexer.corpora.corpus import Corpus
from ffnsearch_indexer.corpora.tokenizer import Tokenizer
from ffnsearch_indexer.errors import FfnSearchError
from ffnsearch_indexer.models import training
from ffnsearch_indexer.models.transformer import TransformerConfig
from ffnsearch_indexer.store import keys

KILLED = -signal.SIGKILL
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "__main__",
        faiss.__name__,
        self_sums.__name__,
        tiles.__name__,
        pipeline.__name__,
        training.__name__,
        "matplotlib.figure",
        "torch._dynamo",
    ]
)


@dataclass(frozen=True)
class Stop:
    """How a process is stopped: before its nth operation on files, and how large a file may grow."""

    before_operation: int | None = None
    file_bytes_max: int | None = None


@dataclass
class Ended:
    """How a process ended. operations: how often it changed files or told of its progress. result: what it returned."""

    exit_status: int | None = None
    operations: int = 0
    result: Any = None
    error: FfnSearchError | None = None
    rss_bytes_max: int = 0


@dataclass(frozen=True)
class BuildJob:
    """One call of `build`, with shards of few windows. It returns its plan."""

    text: str
    model: Path
    out: Path
    window_tokens: int = 5
    shard_windows: int = 100

    def run(self, tell: Callable[..., None]) -> planning.BuildPlan:
        keys.SHARD_WINDOWS = self.shard_windows
        planning._flops_per_second = lambda: 1e10
        plans: list[planning.BuildPlan] = []
        pipeline.build(
            BuildRequest(Corpus("text", self.text), self.model, self.out, window_tokens=self.window_tokens),
            announce=plans.append,
            progress=tell,
        )
        return plans[0]


@dataclass(frozen=True)
class TrainJob:
    """One call of `train`. It returns the record."""

    text: str
    out: Path
    config: TransformerConfig
    settings: training.TrainingSettings

    def run(self, tell: Callable[..., None]) -> training.TrainingRecord:
        tokenizer = Tokenizer.of_text(self.text)
        return training.train(Corpus("text", self.text), tokenizer, self.config, self.settings, self.out, progress=tell)


def run(job: BuildJob | TrainJob, stop: Stop = Stop()) -> Ended:
    """Run a job in a process of its own and say how it ended."""
    receiver, sender = _context.Pipe(duplex=False)
    process = _context.Process(target=_run_here, args=(job, stop, sender))
    process.start()
    sender.close()
    try:
        ended: Ended = receiver.recv()
    except EOFError:
        ended = Ended()
    process.join()
    receiver.close()
    ended.exit_status = process.exitcode
    process.close()
    return ended


@dataclass
class _Operations:
    """Counts what a job does to the files around its output, and kills the process before one of them."""

    folder: str
    kill_before: int | None
    done: int = field(default=0)

    def add(self, *_: object) -> None:
        self.done += 1
        if self.done == self.kill_before:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in _CHANGES) and str(arguments[0]).startswith(self.folder):
            self.add()


def _run_here(job: BuildJob | TrainJob, stop: Stop, sender: Any) -> None:
    operations = _Operations(str(job.out), stop.before_operation)
    sys.addaudithook(operations.audit)
    if stop.file_bytes_max is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (stop.file_bytes_max, stop.file_bytes_max))
    ended = Ended()
    try:
        ended.result = job.run(operations.add)
    except FfnSearchError as error:
        ended.error = error
    ended.operations = operations.done
    ended.rss_bytes_max = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sender.send(ended)

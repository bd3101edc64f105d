"""Training a model: seeded, resumable after a kill, with a record of what happened.

Iteration i draws its windows and its dropout from a generator seeded with (seed, i), so a run that
resumes from a checkpoint goes through the same numbers as one that was never stopped.
"""

import io
import json
import math
import pickle
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ffnsearch_indexer.alone import LOCK_FILE, alone_in, first_difference, in_words
from ffnsearch_indexer.corpora.corpus import Corpus
from ffnsearch_indexer.corpora.tokenizer import Tokenizer
from ffnsearch_indexer.errors import CorpusError, ModelError, OutputError
from ffnsearch_indexer.files import PARTIAL, disk_errors, sync, write_whole
from ffnsearch_indexer.hardware.gpu import choose_device, device_errors
from ffnsearch_indexer.models.curve import draw_curve, whole_curve
from ffnsearch_indexer.models.record import RECORD_FILE, UNREADABLE, Record, read_runs
from ffnsearch_indexer.models.transformer import TOKENIZER_FILE, Transformer, TransformerConfig
from ffnsearch_indexer.parts import parts_of
from ffnsearch_indexer.progress import Progress, silent

CURVE_FILE, CHECKPOINT_FILE = "curve.png", "checkpoint.pt"


@dataclass(frozen=True)
class TrainingSettings:
    """How long and how fast to train; the defaults made the reference model."""

    seed: int = 1
    iterations: int = 2000
    batch_windows: int = 32
    rate_peak: float = 1e-3
    rate_final: float = 1e-5
    warmup_iterations: int = 100
    weight_decay: float = 0.1
    checkpoint_iterations: int = 50
    evaluation_iterations: int = 100
    evaluation_windows: int = 64

    def __post_init__(self) -> None:
        numbers = (self.iterations, self.batch_windows, self.checkpoint_iterations, self.evaluation_iterations)
        if min(*numbers, self.evaluation_windows) < 1:
            raise ModelError(f"every number of iterations and of windows must be at least 1: {self}")
        if not 0 < self.rate_final <= self.rate_peak < math.inf:
            raise ModelError(
                f"the learning rate cannot go from rate_peak {self.rate_peak:g} to rate_final {self.rate_final:g}: "
                "let both be above 0, and the end no higher than the peak"
            )

    def rate(self, iteration: int) -> float:
        """Learning rate: a linear rise to the peak, then half a cosine down to the final rate."""
        rise = min(1.0, (iteration + 1) / max(1, self.warmup_iterations))
        fall = 0.5 * (1 + math.cos(math.pi * iteration / self.iterations))
        return rise * (self.rate_final + fall * (self.rate_peak - self.rate_final))


@dataclass
class TrainingRecord:
    """What a training run did; written as JSON beside the weights. Losses are in nats a token."""

    corpus: str
    corpus_sha256: str
    tokenizer_sha256: str
    settings: TrainingSettings
    config: TransformerConfig
    iteration: list[int] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    final_train_loss: float = math.nan
    final_validation_loss: float = math.nan
    seconds: float = 0.0
    machine: str = ""
    started_from: str = ""  # SHA-256 of the model that this run trained further, if any
    earlier: list[Record] = field(default_factory=list)  # the records of the runs that made that model

    def save(self, path: Path) -> None:
        """Write the record as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def train(
    corpus: Corpus,
    tokenizer: Tokenizer,
    config: TransformerConfig,
    settings: TrainingSettings,
    out: Path,
    *,
    start: Path | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> TrainingRecord:
    """Train a model on the first nine tenths of a corpus and write it to the folder `out`.

    start: the folder of a model to train further, of the same sizes; without it, random weights. device: `cpu`, a name
    of a GPU as torch has it, or `auto`, a GPU where there is one.

    A folder with the checkpoint of the same run is continued; any other folder that is not empty is
    refused (OutputError), as is one that cannot be written, or in which another process trains. Raises CorpusError
    for a text shorter than one window in either part, ModelError for a device that is not there, for a `start` that
    cannot be continued, where memory is too small, and where the loss stops being a number; DeviceError for a GPU that
    fails.
    """
    with (
        disk_errors("make room or choose another folder; the same command goes on from the last checkpoint"),
        device_errors(),
        _memory_errors(),
    ):
        run = _Run.open(corpus, tokenizer, config, settings, out, start, device)
        with alone_in(out, stays=out.exists()):
            run.continue_from_checkpoint()
            for iteration in range(run.iteration, settings.iterations):
                started = time.monotonic()
                loss = run.step(iteration)
                done = iteration + 1
                if done % settings.evaluation_iterations == 0:
                    run.evaluate(done)
                run.record.seconds += time.monotonic() - started
                if done % settings.checkpoint_iterations == 0 or done == settings.iterations:
                    run.save_checkpoint(done)
                progress("train", done, settings.iterations, run.detail(loss))
            return run.finish()


class _Run:
    """The state of one training run: model, optimizer, record, and the two parts of the corpus."""

    def __init__(
        self, tokens: Tensor, train_tokens: int, record: TrainingRecord, tokenizer: Tokenizer, out: Path, device: str
    ) -> None:
        self.train, self.validation = tokens[:train_tokens], tokens[train_tokens:]
        self.record, self.settings = record, record.settings
        self.tokenizer, self.out, self.device = tokenizer, out, device
        self.iteration = 0
        torch.manual_seed(record.settings.seed)
        self.model = Transformer(record.config).to(device)
        matrices = [parameter for parameter in self.model.parameters() if parameter.dim() > 1]
        vectors = [parameter for parameter in self.model.parameters() if parameter.dim() <= 1]
        groups = [
            {"params": matrices, "weight_decay": record.settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)

    @classmethod
    def open(
        cls,
        corpus: Corpus,
        tokenizer: Tokenizer,
        config: TransformerConfig,
        settings: TrainingSettings,
        out: Path,
        start: Path | None,
        device: str,
    ) -> "_Run":
        tokens = torch.from_numpy(tokenizer.encode(corpus.text, where=f"the corpus {corpus.name}").astype(np.int64))
        train_tokens = corpus.train_tokens()
        if min(train_tokens, len(tokens) - train_tokens) <= config.context_tokens:
            raise CorpusError(
                f"the corpus {corpus.name} has {len(tokens)} characters; training needs more than "
                f"{10 * config.context_tokens}, so that its last tenth holds a window of {config.context_tokens}",
                reason="CORPUS_TOO_SHORT",
            )
        device = choose_device(device) if device == "auto" else device
        machine = _machine(device)
        record = TrainingRecord(corpus.name, corpus.sha256, tokenizer.sha256, settings, config, machine=machine)
        run = cls(tokens, train_tokens, record, tokenizer, out, device)
        if start:
            run._start_from(start)
        return run

    def continue_from_checkpoint(self) -> None:
        """Take over the checkpoint that the same run has left; refuse a folder with anything else in it."""
        checkpoint = self.out / CHECKPOINT_FILE
        if checkpoint.exists():
            self._load_checkpoint(checkpoint)
        elif any(path.name not in (LOCK_FILE, CHECKPOINT_FILE + PARTIAL) for path in self.out.iterdir()):
            raise OutputError(
                f"{self.out} exists and is not empty: choose another folder, or delete it", reason="OUTPUT_EXISTS"
            )

    def step(self, iteration: int) -> float:
        """Do one iteration and return its loss."""
        seed = np.random.SeedSequence([self.settings.seed, iteration])
        starts_rng, dropout_seed = np.random.default_rng(seed), int(seed.generate_state(1)[0])
        torch.manual_seed(dropout_seed)
        starts = starts_rng.integers(0, len(self.train) - self.model.config.context_tokens, self.settings.batch_windows)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(iteration)
        loss = self._loss(self.train, starts)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return _finite(loss.item())

    def evaluate(self, iteration: int) -> None:
        """Add a point to the curve, from windows spread evenly over both parts."""
        self.record.iteration.append(iteration)
        self.record.train_loss.append(self._mean_loss(self.train, self.settings.evaluation_windows))
        self.record.validation_loss.append(self._mean_loss(self.validation, self.settings.evaluation_windows))

    def detail(self, loss: float) -> str:
        """One line for the progress display."""
        validation = f", validation {self.record.validation_loss[-1]:.3f}" if self.record.validation_loss else ""
        return f"loss {loss:.3f}{validation}"

    def save_checkpoint(self, iteration: int) -> None:
        """Write all that a later process needs, in one step: an old checkpoint or a new one, never half."""
        state = {
            "iteration": iteration,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "record": asdict(self.record),
        }
        buffer = io.BytesIO()  # torch would write the file itself, and report a full disk in its own words
        torch.save(state, buffer)
        write_whole(self.out / CHECKPOINT_FILE, lambda path: path.write_bytes(buffer.getbuffer()))

    def finish(self) -> TrainingRecord:
        """Measure the final losses, write the model and its record, drop the checkpoint.

        They are means over the whole validation part, and over as many windows of the training part, spread evenly.
        """
        windows = (len(self.validation) - 1) // self.model.config.context_tokens
        self.record.final_train_loss = self._mean_loss(self.train, windows)
        self.record.final_validation_loss = self._mean_loss(self.validation, windows)
        self.model.cpu().save(self.out, dtype=torch.float16)
        self.tokenizer.save(self.out / TOKENIZER_FILE)
        self.record.save(self.out / RECORD_FILE)
        draw_curve(asdict(self.record), self.out / CURVE_FILE)
        for path in (*self.out.iterdir(), self.out):
            sync(path)
        (self.out / CHECKPOINT_FILE).unlink(missing_ok=True)
        return self.record

    def _start_from(self, folder: Path) -> None:
        """Take over the weights and the records of a trained model."""
        model = Transformer.load(folder)
        if replace(model.config, dropout=self.record.config.dropout) != self.record.config:
            raise ModelError(f"the model in {folder} has other sizes than the one to train: give those of its config")
        self.model.load_state_dict(model.state_dict())
        self.record.started_from = model.sha256()
        if (folder / RECORD_FILE).exists():
            self.record.earlier = _runs_of(folder)

    def _load_checkpoint(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            saved, mine = state["record"], asdict(self.record)
        except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError):
            raise OutputError(
                f"{path} is not a checkpoint that can be continued: delete it, or choose another folder"
            ) from None
        names = ("corpus_sha256", "tokenizer_sha256", "settings", "config", "started_from")
        if name := first_difference(saved, {name: mine[name] for name in names}):
            raise OutputError(
                f"{path} belongs to a run with another {in_words(name)}: "
                "give the same options, or choose another folder",
                reason="OUTPUT_EXISTS",
                different=name,
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.iteration = state["iteration"]
        for name in ("iteration", "train_loss", "validation_loss", "seconds"):
            setattr(self.record, name, saved[name])

    @torch.no_grad()
    def _mean_loss(self, part: Tensor, windows: int) -> float:
        starts = np.linspace(0, len(part) - self.model.config.context_tokens - 1, windows).astype(np.int64)
        self.model.eval()
        batches = (starts[batch] for batch in parts_of(windows, self.settings.batch_windows))
        losses = [self._loss(part, batch).item() * len(batch) for batch in batches]
        self.model.train()
        return _finite(sum(losses) / windows)

    def _loss(self, part: Tensor, starts: np.ndarray) -> Tensor:
        windows = torch.from_numpy(starts)[:, None] + torch.arange(self.model.config.context_tokens + 1)
        tokens = part[windows].to(self.device)
        with torch.autocast(self.device.split(":")[0], torch.bfloat16):
            logits = self.model(tokens[:, :-1]).logits
        return F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())


def _finite(loss: float) -> float:
    if not math.isfinite(loss):
        raise ModelError(
            f"the loss is {loss}, so this training gives no model: train into another folder, with a lower rate_peak",
            reason="NOT_FINITE",
        )
    return loss


def _runs_of(model_folder: Path) -> list[Record]:
    """The records of all runs that made a model, which will be part of this run's curve."""
    try:
        runs = read_runs(model_folder)
        whole_curve(runs)
    except UNREADABLE:
        path = model_folder / RECORD_FILE
        raise ModelError(
            f"{path} cannot be read as a training record: delete it, or give another model to train further", file=path
        ) from None
    return runs


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Turn what numpy and torch raise where this machine has no memory left into a ModelError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise ModelError(
            "the training needs more memory than there is: choose fewer windows a batch, or a smaller model",
            reason="OUT_OF_MEMORY",
        ) from error


def _machine(device: str) -> str:
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError):
        raise ModelError(
            f"the device {device!r} cannot be used here: choose cpu, or cuda where there is a GPU that torch can use",
            reason="DEVICE_UNAVAILABLE",
            device=device,
        ) from None
    name = (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or platform.machine()
    )
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"

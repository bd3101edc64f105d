"""From a corpus and a model to a snapshot, top to bottom, resumable by shard.

Everything is written into a folder `OUT.partial` that gets the name `OUT` when it is whole. A build that
was killed is continued from its last whole shard, and gives the same bytes as one that was not.
"""

import fcntl
import json
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ffnsearch_indexer.answer.profile import default_profile
from ffnsearch_indexer.corpora.corpus import Corpus
from ffnsearch_indexer.corpora.substrings import Substrings, find_substrings, pack_windows, sort_windows
from ffnsearch_indexer.corpora.tokenizer import Tokenizer, Tokens
from ffnsearch_indexer.errors import ModelError, OutputError
from ffnsearch_indexer.models import activations
from ffnsearch_indexer.models.prefixes import count_prefixes
from ffnsearch_indexer.models.transformer import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, Transformer
from ffnsearch_indexer.progress import Progress, silent
from ffnsearch_indexer.store import keys, snapshot
from ffnsearch_indexer.store.counts import map_bytes, write_records
from ffnsearch_indexer.store.files import disk_errors, require_free_disk, save_array, sync
from ffnsearch_indexer.store.snapshot import Manifest, write_manifest

Split = Literal["all", "train"]

IDENTITY_FILE = "build.json"
SHARDS_FOLDER = "shards"
LIBRARIES = ("ffnsearch", "torch", "numpy", "numba", "lmdb")


@dataclass(frozen=True)
class Plan:
    """What a build will take, known before the work starts."""

    substrings: int
    distinct_prefixes: int
    shards: int
    shards_done: int
    seconds: float
    memory_bytes: int
    disk_bytes: int
    snapshot_bytes: int


@dataclass(frozen=True)
class _Source:
    """What a build reads: model, tokens, and the windows in both orders."""

    corpus: Corpus
    split: Split
    model: Transformer
    tokenizer: Tokenizer
    model_folder: Path
    tokens: Tokens
    substrings: Substrings
    windows: NDArray[np.uint16]  # [N, L] by id
    order: NDArray[np.int64]  # [N] ids, in ascending order of windows

    def identity(self) -> dict[str, object]:
        """What must be the same for a killed build to be continued."""
        return {
            "format_version": snapshot.FORMAT_VERSION,
            "model_sha256": self.model.sha256(),
            "tokenizer_sha256": self.tokenizer.sha256,
            "corpus_sha256": self.corpus.sha256,
            "split": self.split,
            "window_tokens": self.substrings.window_tokens,
            "shard_windows": keys.SHARD_WINDOWS,
            "written_by": _written_by(),
        }


def build(
    corpus: Corpus,
    model_folder: Path,
    out: Path,
    *,
    window_tokens: int = 10,
    split: Split = "all",
    announce: Callable[[Plan], None] = lambda plan: None,
    progress: Progress = silent,
) -> Manifest:
    """Build the snapshot `out` of a corpus with the model in `model_folder` and return its manifest.

    announce: called once with what the work will take, before it starts. Raises OutputError where `out`
    exists or the disk has no room, CorpusError, TokenError and ModelError for input that does not fit.
    What a failed or killed build leaves is `OUT.partial`; the same call continues it.
    """
    if out.exists():
        raise OutputError(f"{out} exists already: choose another name, or delete it", reason="OUTPUT_EXISTS", path=out)
    source = _read(corpus, model_folder, window_tokens, split, progress)
    work = out.with_name(out.name + ".partial")
    with disk_errors(f"what is done stays in {work}: make room and run the same command again"), _claim(work, source):
        plan = _plan(source, work)
        require_free_disk(work, plan.disk_bytes)
        announce(plan)
        _write_keys(source, work, progress)
        _write_counts(source, work, progress)
        _write_model_and_corpus(source, work)
        progress("checksums", 0, 1, "")
        shutil.rmtree(work / SHARDS_FOLDER, ignore_errors=True)
        manifest = write_manifest(work, _manifest(source, plan), leave_out=IDENTITY_FILE)
        progress("checksums", 1, 1, "")
        work.rename(out)
        (out / IDENTITY_FILE).unlink()
        sync(out.parent)
    return manifest


def _read(corpus: Corpus, model_folder: Path, window_tokens: int, split: Split, progress: Progress) -> _Source:
    model, tokenizer = Transformer.load(model_folder), Tokenizer.load(model_folder / TOKENIZER_FILE)
    if tokenizer.vocabulary_size != model.config.vocabulary_size:
        raise ModelError(
            f"{model_folder} has a model of {model.config.vocabulary_size} tokens and a tokenizer of "
            f"{tokenizer.vocabulary_size}: they do not belong together"
        )
    limit = min(model.config.context_tokens, activations.WINDOW_TOKENS_MAX)
    if not 1 <= window_tokens <= limit:
        raise ModelError(f"the window has {window_tokens} tokens; this model and the store allow 1 to {limit}")
    tokens = tokenizer.encode(corpus.text, where=f"the corpus {corpus.name}")
    indexed = tokens[: corpus.train_tokens()] if split == "train" else tokens
    substrings = find_substrings(indexed, window_tokens, tokenizer.vocabulary_size, progress=progress)
    windows = substrings.tokens_of(indexed)
    order = sort_windows(pack_windows(windows, tokenizer.vocabulary_size))
    return _Source(corpus, split, model, tokenizer, model_folder, tokens, substrings, windows, order)


@contextmanager
def _claim(work: Path, source: _Source) -> Iterator[None]:
    """Make or reopen the work folder for this build alone."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / IDENTITY_FILE
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"another build is writing {work}: wait for it, or choose another name", reason="OUTPUT_BUSY") from None
        file.seek(0)
        found, mine = file.read(), json.dumps(source.identity(), sort_keys=True)
        is_new = not found and sum(1 for _ in work.iterdir()) == 1
        if found != mine and not is_new:
            raise OutputError(
                f"{work} is what is left of a build with another {_difference(found, mine)}: delete it, or choose another name",
                reason="OUTPUT_EXISTS",
                path=work,
            )
        if is_new:
            file.write(mine)
            file.flush()
        yield


def _difference(found: str, mine: str) -> str:
    try:
        old, new = json.loads(found), json.loads(mine)
        return next(name for name in new if old.get(name) != new[name]).removesuffix("_sha256").replace("_", " ")
    except (ValueError, AttributeError, StopIteration):
        return "format"


def _plan(source: _Source, work: Path) -> Plan:
    N, config = len(source.substrings), source.model.config
    prefixes = count_prefixes(source.windows[source.order])
    shards = keys.shard_ranges(N)
    done = sum(keys.shard_path(work / SHARDS_FOLDER, shard).exists() for shard in range(len(shards)))
    blocks_done = sum((work / snapshot.keys_file(block)).exists() for block in range(config.blocks))
    key_bytes = 2 * N * config.d_model * config.blocks
    other_bytes = map_bytes(source.substrings) + 16 * len(source.tokens) + 30 * N + 4 * source.model.parameter_count()
    shard_windows = min(N, keys.SHARD_WINDOWS)
    shard_prefixes = prefixes * shard_windows // N
    is_done = blocks_done == config.blocks
    left = 0.0 if is_done else 1 - done / len(shards)
    missing_bytes = int(key_bytes * (left + 1 - blocks_done / config.blocks))
    return Plan(
        substrings=N,
        distinct_prefixes=prefixes,
        shards=len(shards),
        shards_done=len(shards) if is_done else done,
        seconds=left * prefixes * activations.flops_per_node(source.model) / _flops_per_second() * 1.3 + key_bytes / 0.4e9,
        memory_bytes=(500 << 20)
        + max(activations.memory_bytes(shard_prefixes, shard_windows, source.model), 2 * N * config.d_model)
        + 60 * len(source.tokens)
        + 40 * N,
        disk_bytes=missing_bytes + other_bytes,
        snapshot_bytes=key_bytes + other_bytes,
    )


def _flops_per_second() -> float:
    """Measure this machine for a moment with the matrix product that the work consists of."""
    x, weight = torch.ones(activations.TILE_NODES, 384), torch.ones(1536, 384)
    flops = 2.0 * len(x) * weight.numel()
    rates = []
    for _ in range(8):
        started = time.perf_counter()
        torch.mm(x, weight.T)
        rates.append(flops / (time.perf_counter() - started))
    return float(np.median(rates))


def _write_keys(source: _Source, work: Path, progress: Progress) -> None:
    blocks = {block: work / snapshot.keys_file(block) for block in range(source.model.config.blocks)}
    missing = {block: path for block, path in blocks.items() if not path.exists()}
    if not missing:
        return
    shards = work / SHARDS_FOLDER
    shards.mkdir(exist_ok=True)
    (work / "keys").mkdir(exist_ok=True)
    N = len(source.substrings)
    for shard, positions in enumerate(keys.shard_ranges(N)):
        if not keys.shard_path(shards, shard).exists():
            windows = source.windows[source.order[positions.start : positions.stop]]
            keys.save_shard(shards, shard, activations.extract_keys(source.model, windows))
        progress("keys", positions.stop, N, "")
    for block, path in missing.items():
        keys.assemble_block(shards, block, source.order, source.model.config.d_model, path)
        progress("blocks", block + 1, len(blocks), "")


def _write_counts(source: _Source, work: Path, progress: Progress) -> None:
    progress("counts", 0, 1, "")
    for folder in ("counts", "substrings"):
        (work / folder).mkdir(exist_ok=True)
    counts = source.substrings.counts
    save_array(work / snapshot.FIRST_POSITIONS_FILE, source.substrings.first_positions)
    save_array(work / snapshot.OFFSETS_FILE, counts.offsets)
    save_array(work / snapshot.TOKENS_FILE, counts.tokens)
    save_array(work / snapshot.COUNTS_FILE, counts.counts)
    records = work / snapshot.RECORDS_FILE
    records.unlink(missing_ok=True)
    write_records(records, source.substrings, source.windows, source.order)
    sync(records)
    progress("counts", 1, 1, "")


def _write_model_and_corpus(source: _Source, work: Path) -> None:
    for folder in ("model", "corpus"):
        (work / folder).mkdir(exist_ok=True)
    for name in (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE):
        copy = work / snapshot.MODEL_FOLDER / name
        shutil.copyfile(source.model_folder / name, copy)
        sync(copy)
    save_array(work / snapshot.CORPUS_FILE, source.tokens)


def _manifest(source: _Source, plan: Plan) -> Manifest:
    profile = default_profile(source.model.config.blocks)
    return Manifest(
        model_sha256=source.model.sha256(),
        tokenizer_sha256=source.tokenizer.sha256,
        corpus_name=source.corpus.name,
        corpus_sha256=source.corpus.sha256,
        corpus_characters=len(source.corpus.text),
        split=source.split,
        window_tokens=source.substrings.window_tokens,
        blocks=source.model.config.blocks,
        d_model=source.model.config.d_model,
        substrings=plan.substrings,
        distinct_prefixes=plan.distinct_prefixes,
        vocabulary_size=source.tokenizer.vocabulary_size,
        shards=plan.shards,
        profiles={profile.name: profile.to_json()},
        default_profile=profile.name,
        files={},
        written_by=_written_by(),
    )


def _written_by() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}



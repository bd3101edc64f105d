"""From a corpus and a model to a snapshot, top to bottom, resumable by shard.

A build works in a folder `OUT.partial`, and a build that was killed is continued from its last whole shard; it gives
the same bytes as one that was not.

work.json     what is built
shards/       keys in the order of sorted windows, until the blocks are put together
snapshot/     becomes OUT when it is whole
"""

import platform
import resource
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ffnsearch_indexer.alone import Identity, first_difference, in_words
from ffnsearch_indexer.answer.profile import default_profile
from ffnsearch_indexer.corpora.corpus import Corpus, Split
from ffnsearch_indexer.corpora.substrings import Substrings, find_substrings, pack_windows, sort_windows
from ffnsearch_indexer.corpora.tokenizer import Tokenizer, Tokens
from ffnsearch_indexer.errors import BackendError, MismatchError, ModelError, OutputError
from ffnsearch_indexer.files import disk_errors, load_array, require_free_disk, save_array, sync, write_whole
from ffnsearch_indexer.hardware.gpu import choose_device, device_errors
from ffnsearch_indexer.index.tiles import ENDING_TOKENS, tiles_bytes, tiles_memory_bytes
from ffnsearch_indexer.models import extraction
from ffnsearch_indexer.models.on_device import DeviceModel, require_precision
from ffnsearch_indexer.models.packed import PackedModel, pack_model
from ffnsearch_indexer.models.prefixes import count_prefixes
from ffnsearch_indexer.models.products import ROWS_TOGETHER, multiply_packed, pack
from ffnsearch_indexer.models.record import training_text
from ffnsearch_indexer.models.transformer import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, Transformer
from ffnsearch_indexer.progress import Progress, silent
from ffnsearch_indexer.store import keys, layout
from ffnsearch_indexer.store.faiss import FaissKind, plan_faiss
from ffnsearch_indexer.store.manifest import FORMAT_VERSION, Manifest, read_manifest, revise_manifest, write_manifest
from ffnsearch_indexer.store.records import map_bytes, write_records
from ffnsearch_indexer.store.tiles import write_tiles
from ffnsearch_indexer.store.work import build_folder, claim, require_own

SHARDS_FOLDER, SNAPSHOT_FOLDER = "shards", "snapshot"
SECONDS_OF_TILES = {"cpu": 20e-6, "cuda": 8e-6}
"""Measured: what a core takes to put one key of 384 dimensions into a tile; beside a GPU, to order it alone."""
LATER_BYTES = 300 << 20
"""What libraries and compiled code take beside a build's arrays once they are used."""

MODEL_OVERHEAD = 1.3
"""How much longer a forward pass takes on the CPU than the matrix products in it."""

ASSEMBLED_BYTES_PER_SECOND = 0.4e9
"""How fast the keys of blocks are put together from shards."""

TOKEN_MEMORY_BYTES, SUBSTRING_MEMORY_BYTES = 60, 40
"""What the corpus and its windows, places and counts take at most, for each token and each substring."""

TOKEN_DISK_BYTES, SUBSTRING_DISK_BYTES, PARAMETER_DISK_BYTES = 16, 30, 4
"""What corpus, arrays of counts and model take in a snapshot at most: all but records, keys and tiles."""

LIBRARIES = ("ffnsearch", "torch", "numpy", "numba", "lmdb")


@dataclass(frozen=True)
class BuildRequest:
    """What is to be built, of which corpus and model, and where.

    device: where the model runs and tiles are measured, `auto`, `cpu` or `cuda`. precision: of the model on a GPU, one
    of PRECISIONS. faiss: the indexes that are to follow the build: their room is asked for, too.
    """

    corpus: Corpus
    model_folder: Path
    out: Path
    window_tokens: int = 10
    split: Split = "all"
    device: str = "auto"
    precision: str = "float32"
    faiss: Sequence[FaissKind] = ()


@dataclass(frozen=True)
class BuildPlan:
    """What a build will take, known before the work starts; seconds: without the calibration that may follow."""

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

    request: BuildRequest
    model: Transformer
    tokenizer: Tokenizer
    tokens: Tokens
    substrings: Substrings
    windows: NDArray[np.uint16]  # [N, L] by id
    order: NDArray[np.int64]  # [N] ids, in ascending order of windows
    device: str  # cpu or cuda

    @cached_property
    def packed_model(self) -> PackedModel:
        """The model as windows are run with it on the CPU."""
        return pack_model(self.model)

    @cached_property
    def device_model(self) -> DeviceModel | None:
        """The model as windows are run with it on a GPU; None on the CPU."""
        if self.device == "cpu":
            return None
        return DeviceModel(self.model, self.windows.shape[1], device=self.device, precision=self.request.precision)

    @property
    def forward(self) -> str:
        """Which forward pass makes the keys: the same words, the same bytes."""
        return self.device_model.description if self.device_model else "compiled, on a CPU"

    def extract_keys(self, windows: NDArray[np.uint16]) -> NDArray[np.float16]:
        """The keys [K, n, D] of sorted windows [n, L]."""
        if self.device_model:
            return self.device_model.extract_keys(windows)
        return extraction.extract_keys(self.packed_model, windows)

    @cached_property
    def identity(self) -> dict[str, object]:
        """What must be the same for a killed build to be continued."""
        return {
            "format_version": FORMAT_VERSION,
            "model_sha256": self.model.sha256(),
            "tokenizer_sha256": self.tokenizer.sha256,
            "corpus_sha256": self.request.corpus.sha256,
            "split": self.request.split,
            "window_tokens": self.substrings.window_tokens,
            "shard_windows": keys.SHARD_WINDOWS,
            "forward_pass": self.forward,
            "set_of_libraries": _libraries(),
        }


def build(
    request: BuildRequest,
    *,
    announce: Callable[[BuildPlan], None] = lambda plan: None,
    progress: Progress = silent,
) -> Manifest:
    """Build the snapshot of a request and return its manifest.

    announce: called once with what the work will take, before it starts. Raises OutputError where `out` exists or the
    disk has no room, CorpusError, TokenError and ModelError for input that does not fit, BackendError for a device that
    is not there or lacks the precision, and DeviceError for one that fails. What a failed or killed build leaves is
    `OUT.partial`; the same call continues it, on the same kind of device.
    """
    out = request.out
    _require_new(out)
    source = _read(request, progress)
    work = build_folder(out)
    with (
        disk_errors("make room or choose another place; what is done is kept, the same command continues it"),
        device_errors(),
    ):
        plan = _plan(source, work)
        require_free_disk(work, plan.disk_bytes)
        with claim(work, source.identity):
            _require_new(out)  # another build may have ended meanwhile
            announce(plan)
            whole = work / SNAPSHOT_FOLDER
            _write_keys(source, work, whole, progress)
            _write_counts(source, whole, progress)
            _write_tiles(source, whole, progress)
            _write_model_and_corpus(source, whole)
            manifest = write_manifest(whole, _manifest(source, plan), progress)
            whole.rename(out)
            sync(out.parent)
    return manifest


def estimate(request: BuildRequest, *, progress: Progress = silent) -> BuildPlan:
    """Say what `build` would take for the same request, or why it would be refused; writes nothing."""
    _require_new(request.out)
    source = _read(request, progress)
    work = build_folder(request.out)
    with disk_errors("choose another place"), device_errors():
        plan = _plan(source, work)
        require_free_disk(work, plan.disk_bytes)
    return plan


def finished(request: BuildRequest) -> Manifest:
    """The manifest of the snapshot that `build` has made for the same request, on whatever device.

    Raises what reading it and the model raises, and MismatchError for a snapshot of anything else.
    """
    manifest = read_manifest(request.out)
    wanted: Identity = {
        "model_sha256": Transformer.load(request.model_folder).sha256(),
        "tokenizer_sha256": Tokenizer.load(request.model_folder / TOKENIZER_FILE).sha256,
        "corpus_sha256": request.corpus.sha256,
        "split": request.split,
        "window_tokens": request.window_tokens,
        "precision": request.precision,
    }
    if name := first_difference({**vars(manifest), "precision": manifest.precision}, wanted):
        raise MismatchError(
            f"{request.out} was built with another {in_words(name)}: give the command that built it, or another --out",
            different=name,
        )
    return manifest


def add_training_text(request: BuildRequest) -> Manifest:
    """Let a finished snapshot say what its model was trained on, where that is known; return its manifest.

    Earlier versions did not write it.
    """
    trained_on = training_text(request.model_folder)
    if trained_on is None:
        return read_manifest(request.out)
    return revise_manifest(request.out, lambda manifest: replace(manifest, trained_on=trained_on))


def is_there(out: Path) -> bool:
    """Whether anything has the name of a snapshot to be; raises OutputError where that cannot be told."""
    with disk_errors("choose another place"):
        return out.exists() or out.is_symlink()  # a link to nothing is there too


def _require_new(out: Path) -> None:
    try:
        str(out).encode()
    except UnicodeEncodeError:
        raise OutputError(
            f"the name {out} is not UTF-8, which LMDB and others need: choose another name", path=out
        ) from None
    if is_there(out):
        raise OutputError(
            f"{out} exists already: choose another name, delete it, or go on with what follows its build: --resume",
            reason="OUTPUT_EXISTS",
            path=out,
        )


def _read(request: BuildRequest, progress: Progress) -> _Source:
    corpus, window_tokens = request.corpus, request.window_tokens
    device = choose_device(request.device)
    require_precision(request.precision)
    if device == "cpu" and request.precision != "float32":
        raise BackendError(
            f"a model has the precision {request.precision} on a GPU alone: "
            "leave --precision out, or choose --device cuda",
            reason="PRECISION_NEEDS_GPU",
            precision=request.precision,
        )
    model = Transformer.load(request.model_folder)
    tokenizer = Tokenizer.load(request.model_folder / TOKENIZER_FILE)
    if tokenizer.vocabulary_size != model.config.vocabulary_size:
        raise ModelError(
            f"{request.model_folder} has a model of {model.config.vocabulary_size} tokens and a tokenizer of "
            f"{tokenizer.vocabulary_size}: take both from one training run, or choose another model"
        )
    limit = min(model.config.context_tokens, extraction.WINDOW_TOKENS_MAX)
    if not 1 <= window_tokens <= limit:
        raise ModelError(
            f"the window has {window_tokens} tokens; this model and the store allow 1 to {limit}: "
            "choose another --window-tokens"
        )
    tokens = tokenizer.encode(corpus.text, where=f"the corpus {corpus.name}")
    indexed = tokens[: corpus.train_tokens()] if request.split == "train" else tokens
    substrings = find_substrings(indexed, window_tokens, tokenizer.vocabulary_size, progress=progress)
    windows = substrings.tokens_of(indexed)
    order = sort_windows(pack_windows(windows, tokenizer.vocabulary_size))
    return _Source(request, model, tokenizer, tokens, substrings, windows, order, device)


def _plan(source: _Source, work: Path) -> BuildPlan:
    require_own(work, source.identity)
    N, config = len(source.substrings), source.model.config
    shards = len(keys.shard_ranges(N))
    shards_done = sum(keys.shard_path(work / SHARDS_FOLDER, shard).exists() for shard in range(shards))
    blocks_done = sum((work / SNAPSHOT_FOLDER / layout.keys_file(block)).exists() for block in range(config.blocks))
    if blocks_done == config.blocks:
        shards_done = shards
    prefixes = count_prefixes(source.windows[source.order])
    of_faiss = plan_faiss(dict.fromkeys(source.request.faiss, config.blocks), N, config.d_model)
    shards_left, blocks_left = 1 - shards_done / shards, 1 - blocks_done / config.blocks
    other_bytes = _disk_bytes_beside_keys(source) + of_faiss.disk_bytes
    return BuildPlan(
        substrings=N,
        distinct_prefixes=prefixes,
        shards=shards,
        shards_done=shards_done,
        seconds=_seconds(source, prefixes, shards_left),
        memory_bytes=_memory_bytes(source, of_faiss.memory_bytes),
        disk_bytes=int(_key_bytes(source) * (shards_left + blocks_left)) + other_bytes,
        snapshot_bytes=_key_bytes(source) + other_bytes,
    )


def _seconds(source: _Source, prefixes: int, shards_left: float) -> float:
    """What the work takes. shards_left: the share of the shards that the model must still be run for."""
    blocks, N = source.model.config.blocks, len(source.substrings)
    of_tiles = blocks * N * SECONDS_OF_TILES[source.device] / torch.get_num_threads()
    of_blocks = _key_bytes(source) / ASSEMBLED_BYTES_PER_SECOND
    return shards_left * _seconds_of_model(source, prefixes) + of_blocks + of_tiles


def _memory_bytes(source: _Source, faiss_bytes: int) -> int:
    """What the largest of the steps needs, beside what all of them hold. faiss_bytes: of the step that follows."""
    config, N, counts = source.model.config, len(source.substrings), source.substrings.counts
    tiles_at_once = min(torch.get_num_threads(), config.blocks)  # as `write_tiles` makes them
    largest_step_bytes = max(
        extraction.memory_bytes(min(N, keys.SHARD_WINDOWS), config, source.windows.shape[1]),
        2 * N * config.d_model,
        tiles_at_once * tiles_memory_bytes(N, config.d_model, counts),
        faiss_bytes,
    )
    held_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # of libraries above all, and so far
    source_bytes = TOKEN_MEMORY_BYTES * len(source.tokens) + SUBSTRING_MEMORY_BYTES * N
    return held_bytes + LATER_BYTES + largest_step_bytes + source_bytes


def _disk_bytes_beside_keys(source: _Source) -> int:
    """What all of the snapshot but the keys takes at most: records, arrays, model and tiles."""
    config, N, counts = source.model.config, len(source.substrings), source.substrings.counts
    arrays_bytes = TOKEN_DISK_BYTES * len(source.tokens) + SUBSTRING_DISK_BYTES * N
    model_bytes = PARAMETER_DISK_BYTES * source.model.parameter_count()
    all_tiles_bytes = config.blocks * tiles_bytes(N, config.d_model, counts)
    return map_bytes(source.substrings) + arrays_bytes + model_bytes + all_tiles_bytes


def _key_bytes(source: _Source) -> int:
    """What the keys of all blocks take."""
    return 2 * len(source.substrings) * source.model.config.d_model * source.model.config.blocks


def _seconds_of_model(source: _Source, prefixes: int) -> float:
    """What running all windows takes: each distinct prefix once on the CPU, each window whole on a GPU."""
    if source.device_model:
        return len(source.windows) * source.device_model.seconds_per_window()
    return prefixes * extraction.flops_per_node(source.model.config) / _flops_per_second() * MODEL_OVERHEAD


def _flops_per_second() -> float:
    """Measure this machine for a moment with the matrix product that the work consists of."""
    x, weight = np.ones((20 * ROWS_TOGETHER, 384), np.float32), np.ones((1536, 384), np.float32)
    packed, out = pack(weight), np.zeros((len(x), len(weight)), np.float32)
    multiply_packed(x, packed, out)  # compiles it, or loads what was compiled
    flops = 2.0 * len(x) * weight.size
    rates = []
    for _ in range(8):
        started = time.perf_counter()
        multiply_packed(x, packed, out)
        rates.append(flops / (time.perf_counter() - started))
    return float(np.median(rates)) * torch.get_num_threads()


def _write_keys(source: _Source, work: Path, whole: Path, progress: Progress) -> None:
    shards, blocks = work / SHARDS_FOLDER, range(source.model.config.blocks)
    missing = [block for block in blocks if not (whole / layout.keys_file(block)).exists()]
    if missing:
        _write_shards(source, shards, progress)
    (whole / layout.KEYS_FOLDER).mkdir(parents=True, exist_ok=True)
    for block in missing:
        keys.assemble_block(shards, block, source.order, source.model.config.d_model, whole / layout.keys_file(block))
        progress("blocks", block + 1, len(blocks))
    shutil.rmtree(shards, ignore_errors=True)


def _write_shards(source: _Source, shards: Path, progress: Progress) -> None:
    shards.mkdir(exist_ok=True)
    N = len(source.substrings)
    progress("keys", 0, N)
    for shard, positions in enumerate(keys.shard_ranges(N)):
        if not keys.shard_path(shards, shard).exists():
            windows = source.windows[source.order[positions.start : positions.stop]]
            keys.save_shard(shards, shard, source.extract_keys(windows))
        progress("keys", positions.stop, N)


def _write_tiles(source: _Source, whole: Path, progress: Progress) -> None:
    endings = source.windows[:, -ENDING_TOKENS:]
    counts = source.substrings.counts
    write_tiles(whole, _mapped_keys(source, whole), counts, endings, progress, device=source.device)


def _mapped_keys(source: _Source, whole: Path) -> list[NDArray[np.float16]]:
    shape = len(source.substrings), source.model.config.d_model
    blocks = range(source.model.config.blocks)
    return [load_array(whole / layout.keys_file(block), np.float16, shape) for block in blocks]


def _write_counts(source: _Source, whole: Path, progress: Progress) -> None:
    progress("counts", 0, 1)
    counts = source.substrings.counts
    save_array(whole / layout.FIRST_POSITIONS_FILE, source.substrings.first_positions)
    save_array(whole / layout.OFFSETS_FILE, counts.offsets)
    save_array(whole / layout.TOKENS_FILE, counts.tokens)
    save_array(whole / layout.COUNTS_FILE, counts.counts)
    write_whole(
        whole / layout.RECORDS_FILE,
        lambda path: write_records(path, source.substrings, source.windows, source.order),
    )
    progress("counts", 1, 1)


def _write_model_and_corpus(source: _Source, whole: Path) -> None:
    for name in (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE):
        write_whole(whole / layout.MODEL_FOLDER / name, partial(shutil.copyfile, source.request.model_folder / name))
    save_array(whole / layout.CORPUS_FILE, source.tokens)


def _manifest(source: _Source, plan: BuildPlan) -> Manifest:
    profile = default_profile(source.model.config.blocks)
    return Manifest(
        model_sha256=source.model.sha256(),
        tokenizer_sha256=source.tokenizer.sha256,
        corpus_name=source.request.corpus.name,
        corpus_sha256=source.request.corpus.sha256,
        corpus_characters=len(source.request.corpus.text),
        split=source.request.split,
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
        written_by={**_libraries(), "forward_pass": source.forward, "precision": source.request.precision},
        trained_on=training_text(source.request.model_folder),
    )


def _libraries() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}

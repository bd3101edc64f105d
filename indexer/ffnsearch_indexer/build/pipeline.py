"""The build, top to bottom, resumable by shard.

A build works in a folder `OUT.partial`, and a build that was killed is continued from its last whole shard; it gives
the same bytes as one that was not.

work.json     what is built
shards/       keys in the order of sorted windows, until the blocks are put together
snapshot/     becomes OUT when it is whole
"""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.answer.profile import default_profile
from ffnsearch_indexer.build.plan import SHARDS_FOLDER, SNAPSHOT_FOLDER, BuildPlan, plan_build
from ffnsearch_indexer.build.request import BuildRequest, require_new
from ffnsearch_indexer.build.source import Source, libraries, read_source
from ffnsearch_indexer.files import disk_errors, load_array, require_free_disk, save_array, sync, write_whole
from ffnsearch_indexer.hardware.gpu import device_errors
from ffnsearch_indexer.index.tiles import ENDING_TOKENS
from ffnsearch_indexer.models.record import training_text
from ffnsearch_indexer.models.transformer import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from ffnsearch_indexer.progress import Progress, silent
from ffnsearch_indexer.store import keys, layout
from ffnsearch_indexer.store.manifest import Manifest, write_manifest
from ffnsearch_indexer.store.records import write_records
from ffnsearch_indexer.store.tiles import write_tiles
from ffnsearch_indexer.store.work import build_folder, claim


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
    require_new(out)
    source = read_source(request, progress)
    work = build_folder(out)
    with (
        disk_errors("make room or choose another place; what is done is kept, the same command continues it"),
        device_errors(),
    ):
        plan = plan_build(source, work)
        require_free_disk(work, plan.disk_bytes)
        with claim(work, source.identity):
            require_new(out)  # another build may have ended meanwhile
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
    require_new(request.out)
    source = read_source(request, progress)
    work = build_folder(request.out)
    with disk_errors("choose another place"), device_errors():
        plan = plan_build(source, work)
        require_free_disk(work, plan.disk_bytes)
    return plan


def _write_keys(source: Source, work: Path, whole: Path, progress: Progress) -> None:
    shards, blocks = work / SHARDS_FOLDER, range(source.model.config.blocks)
    missing = [block for block in blocks if not (whole / layout.keys_file(block)).exists()]
    if missing:
        _write_shards(source, shards, progress)
    (whole / layout.KEYS_FOLDER).mkdir(parents=True, exist_ok=True)
    for block in missing:
        keys.assemble_block(shards, block, source.order, source.model.config.d_model, whole / layout.keys_file(block))
        progress("blocks", block + 1, len(blocks))
    shutil.rmtree(shards, ignore_errors=True)


def _write_shards(source: Source, shards: Path, progress: Progress) -> None:
    shards.mkdir(exist_ok=True)
    N = len(source.substrings)
    progress("keys", 0, N)
    for shard, positions in enumerate(keys.shard_ranges(N)):
        if not keys.shard_path(shards, shard).exists():
            windows = source.windows[source.order[positions.start : positions.stop]]
            keys.save_shard(shards, shard, source.extract_keys(windows))
        progress("keys", positions.stop, N)


def _write_tiles(source: Source, whole: Path, progress: Progress) -> None:
    endings = source.windows[:, -ENDING_TOKENS:]
    counts = source.substrings.counts
    write_tiles(whole, _mapped_keys(source, whole), counts, endings, progress, device=source.device)


def _mapped_keys(source: Source, whole: Path) -> list[NDArray[np.float16]]:
    shape = len(source.substrings), source.model.config.d_model
    blocks = range(source.model.config.blocks)
    return [load_array(whole / layout.keys_file(block), np.float16, shape) for block in blocks]


def _write_counts(source: Source, whole: Path, progress: Progress) -> None:
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


def _write_model_and_corpus(source: Source, whole: Path) -> None:
    for name in (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE):
        write_whole(whole / layout.MODEL_FOLDER / name, partial(shutil.copyfile, source.request.model_folder / name))
    save_array(whole / layout.CORPUS_FILE, source.tokens)


def _manifest(source: Source, plan: BuildPlan) -> Manifest:
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
        written_by={**libraries(), "forward_pass": source.forward, "precision": source.request.precision},
        trained_on=training_text(source.request.model_folder),
    )

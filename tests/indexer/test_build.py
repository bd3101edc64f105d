"""A build gives one result, however often it was stopped; what cannot be built is refused and leaves nothing behind."""

import errno
import json
import os
import random
import shutil
import subprocess
from collections import namedtuple
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import stopping
from ffnsearch_indexer.build import plan as planning
from ffnsearch_indexer.build.pipeline import build, estimate
from ffnsearch_indexer.build.request import BuildRequest
from ffnsearch_indexer.corpora.corpus import Corpus
from ffnsearch_indexer.corpora.tokenizer import TINY_SHAKESPEARE, Tokenizer
from ffnsearch_indexer.errors import CorpusError, DamageError, FfnSearchError, ModelError, OutputError, TokenError
from ffnsearch_indexer.files import disk_errors
from ffnsearch_indexer.models import extraction
from ffnsearch_indexer.models.transformer import TOKENIZER_FILE
from ffnsearch_indexer.store import keys
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_indexer.store.manifest import read_manifest
from stopping import KILLED, BuildJob, Stop
from tiny import files_of, make_model, random_text, record_training, save_model

ALPHABET = "abc\n"
TEXT = random_text(1, 600, ALPHABET)
CORPUS = Corpus("text", TEXT)
KILLS = 5

DiskUsage = namedtuple("DiskUsage", "total used free")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of 4 characters, as small as one can be that still does all there is to do."""
    return save_model(tmp_path_factory.mktemp("model") / "m", make_model(vocabulary_size=4, d_model=8), ALPHABET)


@pytest.fixture
def job(model: Path, tmp_path: Path) -> BuildJob:
    return BuildJob(TEXT, model, tmp_path / "out")


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    """The files of a build in several shards that nobody stopped, and the number of its operations."""
    job = BuildJob(TEXT, model, tmp_path_factory.mktemp("whole") / "out")
    ended = stopping.run(job)
    assert ended.exit_status == 0
    assert ended.result.shards > 3
    return files_of(job.out), ended.operations


def partial(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def require_nothing_at(out: Path) -> None:
    assert not out.exists()
    assert not partial(out).exists()


def refusal(*arguments: object, **options: object) -> FfnSearchError:
    """The error of a call of `build`, which is also that of the same call of `estimate`."""
    errors = []
    for call in (build, estimate):
        with pytest.raises(FfnSearchError) as caught:
            call(BuildRequest(*arguments, **options))
        errors.append(caught.value)
    assert (type(errors[0]), errors[0].message) == (type(errors[1]), errors[1].message)
    assert "\n" not in errors[0].message
    return errors[0]


def test_two_builds_give_the_same_bytes_in_every_file(
    tiny_corpus: Corpus, tiny_model: Path, tiny_snapshot: Path, tmp_path: Path
) -> None:
    build(BuildRequest(tiny_corpus, tiny_model, tmp_path / "again"))
    assert files_of(tmp_path / "again") == files_of(tiny_snapshot)
    assert not partial(tmp_path / "again").exists()


@pytest.mark.parametrize("kill", range(KILLS))
def test_a_build_that_was_killed_goes_on_to_the_same_bytes(
    kill: int, whole: tuple[dict[str, bytes], int], job: BuildJob
) -> None:
    files, operations = whole
    before = 1 + int(operations * (kill + random.Random(kill).random()) / KILLS)
    assert stopping.run(job, Stop(before)).exit_status == KILLED, f"before operation {before}"
    if not job.out.exists():
        assert stopping.run(job).exit_status == 0
        assert not partial(job.out).exists()
    assert files_of(job.out) == files, f"killed before operation {before} of {operations}"


def test_a_build_that_is_killed_again_and_again_gets_there(whole: tuple[dict[str, bytes], int], job: BuildJob) -> None:
    files, operations = whole
    done, shards_done = 0, []
    while not job.out.exists():
        done += 1
        ended = stopping.run(job, Stop(operations * (5 + done) // 12))
        if ended.result:
            shards_done.append(ended.result.shards_done)
    assert files_of(job.out) == files
    assert done > 1
    assert shards_done[-1] > 0


def test_whole_shards_are_not_computed_again(job: BuildJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "SHARD_WINDOWS", 100)
    computed = []
    extract = extraction.extract_keys

    def stop_at_the_third(model: object, windows: list[object]) -> object:
        computed.append(len(windows))
        if len(computed) == 3:
            raise KeyboardInterrupt
        return extract(model, windows)

    monkeypatch.setattr(extraction, "extract_keys", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        build(BuildRequest(CORPUS, job.model, job.out, window_tokens=5))
    plan = estimate(BuildRequest(CORPUS, job.model, job.out, window_tokens=5))
    assert plan.shards_done == 2
    build(BuildRequest(CORPUS, job.model, job.out, window_tokens=5))
    assert len(computed) == 3 + plan.shards - 2


@pytest.mark.parametrize("damage", ["cut", "other numbers"])
def test_a_damaged_shard_is_refused_and_made_again_once_it_is_deleted(
    damage: str, job: BuildJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(keys, "assemble_block", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(BuildRequest(CORPUS, job.model, job.out, window_tokens=5))
    shard = partial(job.out) / "shards" / "shard-00000.npy"
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-1])
    else:
        np.save(shard, np.load(shard).astype(np.float32))
    with pytest.raises(DamageError) as caught:
        build(BuildRequest(CORPUS, job.model, job.out, window_tokens=5))
    assert caught.value.message.endswith(f": delete {shard.parent}; the same command makes it again")
    shutil.rmtree(shard.parent)
    build(BuildRequest(CORPUS, job.model, job.out, window_tokens=5))
    assert job.out.exists()


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_is_left_of_another_build_is_refused_and_kept(job: BuildJob, model: Path, tmp_path: Path) -> None:
    assert stopping.run(job, Stop(20)).exit_status == KILLED
    left = files_of(partial(job.out))
    other_model = save_model(tmp_path / "m2", make_model(vocabulary_size=4, d_model=8, seed=2), ALPHABET)
    same_model = save_model(tmp_path / "m3", make_model(vocabulary_size=4, d_model=8), "bac\n")
    others = {
        "corpus": (Corpus("text", TEXT[:-1] + "c"), model, {}),
        "model": (CORPUS, other_model, {}),
        "tokenizer": (CORPUS, same_model, {}),
        "split": (CORPUS, model, {"split": "train"}),
        "window tokens": (CORPUS, model, {"window_tokens": 6}),
        "shard windows": (CORPUS, model, {}),
    }
    for different, (corpus, folder, options) in others.items():
        error = refusal(corpus, folder, job.out, **({"window_tokens": 5} | options))
        assert isinstance(error, OutputError)
        assert error.reason == "OUTPUT_EXISTS"
        assert f"another {different}" in error.message
        assert files_of(partial(job.out)) == left
    assert stopping.run(job).exit_status == 0


def test_a_folder_that_is_no_leftover_is_refused_and_kept(model: Path, tmp_path: Path) -> None:
    for name, content in {"work.json": "[1]", "letter.txt": "dear"}.items():
        (tmp_path / "out.partial").mkdir(exist_ok=True)
        (tmp_path / "out.partial" / name).write_text(content)
    before = files_of(tmp_path)
    assert refusal(CORPUS, model, tmp_path / "out").reason == "OUTPUT_EXISTS"
    assert files_of(tmp_path) == before


def test_a_folder_that_cannot_be_written_to_is_refused_with_what_to_change(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = refusal(CORPUS, model, tmp_path / "file" / "out")
    assert error.message == (
        f"cannot write in {tmp_path / 'file'}: it is not a folder, or you have no write permission there; "
        "change that, or choose another place"
    )


def test_an_output_that_exists_is_refused_and_kept(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nothing")
    for name in ("file", "folder", "link"):
        error = refusal(CORPUS, model, tmp_path / name)
        assert error.reason == "OUTPUT_EXISTS"
        assert str(tmp_path / name) in error.message
    assert files_of(tmp_path) == {"file": b"mine"}


def test_of_two_builds_at_once_the_second_is_refused_and_the_first_ends_well(model: Path, tmp_path: Path) -> None:
    refused = []

    def build_again(_: object) -> None:
        with pytest.raises(OutputError) as caught:
            build(BuildRequest(CORPUS, model, tmp_path / "out"))
        refused.append(caught.value.reason)

    build(BuildRequest(CORPUS, model, tmp_path / "out"), announce=build_again)
    assert refused == ["OUTPUT_BUSY"]
    with Datastore.open(tmp_path / "out"):
        pass


@pytest.mark.parametrize("file_bytes_max", [100, 3_000, 8_000, 30_000])
def test_a_file_that_cannot_grow_ends_the_build_in_order_and_a_later_one_completes_it(
    file_bytes_max: int, whole: tuple[dict[str, bytes], int], job: BuildJob
) -> None:
    ended = stopping.run(job, Stop(file_bytes_max=file_bytes_max))
    assert isinstance(ended.error, OutputError)
    assert ended.error.reason in ("DISK_FULL", "WRITE_FAILED")
    assert "the same command continues it" in ended.error.message
    assert not job.out.exists()
    assert stopping.run(job).exit_status == 0
    assert files_of(job.out) == whole[0]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for the keys of the build, but not for all of it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=84k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system can be mounted by root alone")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_the_build_in_order_and_a_later_one_completes_it(
    small_disk: Path, whole: tuple[dict[str, bytes], int], job: BuildJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = replace(job, out=small_disk / "out")
    assert stopping.run(job).error.reason == "DISK_FULL"
    assert list(small_disk.iterdir()) == [], "refused before anything was written"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(1 << 40, 0, 1 << 40))
    with pytest.raises(OutputError) as caught:
        build(BuildRequest(CORPUS, job.model, job.out, window_tokens=5))
    assert caught.value.reason == "DISK_FULL"
    del caught  # its traceback holds maps of the disk's files
    assert not job.out.exists()
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    build(BuildRequest(CORPUS, job.model, job.out, window_tokens=5))
    assert files_of(job.out)["counts/counts.lmdb"] == whole[0]["counts/counts.lmdb"]


def test_a_disk_without_room_is_refused_before_anything_is_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = estimate(BuildRequest(CORPUS, model, tmp_path / "deep" / "out"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(1 << 40, 0, plan.disk_bytes - 1))
    error = refusal(CORPUS, model, tmp_path / "deep" / "out")
    assert error.reason == "DISK_FULL"
    assert error.metadata["needed_bytes"] == str(plan.disk_bytes)
    assert f"{plan.disk_bytes / 1e6:.2f} MB of disk are needed" in error.message
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(1 << 40, 0, plan.disk_bytes))
    build(BuildRequest(CORPUS, model, tmp_path / "deep" / "out"))


def test_a_place_that_cannot_be_written_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert refusal(CORPUS, model, tmp_path / "file" / "out").reason == "WRITE_FAILED"
    assert files_of(tmp_path) == {"file": b""}


def test_a_folder_that_may_not_be_written_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write anywhere
    error = refusal(CORPUS, model, tmp_path / "out")
    assert (error.reason, str(tmp_path) in error.message) == ("WRITE_FAILED", True)


def test_a_name_that_is_not_utf_8_is_refused(model: Path, tmp_path: Path) -> None:
    error = refusal(CORPUS, model, tmp_path / os.fsdecode(b"z\xff"))
    assert isinstance(error, OutputError)
    assert "UTF-8" in error.message
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_looked_at_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", deny)
    error = refusal(CORPUS, model, tmp_path / "out")
    assert (error.reason, str(tmp_path / "out") in error.message) == ("WRITE_FAILED", True)


def test_an_interrupt_before_the_work_leaves_nothing(model: Path, tmp_path: Path) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(BuildRequest(CORPUS, model, tmp_path / "out"), announce=interrupt)
    require_nothing_at(tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "options", "kind", "reason"),
    [
        ("", {}, CorpusError, "CORPUS_TOO_SHORT"),
        ("abcabc", {"window_tokens": 7}, CorpusError, "CORPUS_TOO_SHORT"),
        ("abcabcabca", {"split": "train"}, CorpusError, "CORPUS_TOO_SHORT"),
        ("abcabcabcabc?", {}, TokenError, "UNKNOWN_CHARACTER"),
        (TEXT, {"window_tokens": 33}, ModelError, "INVALID_MODEL"),
        (TEXT, {"window_tokens": 0}, ModelError, "INVALID_MODEL"),
    ],
)
def test_input_that_does_not_fit_is_refused_and_leaves_nothing(
    text: str, options: dict[str, object], kind: type[FfnSearchError], reason: str, model: Path, tmp_path: Path
) -> None:
    error = refusal(Corpus("text", text), model, tmp_path / "out", **options)
    assert isinstance(error, kind)
    assert error.reason == reason
    require_nothing_at(tmp_path / "out")


def test_a_window_beyond_what_the_records_can_hold_is_refused(tmp_path: Path) -> None:
    model = save_model(tmp_path / "m", make_model(context_tokens=300, d_model=4), TINY_SHAKESPEARE)
    assert "1 to 255" in refusal(CORPUS, model, tmp_path / "out", window_tokens=256).message
    build(BuildRequest(Corpus("text", "abc" * 90), model, tmp_path / "out", window_tokens=255))


def test_a_model_and_a_tokenizer_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    model = save_model(tmp_path / "m", make_model(vocabulary_size=4, d_model=8), ALPHABET + "?")
    error = refusal(CORPUS, model, tmp_path / "out")
    assert isinstance(error, ModelError)
    assert "4" in error.message
    assert "5" in error.message


@pytest.mark.parametrize(
    "damage", ["no folder", "no weights", "no tokenizer", "cut weights", "other sizes", "no JSON", "no number"]
)
def test_a_model_that_cannot_be_loaded_is_refused(damage: str, model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "m"
    if damage != "no folder":
        shutil.copytree(model, copy)
    if damage == "no weights":
        (copy / "model.safetensors").unlink()
    elif damage == "no tokenizer":
        (copy / TOKENIZER_FILE).unlink()
    elif damage == "cut weights":
        (copy / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-1])
    elif damage == "other sizes":
        (copy / "config.json").write_text((model / "config.json").read_text().replace('"d_model": 8', '"d_model": 16'))
    elif damage == "no JSON":
        (copy / "config.json").write_text("{")
    elif damage == "no number":
        weights = load_file(copy / "model.safetensors")
        weights["head.bias"][1] = float("nan")
        save_file(weights, copy / "model.safetensors")
    error = refusal(CORPUS, copy, tmp_path / "out")
    assert isinstance(error, ModelError)
    assert str(copy) in error.message


def test_a_model_that_gives_no_numbers_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    large = make_model(vocabulary_size=4, d_model=8)
    large.blocks[1].ffn.up.weight.fill_(1e25)
    large.blocks[1].ffn.down.weight.fill_(1e25)
    with pytest.raises(FfnSearchError) as caught:
        build(BuildRequest(CORPUS, save_model(tmp_path / "m", large, ALPHABET), tmp_path / "out"))
    assert caught.value.reason == "NOT_FINITE"
    require_nothing_at(tmp_path / "out")


@pytest.mark.parametrize("characters", [110, 119, 601])
def test_the_training_split_is_the_first_nine_tenths(characters: int, model: Path, tmp_path: Path) -> None:
    text = random_text(3, characters, ALPHABET)
    build(BuildRequest(Corpus("text", text), model, tmp_path / "out", split="train"))
    first = text[: int(0.9 * characters)]
    with Datastore.open(tmp_path / "out") as datastore:
        assert datastore.manifest.split == "train"
        found = {datastore.tokenizer.decode(datastore.substring(i)) for i in range(datastore.manifest.substrings)}
        assert found == {first[start : start + 10] for start in range(len(first) - 9)}
        assert datastore.counts.counts.sum() == len(first) - 10
        assert datastore.tokenizer.decode(datastore.corpus) == text, "the text around a place may lie outside the split"


def test_the_plan_holds(tmp_path: Path) -> None:
    """Room on disk and memory are never more than the plan says, and the plan does not say absurdly much."""
    model = save_model(tmp_path / "m", make_model(vocabulary_size=4, d_model=64), ALPHABET)
    job = BuildJob(random_text(1, 20_000, ALPHABET), model, tmp_path / "out", window_tokens=12, shard_windows=8_000)
    used = []

    def weigh(*_: object) -> None:
        with suppress(FileNotFoundError):  # another thread has just taken it away
            used.append(sum(path.stat().st_size for path in partial(job.out).rglob("*")))

    ended = stopping.run(job)
    plan, snapshot_bytes = ended.result, sum(len(content) for content in files_of(job.out).values())
    assert plan.snapshot_bytes / 2 < snapshot_bytes <= plan.snapshot_bytes
    assert plan.memory_bytes / 4 < ended.rss_bytes_max <= plan.memory_bytes
    assert plan.shards == 3
    shutil.rmtree(job.out)
    build(BuildRequest(Corpus("text", job.text), model, job.out, window_tokens=12), progress=weigh)
    assert plan.disk_bytes / 2 < max(used) <= plan.disk_bytes


def test_the_plan_has_memory_for_the_tiles_of_several_blocks(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "tiles_memory_bytes", lambda *_: 1 << 40)
    monkeypatch.setattr(planning.torch, "get_num_threads", lambda: 3)
    assert estimate(BuildRequest(CORPUS, model, tmp_path / "out")).memory_bytes >> 40 == 2


def test_progress_goes_through_the_stages_and_each_comes_to_its_end(model: Path, tmp_path: Path) -> None:
    told: dict[str, list[tuple[int, int]]] = {}
    build(
        BuildRequest(CORPUS, model, tmp_path / "out"),
        progress=lambda stage, done, total: told.setdefault(stage, []).append((done, total)),
    )
    assert list(told) == ["substrings", "keys", "blocks", "counts", "tiles", "checksums, MB"]
    for pairs in told.values():
        assert pairs == sorted(pairs)
        assert pairs[-1][0] == pairs[-1][1]


def test_the_manifest_says_what_went_in(tiny_corpus: Corpus, tiny_model: Path, tiny_snapshot: Path) -> None:
    manifest = json.loads((tiny_snapshot / "manifest.json").read_text())
    assert manifest["corpus_sha256"] == tiny_corpus.sha256
    assert manifest["corpus_characters"] == len(tiny_corpus.text)
    assert manifest["tokenizer_sha256"] == Tokenizer(TINY_SHAKESPEARE).sha256
    assert (manifest["window_tokens"], manifest["blocks"], manifest["d_model"]) == (10, 2, 32)
    libraries = {"python", "ffnsearch", "torch", "numpy", "numba", "lmdb"}
    assert set(manifest["written_by"]) == {*libraries, "forward_pass", "precision"}
    assert manifest["written_by"]["forward_pass"] == "compiled, on a CPU"
    assert manifest["written_by"]["precision"] == "float32"
    windows = {tiny_corpus.text[first : first + 10] for first in range(len(tiny_corpus.text) - 9)}
    assert manifest["substrings"] == len(windows)
    assert manifest["distinct_prefixes"] == len({window[:end] for window in windows for end in range(1, 11)})


def test_the_manifest_says_what_the_model_was_trained_on_where_that_is_known(
    tiny_corpus: Corpus, tiny_model: Path, tiny_snapshot: Path, tmp_path: Path
) -> None:
    assert "trained_on" not in json.loads((tiny_snapshot / "manifest.json").read_text())
    assert not read_manifest(tiny_snapshot).is_of_training_text
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    for name, text in (("same", tiny_corpus), ("other", Corpus("tiny", tiny_corpus.text + "\n"))):
        record_training(model, text)
        manifest = build(BuildRequest(tiny_corpus, model, tmp_path / name))
        assert manifest == read_manifest(tmp_path / name)
        assert manifest.trained_on == {"corpus": "tiny", "corpus_sha256": text.sha256}
        assert manifest.is_of_training_text is (name == "same")


def test_an_error_that_is_the_disks_says_what_to_do() -> None:
    with pytest.raises(OutputError) as caught, disk_errors("make room"):
        raise OSError(errno.ENOSPC, "No space left on device", "/x")
    assert caught.value.message == "cannot write /x: No space left on device; make room"


def test_work_that_other_libraries_began_is_told_as_such(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = BuildRequest(CORPUS, model, tmp_path / "out", window_tokens=5)
    monkeypatch.setattr(keys, "SHARD_WINDOWS", 100)

    def stopped(stage: str, done: int, total: int, detail: str = "") -> None:
        if stage == "keys" and done:
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        build(request, progress=stopped)
    monkeypatch.setattr("ffnsearch_indexer.build.source.version", lambda name: "0")
    with pytest.raises(OutputError, match="another set of libraries"):
        build(request)

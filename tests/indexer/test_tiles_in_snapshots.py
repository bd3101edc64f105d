"""Tiles in a snapshot: a build makes them, `ffnsearch index` adds them later, and what is not theirs is refused."""

import errno
import json
import os
import shutil
import signal
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from test_snapshot import entry, flip, refusal, rewrite_manifest

import stopping
from ffnsearch_indexer.additions.tiles import add_tiles
from ffnsearch_indexer.answer.backends import BACKENDS
from ffnsearch_indexer.answer.predictor import Predictor
from ffnsearch_indexer.answer.profile import default_profile
from ffnsearch_indexer.build.pipeline import build
from ffnsearch_indexer.build.request import BuildRequest
from ffnsearch_indexer.console import ProgressDisplay
from ffnsearch_indexer.corpora.corpus import Corpus
from ffnsearch_indexer.errors import BackendError, DamageError, FfnSearchError, OutputError
from ffnsearch_indexer.index.tiles import ENDING_TOKENS, Tiles, tiles_bytes, tiles_of
from ffnsearch_indexer.store import tiles as store
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_indexer.store.layout import file_names, tiles_files
from ffnsearch_indexer.store.manifest import Manifest, read_manifest
from stopping import KILLED, Stop
from tiny import files_of, make_model, random_text, save_model

Run = Callable[..., tuple[int, str, str]]
DiskUsage = namedtuple("DiskUsage", "total used free")
ALPHABET = "abc\n"
FILES_OF_BLOCK = len(Tiles._fields)
FILES_OF_TILES = 2 * FILES_OF_BLOCK


def drop_tiles(snapshot: Path) -> Path:
    """Make of a snapshot what it would be had it been built without tiles."""
    files = {name: of for name, of in read_manifest(snapshot).files.items() if not name.startswith("tiles/")}
    shutil.rmtree(snapshot / "tiles")
    rewrite_manifest(snapshot, files=files)
    return snapshot


@pytest.fixture
def without_tiles(tiny_copy: Path) -> Path:
    return drop_tiles(tiny_copy)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let torch use one thread, as a block has when its tiles are written: with more, sums are rounded otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class IndexJob:
    """One call of `add_tiles`, for a process of its own."""

    out: Path

    def run(self, tell: Callable[..., None]) -> None:
        add_tiles(self.out, progress=tell)


def prediction(snapshot: Path, backend: str) -> tuple[list[int], list[int]]:
    """What a backend answers to two prompts: all sums and numbers of neighbors."""
    with Datastore.open(snapshot) as datastore:
        prompts = [datastore.substring(0), datastore.substring(datastore.manifest.substrings - 1)]
        blocks = datastore.manifest.blocks
        found = Predictor(datastore, backend=backend).search(prompts, [[0.9, -1.0, 0.5]] * blocks)
        return [of.freq.tolist() for of in found.sums], [of.neighbors.tolist() for of in found.sums]


def test_a_build_has_the_tiles_of_every_block(tiny_snapshot: Path, one_thread: None) -> None:
    manifest = read_manifest(tiny_snapshot)
    assert manifest.parts == {"tiles"}
    assert sum(name.startswith("tiles/") for name in manifest.files) == FILES_OF_TILES
    with Datastore.open(tiny_snapshot) as datastore:
        assert datastore.tiles is not None
        windows = np.stack([datastore.substring(number) for number in range(manifest.substrings)])
        for keys, loaded in zip(datastore.keys, datastore.tiles, strict=True):
            made = tiles_of(keys, datastore.counts, windows[:, -ENDING_TOKENS:])
            for one, other in zip(loaded, made, strict=True):
                np.testing.assert_array_equal(one, other)
                assert one.dtype == other.dtype
        room = manifest.blocks * tiles_bytes(manifest.substrings, manifest.d_model, datastore.counts)
    taken = sum(of.bytes for name, of in manifest.files.items() if name.startswith("tiles/"))
    assert taken <= room < 1.3 * taken + 8192


def test_verify_reads_tiles_too(run: Run, tiny_copy: Path) -> None:
    code, out, _ = run("verify", tiny_copy, "--json")
    assert (code, json.loads(out)["files"]) == (0, len(file_names(2, ["tiles"])))
    for name in tiles_files(1).values():
        path = tiny_copy / name
        place = path.stat().st_size - 1
        flip(path, place)
        code, out, err = run("verify", tiny_copy)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert name in err
        flip(path, place)
    assert run("verify", tiny_copy)[0] == 0


@pytest.mark.parametrize(
    ("name", "damage"),
    [(name, damage) for name in Tiles._fields for damage in ("another type", "a dimension more", "no array")]
    + [
        (name, "a row less")
        for name in Tiles._fields
        if name not in ("tokens", "counts", "key_tokens", "key_counts")  # of any length
    ],
)
def test_what_cannot_be_the_tiles_is_refused_even_if_the_manifest_knows_it(
    name: str, damage: str, tiny_copy: Path
) -> None:
    path = tiny_copy / tiles_files(1)[name]
    array = np.load(path)
    if damage == "no array":
        path.write_text("tiles")
    else:
        other = {"another type": array.astype(np.float64), "a row less": array[:-1], "a dimension more": array[None]}
        np.save(path, other[damage])
    rewrite_manifest(tiny_copy, files=read_manifest(tiny_copy).files | {tiles_files(1)[name]: entry(path)})
    error = refusal(tiny_copy)
    assert isinstance(error, DamageError)
    assert str(path) in error.message


@pytest.mark.parametrize("missing", ["tiles/block-0/order.npy", "tiles/block-1/"])
def test_a_manifest_with_some_of_the_tiles_is_refused(missing: str, tiny_copy: Path) -> None:
    manifest = read_manifest(tiny_copy)
    rewrite_manifest(tiny_copy, files={name: of for name, of in manifest.files.items() if not name.startswith(missing)})
    assert isinstance(refusal(tiny_copy), DamageError)


@pytest.mark.parametrize("check", ["all", "sizes"])
def test_a_snapshot_without_tiles_opens_and_answers(check: str, without_tiles: Path, tiny_snapshot: Path) -> None:
    with Datastore.open(without_tiles, check=check) as datastore:
        assert datastore.tiles is None
        assert not datastore.manifest.parts
    assert sorted(read_manifest(without_tiles).files) == file_names(2, [])
    expected = prediction(tiny_snapshot, "tiles")
    for backend in ("exact", "faiss"):
        assert prediction(without_tiles, backend) == expected


def test_the_backend_tiles_says_how_to_get_tiles(run: Run, without_tiles: Path) -> None:
    with Datastore.open(without_tiles) as datastore:
        with pytest.raises(BackendError) as caught:
            Predictor(datastore, backend="tiles")
        assert caught.value.reason == "NO_TILES"
        assert f"`ffnsearch index {without_tiles}`" in caught.value.message
        assert "\n" not in caught.value.message
    for command in (("predict", without_tiles, "the people"), ("neighbors", without_tiles, "the people", "--block", 0)):
        code, out, err = run(*command, "--backend", "tiles")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"ffnsearch index {without_tiles}" in err
        assert run(*command)[0] == 0, "another backend is chosen where none is asked for"


def test_an_unknown_backend_is_refused_with_all_that_there_are(datastore: Datastore) -> None:
    with pytest.raises(BackendError) as caught:
        Predictor(datastore, backend="tile")
    assert all(backend in caught.value.message for backend in ("auto", *BACKENDS))


def test_index_makes_the_snapshot_that_a_build_makes(run: Run, without_tiles: Path, tiny_snapshot: Path) -> None:
    code, out, _ = run("index", without_tiles, "--json")
    result, manifest = json.loads(out), read_manifest(tiny_snapshot)
    assert code == 0
    assert result.keys() == {"snapshot", "snapshot_id", "bytes", "profiles_answered_by_lookup", "seconds"}
    assert (result["snapshot_id"], result["bytes"]) == (manifest.snapshot_id, manifest.total_bytes())
    assert files_of(without_tiles) == files_of(tiny_snapshot)
    assert run("predict", without_tiles, "the people")[0] == 0


def test_index_leaves_a_snapshot_with_tiles_alone(run: Run, tiny_copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_copy.rglob("*")}
    code, out, err = run("index", tiny_copy)
    assert (code, out.count("\n")) == (0, 1)
    assert str(tiny_copy) in out
    assert err == ""
    assert {path: path.stat().st_mtime_ns for path in tiny_copy.rglob("*")} == before


def test_what_was_measured_and_chosen_stays(without_tiles: Path) -> None:
    profile = default_profile(2)
    rewrite_manifest(without_tiles, fidelity={"hellinger": 0.1}, profiles={"mine": profile.to_json()})
    before = read_manifest(without_tiles)
    after = add_tiles(without_tiles)
    assert after == read_manifest(without_tiles)
    assert (after.fidelity, after.profiles, after.written_by) == (before.fidelity, before.profiles, before.written_by)
    assert after.snapshot_id != before.snapshot_id
    assert {name: after.files[name] for name in before.files} == before.files


def test_progress_tells_of_each_block(without_tiles: Path) -> None:
    told: list[tuple[object, ...]] = []
    add_tiles(without_tiles, progress=lambda *state: told.append(state))
    assert told[:3] == [("tiles", done, 2) for done in range(3)]
    assert {stage for stage, *_ in told[3:]} == {"checksums, MB"}


def test_the_same_tiles_twice_at_once_are_refused(without_tiles: Path, tiny_snapshot: Path) -> None:
    def again(*_: object) -> None:
        with pytest.raises(OutputError) as caught:
            add_tiles(without_tiles)
        assert caught.value.reason == "OUTPUT_BUSY"

    add_tiles(without_tiles, progress=again)
    assert files_of(without_tiles) == files_of(tiny_snapshot)


@pytest.mark.parametrize("window_tokens", [1, 2, 3, 5])
@pytest.mark.parametrize("split", ["all", "train"])
def test_index_and_build_agree_for_windows_of_any_length(window_tokens: int, split: str, tmp_path: Path) -> None:
    model = save_model(tmp_path / "m", make_model(vocabulary_size=4, d_model=8), ALPHABET)
    corpus = Corpus("text", random_text(1, 600, ALPHABET))
    build(BuildRequest(corpus, model, tmp_path / "out", window_tokens=window_tokens, split=split))
    before = files_of(tmp_path / "out")
    add_tiles(drop_tiles(tmp_path / "out"))
    assert files_of(tmp_path / "out") == before
    assert prediction(tmp_path / "out", "tiles") == prediction(tmp_path / "out", "exact")


@pytest.mark.parametrize("text", ["a" * 50, "abc", "ab" * 200])
def test_corpora_of_one_substring_and_of_two(text: str, tmp_path: Path) -> None:
    model = save_model(tmp_path / "m", make_model(vocabulary_size=4, d_model=8), ALPHABET)
    manifest = build(BuildRequest(Corpus("text", text), model, tmp_path / "out", window_tokens=3))
    assert manifest.substrings == len({text[first : first + 3] for first in range(len(text) - 2)})
    assert prediction(tmp_path / "out", "tiles") == prediction(tmp_path / "out", "exact")


def is_as_it_was(snapshot: Path, before: Manifest) -> bool:
    """Whether a snapshot opens, has no tiles, and answers."""
    with Datastore.open(snapshot) as datastore:
        Predictor(datastore, backend="exact").search([datastore.substring(0)], [[0.5]] * 2)
        return datastore.manifest == before and datastore.tiles is None


@pytest.mark.parametrize("writes", [0, 1, FILES_OF_BLOCK - 1, FILES_OF_BLOCK, FILES_OF_TILES - 1])
def test_index_goes_on_where_it_was_interrupted(
    writes: int, run: Run, without_tiles: Path, tiny_snapshot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, written = read_manifest(without_tiles), []

    def write_some(path: Path, array: np.ndarray) -> None:
        if len(written) >= writes:
            raise KeyboardInterrupt
        written.append(path)
        save_array(path, array)

    save_array = store.save_array
    with monkeypatch.context() as patched:
        patched.setattr(store, "save_array", write_some)
        code, out, _ = run("index", without_tiles)
    assert (code, out) == (130, "")
    assert is_as_it_was(without_tiles, before)
    whole_blocks = [f for f in range(2) if all((without_tiles / name).exists() for name in tiles_files(f).values())]
    made: list[int] = []
    write_block = store._write_block
    monkeypatch.setattr(store, "_write_block", lambda *given: (made.append(given[-1]), write_block(*given)))
    assert run("index", without_tiles)[0] == 0
    assert sorted([*made, *whole_blocks]) == [0, 1]
    assert files_of(without_tiles) == files_of(tiny_snapshot)


def test_an_interrupted_index_says_how_it_is_continued(
    run: Run, without_tiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def show(_: ProgressDisplay, stage: str, done: int, total: int) -> None:
        if done == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ProgressDisplay, "__call__", show)
    code, out, err = run("index", without_tiles)
    assert (code, out, err.count("\n")) == (130, "", 1)
    assert (without_tiles / "tiles").exists()
    assert "nothing was written" not in err
    assert "the same command continues it" in err
    assert str(without_tiles) in err


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_index_that_was_killed_goes_on_to_the_same_bytes(
    share: float, without_tiles: Path, tiny_snapshot: Path, operations: int
) -> None:
    before = read_manifest(without_tiles)
    assert stopping.run(IndexJob(without_tiles), Stop(1 + int(share * operations))).exit_status == KILLED
    assert is_as_it_was(without_tiles, before)
    assert stopping.run(IndexJob(without_tiles)).exit_status == 0
    assert files_of(without_tiles) == files_of(tiny_snapshot)


@pytest.fixture(scope="module")
def operations(tiny_snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """How often adding tiles to the tiny snapshot changes files."""
    copy = drop_tiles(Path(shutil.copytree(tiny_snapshot, tmp_path_factory.mktemp("whole") / "copy.ffn")))
    ended = stopping.run(IndexJob(copy))
    assert ended.exit_status == 0
    assert ended.operations > FILES_OF_TILES
    return ended.operations


def test_a_file_that_cannot_grow_ends_it_in_order_and_a_later_one_completes_it(
    without_tiles: Path, tiny_snapshot: Path
) -> None:
    before = read_manifest(without_tiles)
    error = stopping.run(IndexJob(without_tiles), Stop(file_bytes_max=30_000)).error
    assert isinstance(error, OutputError)
    assert error.reason == "DISK_FULL"
    assert "the same command continues" in error.message
    assert is_as_it_was(without_tiles, before)
    add_tiles(without_tiles)
    assert files_of(without_tiles) == files_of(tiny_snapshot)


@pytest.mark.parametrize("why", ["read-only", "a file is in the way", "no room"])
def test_a_snapshot_that_cannot_be_written_gives_one_clear_line(
    why: str, run: Run, without_tiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_manifest(without_tiles)
    if why == "a file is in the way":
        (without_tiles / "tiles").write_text("mine")
    elif why == "no room":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(1 << 40, 1 << 40, 1000))
    else:
        monkeypatch.setattr(Path, "mkdir", refuse)  # as root, who may run this, no folder is read-only
    files = files_of(without_tiles)
    code, out, err = run("index", without_tiles)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert str(without_tiles) in err
    assert files_of(without_tiles) == files
    assert is_as_it_was(without_tiles, before)


def refuse(path: Path, *_: object, **__: object) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))


def test_room_is_asked_for_what_is_left_to_write(
    without_tiles: Path, tiny_snapshot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_snapshot / "tiles", without_tiles / "tiles")  # all that an interrupted one left to do is to
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(1 << 40, 0, 100_000))  # write the manifest
    assert add_tiles(without_tiles) == read_manifest(tiny_snapshot)


def test_index_never_lists_tiles_that_do_not_open(without_tiles: Path, tiny_snapshot: Path) -> None:
    """What lies there may be of another version, or was damaged since an interrupted run wrote it."""
    shutil.copytree(tiny_snapshot / "tiles", without_tiles / "tiles")
    path = without_tiles / tiles_files(0)["bounds"]
    os.truncate(path, path.stat().st_size - 1)
    with suppress(FfnSearchError):  # making them again is as good
        add_tiles(without_tiles)
    with Datastore.open(without_tiles) as datastore:
        assert datastore.tiles is None or files_of(without_tiles) == files_of(tiny_snapshot)


@pytest.mark.parametrize("name", ["tokens", "counts", "offsets", "key_tokens", "key_counts", "key_offsets"])
def test_rows_of_counts_that_end_elsewhere_are_refused(name: str, tiny_copy: Path) -> None:
    """Compiled code reads them by their offsets, without looking at where they end."""
    path = tiny_copy / tiles_files(0)[name]
    array = np.load(path)
    np.save(path, array + 1 if name.endswith("offsets") else array[:-100])
    rewrite_manifest(tiny_copy, files=read_manifest(tiny_copy).files | {tiles_files(0)[name]: entry(path)})
    assert isinstance(refusal(tiny_copy), DamageError)


@pytest.mark.parametrize("what", ["nothing", "a folder", "a damaged manifest"])
def test_what_is_no_snapshot_is_refused_by_index(what: str, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if what != "nothing":
        path.mkdir()
    if what == "a damaged manifest":
        (path / "manifest.json").write_text("{")
    code, out, err = run("index", path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert str(path) in err
    assert list(tmp_path.rglob("*tiles*")) == []

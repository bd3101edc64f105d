"""A snapshot that is not what its manifest says does not open, and the refusal names what differs."""

import errno
import io
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ffnsearch_indexer import files as files_module
from ffnsearch_indexer.corpora.tokenizer import TINY_SHAKESPEARE, Tokenizer
from ffnsearch_indexer.errors import DamageError, FormatError, MismatchError, SnapshotError
from ffnsearch_indexer.files import hash_files
from ffnsearch_indexer.store import datastore as datastore_module
from ffnsearch_indexer.store import manifest as store
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_indexer.store.layout import file_names
from ffnsearch_indexer.store.manifest import FileEntry, Manifest, drop_part, list_part, read_manifest, revise_manifest
from tiny import files_of, make_model, open_files, revise, save_model

MANIFEST = "manifest.json"
FILES = [*file_names(2, ["tiles"]), MANIFEST]
Alter = Callable[[Path], object]


def refusal(path: Path, *, check: str = "all") -> SnapshotError:
    """The error with which a snapshot is refused; nothing of it stays open."""
    try:
        Datastore.open(path, check=check)
    except SnapshotError as caught:
        error = caught
        error.__traceback__ = error.__context__ = None  # they hold what was open when it was raised
    else:
        pytest.fail("it was opened")
    assert "\n" not in error.message
    assert str(path) in error.message
    assert open_files(path) == []
    return error


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x01
    path.write_bytes(content)


def rewrite_manifest(path: Path, **changes: object) -> None:
    """Change fields and let the id fit, as one would who means it."""
    manifest = replace(read_manifest(path), **changes)
    whole = replace(manifest, snapshot_id=manifest.content_sha256())
    (path / MANIFEST).write_text(whole.to_json())


def entry(path: Path) -> FileEntry:
    return FileEntry(path.stat().st_size, hash_files([path])[0])


def test_the_files_are_those_of_the_manifest_and_no_other(tiny_snapshot: Path) -> None:
    manifest = read_manifest(tiny_snapshot)
    assert sorted(files_of(tiny_snapshot)) == sorted(FILES)
    assert sorted(manifest.files) == file_names(2, ["tiles"])
    assert {name: entry(tiny_snapshot / name) for name in manifest.files} == manifest.files
    assert manifest.total_bytes() == sum(len(files_of(tiny_snapshot)[name]) for name in manifest.files)


def test_the_id_is_the_hash_of_everything_else(tiny_snapshot: Path) -> None:
    document = json.loads((tiny_snapshot / MANIFEST).read_text())
    manifest = read_manifest(tiny_snapshot)
    for name in document.keys() - {"snapshot_id"}:
        assert replace(manifest, **{name: None}).content_sha256() != manifest.snapshot_id or document[name] is None
    assert replace(manifest, snapshot_id="other").content_sha256() == manifest.snapshot_id


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("name", FILES)
def test_one_altered_byte_in_any_file_is_refused(name: str, where: str, tiny_copy: Path) -> None:
    path = tiny_copy / name
    flip(path, {"first": 0, "middle": path.stat().st_size // 2, "last": -1}[where])
    error = refusal(tiny_copy)
    of_the_model = name.startswith("model/")
    assert isinstance(error, (DamageError, MismatchError) if of_the_model else DamageError)
    assert ("model" if of_the_model else name) in error.message or "tokenizer" in error.message


@pytest.mark.parametrize("check", ["all", "sizes"])
@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(name: str, check: str, tiny_copy: Path) -> None:
    (tiny_copy / name).unlink()
    error = refusal(tiny_copy, check=check)
    assert name in error.message
    assert isinstance(error, DamageError) == (name != MANIFEST)


@pytest.mark.parametrize("check", ["all", "sizes"])
@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_refused(name: str, check: str, tiny_copy: Path) -> None:
    os.truncate(tiny_copy / name, (tiny_copy / name).stat().st_size - 1)
    error = refusal(tiny_copy, check=check)
    assert isinstance(error, DamageError)
    assert name in error.message
    assert error.metadata["file"] == name


@pytest.mark.parametrize("check", ["all", "sizes"])
def test_the_weights_of_another_model_are_refused(check: str, tiny_copy: Path) -> None:
    make_model(seed=2).save(tiny_copy / "model")
    error = refusal(tiny_copy, check=check)
    assert isinstance(error, MismatchError)
    assert "the model in" in error.message
    assert error.metadata["different"] == "model"


@pytest.mark.parametrize("check", ["all", "sizes"])
def test_another_tokenizer_is_refused(check: str, tiny_copy: Path) -> None:
    Tokenizer(TINY_SHAKESPEARE[::-1]).save(tiny_copy / "model" / "tokenizer.json")
    error = refusal(tiny_copy, check=check)
    assert isinstance(error, (MismatchError, DamageError))
    assert "tokenizer" in error.message


def test_a_tokenizer_of_the_same_size_is_refused_as_another(tiny_copy: Path) -> None:
    Tokenizer(TINY_SHAKESPEARE[:-2] + "zy").save(tiny_copy / "model" / "tokenizer.json")
    for check in ("all", "sizes"):
        error = refusal(tiny_copy, check=check)
        assert isinstance(error, MismatchError)
        assert error.metadata["different"] == "tokenizer"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_model_that_cannot_be_loaded_is_damage_of_the_snapshot(name: str, tiny_copy: Path) -> None:
    path = tiny_copy / "model" / name
    path.write_bytes(b"x" * path.stat().st_size)
    error = refusal(tiny_copy, check="sizes")
    assert isinstance(error, DamageError)
    assert "the model in" in error.message


def test_another_format_is_refused_whatever_else_it_holds(tiny_copy: Path) -> None:
    (tiny_copy / MANIFEST).write_text('{"format_version": 2, "new": "things"}')
    error = refusal(tiny_copy)
    assert isinstance(error, FormatError)
    assert "format 2" in error.message
    assert "format 1" in error.message


def test_a_field_of_a_newer_version_is_refused_by_its_name(tiny_copy: Path) -> None:
    document = json.loads((tiny_copy / MANIFEST).read_text())
    (tiny_copy / MANIFEST).write_text(json.dumps(document | {"new": "things"}))
    error = refusal(tiny_copy)
    assert isinstance(error, FormatError)
    assert "does not know (new)" in error.message


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format_version": 1}', '{"format_version": 1, "files": {"a": 3}}', "\xff"]
)
def test_a_manifest_that_is_none_is_refused(text: str, tiny_copy: Path) -> None:
    (tiny_copy / MANIFEST).write_text(text, encoding="latin-1")
    assert isinstance(refusal(tiny_copy), DamageError)


def test_a_manifest_that_was_edited_is_refused(tiny_copy: Path) -> None:
    path = tiny_copy / MANIFEST
    text = path.read_text()
    for altered in (text.replace('"split": "all"', '"split": "train"'), text.replace("\n", "\r\n"), text + "\n"):
        path.write_bytes(altered.encode())
        error = refusal(tiny_copy)
        assert isinstance(error, DamageError)
        assert "altered" in error.message


@pytest.mark.parametrize("field", ["model_sha256", "tokenizer_sha256"])
def test_a_manifest_of_another_model_is_refused_even_if_its_id_fits(field: str, tiny_copy: Path) -> None:
    rewrite_manifest(tiny_copy, **{field: "0" * 64})
    error = refusal(tiny_copy, check="sizes")
    assert isinstance(error, MismatchError)
    assert "000000000000" in error.message


@pytest.mark.parametrize("field", ["substrings", "d_model"])
def test_arrays_of_other_shapes_than_the_manifest_says_are_refused(field: str, tiny_copy: Path) -> None:
    rewrite_manifest(tiny_copy, **{field: getattr(read_manifest(tiny_copy), field) + 1})
    error = refusal(tiny_copy)
    assert isinstance(error, DamageError)
    assert "instead of" in error.message


def test_a_manifest_that_leaves_out_a_file_is_refused(tiny_copy: Path) -> None:
    files = dict(read_manifest(tiny_copy).files)
    del files["keys/block-1.npy"]
    rewrite_manifest(tiny_copy, files=files)
    assert isinstance(refusal(tiny_copy), DamageError)


def test_a_file_that_is_no_array_is_refused_even_if_the_manifest_knows_it(tiny_copy: Path) -> None:
    for name in ("keys/block-0.npy", "counts/counts.lmdb"):
        (tiny_copy / name).write_text("no array")
        rewrite_manifest(tiny_copy, files=read_manifest(tiny_copy).files | {name: entry(tiny_copy / name)})
        error = refusal(tiny_copy)
        assert isinstance(error, DamageError)
        assert str(tiny_copy / "keys/block-0.npy") in error.message


def test_records_that_are_none_are_refused_even_if_the_manifest_knows_them(tiny_copy: Path) -> None:
    name = "counts/counts.lmdb"
    for content in (b"no records", b"", bytes(8192)):
        (tiny_copy / name).write_bytes(content)
        rewrite_manifest(tiny_copy, files=read_manifest(tiny_copy).files | {name: entry(tiny_copy / name)})
        error = refusal(tiny_copy)
        assert isinstance(error, DamageError)
        assert str(tiny_copy / name) in error.message


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.EIO])
@pytest.mark.parametrize("name", [MANIFEST, "model/model.safetensors", "keys/block-0.npy", "counts/counts.lmdb"])
def test_a_file_that_cannot_be_read_is_not_called_damaged(
    name: str, number: int, tiny_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = io.open  # what Path.open and Path.read_bytes call

    def deny(path: object, *given: object, **options: object) -> object:
        """As an operating system does where the caller is not root, or the disk fails."""
        if str(path) == str(tiny_copy / name):
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *given, **options)

    monkeypatch.setattr(io, "open", deny)
    error = refusal(tiny_copy)
    assert (type(error), error.reason) == (SnapshotError, "SNAPSHOT_UNREADABLE")
    assert os.strerror(number) in error.message
    assert "build" not in error.message


@pytest.mark.parametrize("name", ["keys/block-0.npy", "counts/tokens.npy"])
def test_a_disk_that_fails_while_it_is_read_is_told_of(
    name: str, tiny_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> Iterator[bytes]:
        if path == tiny_copy / name:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return iter([path.read_bytes()])

    monkeypatch.setattr(files_module, "_pieces", fail)
    error = refusal(tiny_copy)
    assert (error.reason, error.metadata) == ("SNAPSHOT_UNREADABLE", {"file": Path(name).name})


def test_too_few_open_files_are_told_of_whatever_they_lack_for(tiny_copy: Path) -> None:
    limits, held = resource.getrlimit(resource.RLIMIT_NOFILE), len(os.listdir("/proc/self/fd"))
    refused = []
    try:
        for more in range(3, 60, 2):
            resource.setrlimit(resource.RLIMIT_NOFILE, (held + more, limits[1]))
            try:
                Datastore.open(tiny_copy).close()
            except SnapshotError as error:
                refused.append((error.reason, "ulimit" in error.message))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert 1 < len(refused) < 25
    assert set(refused) == {("SNAPSHOT_UNREADABLE", True)}


def test_a_part_that_is_dropped_while_a_snapshot_is_opened_is_not_missed(
    tiny_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, calls = datastore_module.check_sizes, []

    def drop_meanwhile(folder: Path, manifest: Manifest) -> None:
        """As another process does."""
        read(folder, manifest)
        if not calls:
            drop_part(folder, "tiles")
            shutil.rmtree(folder / "tiles")
        calls.append(manifest.snapshot_id)

    monkeypatch.setattr(datastore_module, "check_sizes", drop_meanwhile)
    with Datastore.open(tiny_copy) as opened:
        assert opened.tiles is None
    assert len(calls) == 2


def test_what_is_no_snapshot_is_refused_as_that(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    save_model(tmp_path / "model", make_model())
    for name in ("file", "folder", "model", "nothing"):
        error = refusal(tmp_path / name)
        assert error.reason == "SNAPSHOT_NOT_FOUND"
        assert "ffnsearch build" in error.message


def test_a_manifest_survives_being_written_and_read(tiny_snapshot: Path, tiny_copy: Path) -> None:
    manifest = read_manifest(tiny_snapshot)
    rewrite_manifest(tiny_copy, fidelity={"hellinger": 0.1, "prompts": 1000})
    again = read_manifest(tiny_copy)
    assert isinstance(again, Manifest)
    assert again.fidelity == {"hellinger": 0.1, "prompts": 1000}
    assert again.snapshot_id != manifest.snapshot_id
    assert replace(again, fidelity=None, snapshot_id=manifest.snapshot_id) == manifest


def test_a_revised_manifest_is_whole_and_the_files_are_as_they_were(measurable: Path, tmp_path: Path) -> None:
    snapshot = Path(shutil.copytree(measurable / "all", tmp_path / "copy.ffn"))
    before, files = read_manifest(snapshot), files_of(snapshot)
    after = revise(snapshot, default_profile="steps", fidelity={"parity": {"prompts": 1}})
    assert after == read_manifest(snapshot)
    assert after.snapshot_id != before.snapshot_id
    assert (after.default_profile, after.fidelity) == ("steps", {"parity": {"prompts": 1}})
    assert (after.files, after.profiles) == (before.files, before.profiles)
    changed = {name for name, content in files_of(snapshot).items() if files.get(name) != content}
    assert changed == {"manifest.json"}
    Datastore.open(snapshot).close()
    assert revise(snapshot, default_profile="even", fidelity=None).snapshot_id == before.snapshot_id


def test_how_much_of_a_snapshot_is_read_is_told(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "_HASH_BYTES", 1000)
    told: list[tuple[str, int, int]] = []
    total_bytes = read_manifest(tiny_copy).total_bytes()
    assert total_bytes > 1_000_000
    Datastore.open(tiny_copy, progress=lambda *state: told.append(state)).close()
    assert {(stage, total) for stage, _, total in told} == {("verify, MB", -(-total_bytes // 10**6))}
    done = [done for _, done, _ in told]
    assert done == sorted(done)
    assert done[-1] == -(-total_bytes // 10**6)
    told.clear()
    Datastore.open(tiny_copy, check="sizes", progress=lambda *_: told.append(("", 0, 0))).close()
    assert not told


def test_how_much_of_a_new_part_is_hashed_is_told(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "_HASH_BYTES", 1000)
    told: list[tuple[str, int, int]] = []
    drop_part(tiny_copy, "tiles")
    list_part(tiny_copy, "tiles", lambda stage, done, total, detail="": told.append((stage, done, total)))
    part_bytes = sum(path.stat().st_size for path in (tiny_copy / "tiles").rglob("*.npy"))
    assert len(told) > part_bytes // 1000
    assert told[-1] == ("checksums, MB", -(-part_bytes // 10**6), -(-part_bytes // 10**6))


def test_what_others_change_while_a_part_is_hashed_stays(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = read_manifest(tiny_copy).files
    drop_part(tiny_copy, "tiles")

    def measured_meanwhile(paths: list[Path], **options: Any) -> list[str]:
        revise(tiny_copy, fidelity={"parity": {"prompts": 1}})
        return hash_files(paths, **options)

    monkeypatch.setattr(store, "hash_files", measured_meanwhile)
    after = list_part(tiny_copy, "tiles")
    assert (after.files, after.fidelity) == (files, {"parity": {"prompts": 1}})
    assert after == read_manifest(tiny_copy)


def test_a_manifest_that_many_change_at_once_has_all_their_changes(tiny_copy: Path) -> None:
    def measure(number: int) -> None:
        revise_manifest(
            tiny_copy,
            lambda manifest: replace(manifest, fidelity=(manifest.fidelity or {}) | {str(number): {}}),
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(measure, range(40)))
    assert read_manifest(tiny_copy).fidelity == {str(number): {} for number in range(40)}

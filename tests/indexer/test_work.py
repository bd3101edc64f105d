"""A folder is worked in by one process at a time, what was begun there keeps its identity, and nothing else is left."""

import fcntl
from pathlib import Path
from typing import IO, Any

import pytest

from ffnsearch_indexer.alone import LOCK_FILE, alone_in
from ffnsearch_indexer.errors import OutputError
from ffnsearch_indexer.store.work import IDENTITY_FILE, claim
from tiny import files_of

IDENTITY = {"model_sha256": "1", "window_tokens": 10}


def begin(work: Path) -> None:
    with claim(work, IDENTITY):
        (work / "piece").write_text("done")


def test_a_folder_in_use_is_refused_and_free_again_afterwards(tmp_path: Path) -> None:
    work = tmp_path / "deep" / "work"
    with alone_in(work):
        with pytest.raises(OutputError) as caught, alone_in(work):
            pass
        assert (caught.value.reason, caught.value.metadata) == ("OUTPUT_BUSY", {"path": str(work)})
        assert list(files_of(work)) == [LOCK_FILE]
    with alone_in(work):
        pass
    assert not work.exists()


@pytest.mark.parametrize("kind", [FileNotFoundError, KeyboardInterrupt])
def test_what_goes_wrong_in_a_folder_is_told_and_its_files_stay(kind: type[BaseException], tmp_path: Path) -> None:
    def fail() -> None:
        (tmp_path / "work" / "piece").write_text("done")
        raise kind

    with pytest.raises(kind), alone_in(tmp_path / "work"):
        fail()
    assert files_of(tmp_path) == {"work/piece": b"done"}


def test_a_folder_that_was_there_may_stay(tmp_path: Path) -> None:
    with alone_in(tmp_path, stays=True):
        assert (tmp_path / LOCK_FILE).exists()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_deletes_meanwhile_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, mkdir = [], Path.mkdir

    def make(path: Path, *arguments: Any, **options: Any) -> None:
        made.append(path)
        if len(made) == 1:
            raise FileExistsError(path)  # it is gone again
        mkdir(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", make)
    with alone_in(tmp_path / "work"):
        assert made == [tmp_path / "work"] * 2


def test_a_lock_that_was_deleted_before_it_was_got_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked, lock = fcntl.flock, tmp_path / "work" / LOCK_FILE
    calls = []

    def end_another(file: IO[str], operation: int) -> None:
        """As another process does that ends its work meanwhile."""
        calls.append(operation)
        if len(calls) == 1:
            lock.unlink()
            lock.parent.rmdir()
        locked(file, operation)

    monkeypatch.setattr(fcntl, "flock", end_another)
    with alone_in(tmp_path / "work"):
        assert lock.exists()
    assert len(calls) == 2


def test_work_that_goes_on_leaves_its_identity_as_it_is(tmp_path: Path) -> None:
    begin(tmp_path / "work")
    before = (tmp_path / "work" / IDENTITY_FILE).stat()
    with claim(tmp_path / "work", IDENTITY):
        pass
    after = (tmp_path / "work" / IDENTITY_FILE).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("nothing", ["", "shards", "pieces/block-0"])
def test_empty_folders_are_no_work(nothing: str, tmp_path: Path) -> None:
    with claim(tmp_path / "work", IDENTITY):
        (tmp_path / "work" / nothing).mkdir(parents=True, exist_ok=True)
    assert not (tmp_path / "work").exists()
    (tmp_path / "work" / nothing).mkdir(parents=True)
    with claim(tmp_path / "work", IDENTITY | {"window_tokens": 11}):
        pass
    assert not (tmp_path / "work").exists()


def test_a_link_is_work(tmp_path: Path) -> None:
    with claim(tmp_path / "work", IDENTITY):
        (tmp_path / "work" / "pieces").symlink_to(tmp_path)
    assert (tmp_path / "work" / "pieces").is_symlink()

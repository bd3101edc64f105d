"""A corpus is read whole or refused with the file and the place."""

import errno
import os
from pathlib import Path

import pytest

from ffnsearch_indexer.corpora.corpus import Corpus, read_corpus
from ffnsearch_indexer.errors import CorpusError


def refused(source: Path) -> CorpusError:
    with pytest.raises(CorpusError) as error:
        read_corpus(str(source))
    return error.value


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "my text.txt"
    path.write_bytes("a\r\nß\U0001f600 \n".encode())
    assert read_corpus(str(path)) == Corpus("my text", "a\r\nß\U0001f600 \n")


def test_a_folder_is_joined_in_the_order_of_relative_paths(tmp_path: Path) -> None:
    files = {"b.txt": "2", "a/z.txt": "1\n", "c/empty.txt": "", "c/y/x.txt": "3\n\n", "notes.md": "not this"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert read_corpus(str(tmp_path)) == Corpus(tmp_path.name, "1\n2\n3\n\n")


def test_the_ending_of_a_text_may_be_in_any_case(tmp_path: Path) -> None:
    for name in ("a.txt", "B.TXT", "c.Txt", "d.text"):
        (tmp_path / name).write_text(name[0])
    assert read_corpus(str(tmp_path)).text == "B\na\nc\n"


def test_a_name_that_is_not_utf_8_can_be_written_in_it(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.txt")
    path.write_text("text")
    assert read_corpus(str(path)) == Corpus("caf\ufffd", "text")


def test_an_empty_name_is_not_the_folder_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.txt").write_text("text")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorpusError) as caught:
        read_corpus("")
    assert caught.value.reason == "CORPUS_NOT_FOUND"
    assert read_corpus(".").text == "text\n"


def test_the_same_text_has_the_same_hash_whatever_its_name() -> None:
    assert Corpus("one", "text").sha256 == Corpus("two", "text").sha256
    assert Corpus("one", "text").sha256 != Corpus("one", "text ").sha256


@pytest.mark.parametrize(("characters", "train"), [(10, 9), (19, 17), (1_115_394, 1_003_854)])
def test_the_training_split_is_the_first_nine_tenths(characters: int, train: int) -> None:
    assert Corpus("any", "a" * characters).train_tokens() == train


def test_a_missing_corpus_is_refused_with_what_can_be_given(tmp_path: Path) -> None:
    error = refused(tmp_path / "none.txt")
    assert error.reason == "CORPUS_NOT_FOUND"
    assert "shakespeare" in error.message
    assert error.metadata == {"corpus": str(tmp_path / "none.txt")}


@pytest.mark.parametrize("name", ["empty.txt", "."])
def test_an_empty_text_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty.txt").touch()
    assert refused(tmp_path / name).reason == "EMPTY_CORPUS"


def test_a_folder_without_texts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("text")
    (tmp_path / "folder.txt").mkdir()
    error = refused(tmp_path)
    assert error.reason == "EMPTY_CORPUS"
    assert "no .txt file" in error.message


@pytest.mark.parametrize("in_folder", [False, True])
def test_bytes_that_are_not_utf_8_are_refused_with_file_and_offset(tmp_path: Path, in_folder: bool) -> None:
    path = tmp_path / "old.txt"
    path.write_bytes("ä".encode() + b"bc\xe4d")
    error = refused(tmp_path if in_folder else path)
    assert error.reason == "UNDECODABLE_CORPUS"
    assert error.metadata == {"file": str(path), "offset_bytes": "4"}
    assert "byte 0xe4 at offset 4" in error.message


def test_a_name_that_no_file_can_have_is_refused() -> None:
    assert refused(Path("a\0b")).reason == "CORPUS_NOT_FOUND"
    assert refused(Path("a" * 300)).reason == "CORPUS_UNREADABLE"


@pytest.mark.parametrize(("link", "target"), [("a/b", "."), ("b.txt", "none"), ("a/b.txt", "b.txt"), ("b", "../c")])
def test_a_link_that_may_hide_a_text_is_refused(link: str, target: str, tmp_path: Path) -> None:
    for folder in ("of/a", "c"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "text.txt").write_text("text")
    (tmp_path / "of" / "to a text.txt").symlink_to(tmp_path / "c" / "text.txt")
    assert read_corpus(str(tmp_path / "of")).text == "text\ntext\n"
    (tmp_path / "of" / link).symlink_to(target)
    error = refused(tmp_path / "of")
    assert (error.reason, error.metadata) == ("CORPUS_UNREADABLE", {"file": str(tmp_path / "of" / link)})


@pytest.mark.parametrize("name", ["of", "of/a", "of/a/text.txt"])
def test_what_may_not_be_read_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of" / "a").mkdir(parents=True)
    (tmp_path / "of" / "a" / "text.txt").write_text("text")

    def deny(owner: object, call: str) -> None:
        """As an operating system does where the caller is not root."""
        allowed = getattr(owner, call)

        def denied(path: object, *given: object) -> object:
            if str(path) == str(tmp_path / name):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return allowed(path, *given)

        monkeypatch.setattr(owner, call, denied)

    deny(os, "scandir")
    deny(Path, "read_bytes")
    error = refused(tmp_path / "of")
    assert (error.reason, error.metadata) == ("CORPUS_UNREADABLE", {"file": str(tmp_path / name)})


def test_a_place_behind_a_folder_that_may_not_be_entered_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", deny)
    assert refused(tmp_path / "of").reason == "CORPUS_UNREADABLE"

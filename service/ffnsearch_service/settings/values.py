"""Is this a value that the setting takes? (what a source gives -> the value, or what is wrong with it)."""

import math
import os
from pathlib import Path
from typing import Any

from ffnsearch_service.settings.schema import Setting

SHOWN_CHARACTERS_MAX = 80
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_WANTED = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}


class UnfitValueError(Exception):
    """A value that a setting does not take; the message says what it takes instead."""


def value_of(setting: Setting, raw: Any, *, is_text: bool, folder: Path) -> Any:
    """The value that `raw` gives a setting.

    is_text: from the environment or a flag, where a number is written out; a file has types of its own.
    folder: where a relative path starts. Raises UnfitValueError.
    """
    value = _read(setting, raw, folder) if is_text else _typed(setting, raw, folder)
    if setting.choices and value not in setting.choices:
        raise UnfitValueError(f"{shown(raw)} is not one of its values: choose {_either(setting.choices)}")
    if setting.bounds and not setting.bounds[0] <= value <= setting.bounds[1]:
        least, most = setting.bounds
        side, bound = ("below", least) if value < least else ("above", most)
        raise UnfitValueError(f"{shown(raw)} is {side} {bound}: choose {least} to {most}")
    return value


def shown(raw: Any) -> str:
    """A value as a message shows it: on one line, cut if it is long."""
    text = "".join(character if character.isprintable() else " " for character in str(raw))
    return f"'{text if len(text) <= SHOWN_CHARACTERS_MAX else text[:SHOWN_CHARACTERS_MAX] + '…'}'"


def path_of(text: str, folder: Path) -> Path:
    """The absolute path that a text means: `~` is the home, a relative one starts in `folder`.

    It outlives the process, in the state file, and messages to callers lose absolute paths alone.
    """
    path = folder / os.path.expanduser(text)  # as a shell does: of users who do not exist, it stays as it is
    return path.absolute()  # `..` is left to the system, which goes back from where a link leads


def _typed(setting: Setting, raw: Any, folder: Path) -> Any:
    """A value of a TOML file, which must have the type of the setting; a whole number is a number too."""
    wanted = str if setting.kind is Path else setting.kind
    is_whole = type(raw) is int and wanted is float
    if type(raw) is not wanted and not is_whole:
        raise UnfitValueError(f"{shown(raw)} is not {_WANTED[setting.kind]}: write {_example(setting)}")
    return _finished(setting, raw, folder)


def _read(setting: Setting, text: str, folder: Path) -> Any:
    if setting.kind is bool:
        if text.lower() not in _TRUE + _FALSE:
            raise UnfitValueError(f"{shown(text)} is not true or false: write one of the two")
        return text.lower() in _TRUE
    try:
        return _finished(setting, text if setting.kind is Path else setting.kind(text), folder)
    except ValueError:
        raise UnfitValueError(f"{shown(text)} is not {_WANTED[setting.kind]}: write {_example(setting)}") from None


def _finished(setting: Setting, raw: Any, folder: Path) -> Any:
    """The value once its type fits: paths made absolute; nothing empty, and no NaN or infinity."""
    if raw == "" and setting.kind in (str, Path):
        raise UnfitValueError("it is empty: give a value, or leave the setting out")
    if setting.kind is float and not math.isfinite(raw):
        raise UnfitValueError(f"{shown(raw)} is not a number: write {_example(setting)}")
    if setting.kind is Path:
        return path_of(raw, folder)
    return float(raw) if setting.kind is float else raw


def _example(setting: Setting) -> str:
    if setting.kind is Path:
        return '"/a/path" in quotes'
    if setting.kind is bool:
        return "true or false, without quotes"
    if setting.kind is str:
        return f"{_either(setting.choices)} in quotes" if setting.choices else '"text" in quotes'
    return f"{setting.default if setting.default is not None else 1}, without quotes"


def _either(choices: tuple[str, ...]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}"

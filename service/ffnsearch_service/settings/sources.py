"""What do the file, the environment and the flags say? (source -> settings as given, each with its origin)."""

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ffnsearch_service.config import DEFAULT_ALIAS, TOKEN_VARIABLE
from ffnsearch_service.errors import SettingsError
from ffnsearch_service.names import NAME
from ffnsearch_service.settings.schema import TABLES, sections

FILE_BYTES_MAX = 1 << 20
"""A file of settings is a page or two; a snapshot given by mistake is not read."""

ENVIRONMENT_PREFIX = "FFNSEARCH_"

_SERVICE_LINK = re.compile(r"FFNSEARCH_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP)(_\w+)?)?)")
"""What Kubernetes puts into every container beside a service called `ffnsearch`; none of it is meant for us."""

_HEADER = re.compile(r"\s*\[\s*([\w.\"'-]+)\s*\]\s*(#.*)?")
_ENTRY = re.compile(r"\s*([\w.\"'-]+(?:\s*\.\s*[\w\"'-]+)*)\s*=")


class Given(NamedTuple):
    """One setting as a source gives it.

    key: `section.name`, or whatever stands in its place. raw: its value. origin: `FILE line N`, `environment
    NAME` or `flag --NAME`. is_text: whether a number is written out. folder: where a relative path starts, itself
    relative to the working directory.
    """

    key: str
    raw: Any
    origin: str
    is_text: bool
    folder: Path


def from_file(path: Path) -> list[Given]:
    """Read a TOML file; a relative path in it starts in the file's folder. Raises SettingsError."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise SettingsError([f"{path} is longer than {FILE_BYTES_MAX:,} bytes: give a file of settings"])
        text = data.decode()
        document = tomllib.loads(text)
    except OSError as error:
        raise SettingsError([f"cannot read {path}: {error.strerror}; give a TOML file of settings"]) from None
    except UnicodeDecodeError:
        raise SettingsError([f"{path} is not UTF-8 text: give a TOML file of settings"]) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([f"{path} is not TOML: {error}"]) from None
    lines = _lines(text)
    return [
        Given(key, raw, f"{path.name} line {line}" if (line := _line(lines, key)) else path.name, False, path.parent)
        for key, raw in _flat(document)
    ]


def from_environment(environment: Mapping[str, str]) -> list[Given]:
    """Read FFNSEARCH_SECTION_NAME, in capitals; FFNSEARCH_SNAPSHOTS and FFNSEARCH_ALIASES are lists of NAME=VALUE.

    What Kubernetes puts there, and a client's token, are no settings.
    """
    found = []
    for variable, text in environment.items():
        is_foreign = variable == TOKEN_VARIABLE or _SERVICE_LINK.fullmatch(variable)
        if variable.startswith(ENVIRONMENT_PREFIX) and not is_foreign:
            origin = f"environment {variable}"
            found += [Given(key, raw, origin, True, Path()) for key, raw in _entries(variable, text)]
    return found


def from_flags(flags: Mapping[str, object], assignments: Sequence[str] = ()) -> list[Given]:
    """Read flags: values by their key, those that are None left out, and assignments `SECTION.NAME=VALUE`."""
    found = [
        Given(key, str(value).lower() if isinstance(value, bool) else str(value), f"flag {_flag(key)}", True, Path())
        for key, value in flags.items()
        if value is not None
    ]
    for assignment in assignments:
        key, _, raw = assignment.partition("=")
        found.append(Given(key.strip(), raw.strip(), "flag --set", True, Path()))
    return found


def from_arguments(snapshots: Sequence[str]) -> list[Given]:
    """Read arguments `[NAME=]PATH`; the first one is what the alias `default` points to.

    Without a name a snapshot is called as its folder, without `.ffn`, in lower case and with hyphens for all else that
    no name may have.
    """
    found: dict[str, Given] = {}
    for name, path in map(_named, snapshots):
        if name in found:
            raise SettingsError([f"two snapshots are called {name}: give NAME=PATH with names that differ"])
        found[name] = Given(f"snapshots.{name}", path, f"argument {name}={path}", True, Path())
    default = [Given(f"aliases.{DEFAULT_ALIAS}", name, one.origin, True, Path()) for name, one in found.items()][:1]
    return [*found.values(), *default]


def _flat(document: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The entries of a document by `section.name`; what is no section stands for itself."""
    return [
        (f"{section}.{name}", raw)
        for section, entries in document.items()
        for name, raw in (entries.items() if isinstance(entries, dict) else [("", entries)])
    ]


def _entries(variable: str, text: str) -> list[tuple[str, str]]:
    lower = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
    if lower in TABLES:
        pairs = [entry.strip().partition("=") for entry in text.split(",") if entry.strip()]
        return [(f"{lower}.{name}", raw) for name, _, raw in pairs]
    section = next((name for name in sections() if lower.startswith(f"{name}_")), "")
    return [(f"{section}.{lower.removeprefix(f'{section}_')}" if section else lower, text)]


def _named(argument: str) -> tuple[str, str]:
    name, equals, path = argument.partition("=")
    if equals and NAME.fullmatch(name):
        return name, path
    folder = Path(os.path.abspath(argument)).name.removesuffix(".ffn").lower()
    words = re.sub(r"[^a-z0-9]+", "-", folder).strip("-")
    return (words if words[:1].isalpha() else f"snapshot-{words}".rstrip("-"))[:63], argument


def _flag(key: str) -> str:
    if key == "server.verify":
        return "--skip-verify"
    return f"--{key.partition('.')[2].replace('_', '-')}"


def _lines(text: str) -> dict[str, int]:
    """The line of each section and entry of a TOML text, from 1, as far as they are written the usual way."""
    found: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.fullmatch(line):
            section = _bare(header[1])
            found.setdefault(section, number)
        elif entry := _ENTRY.match(line):
            found.setdefault(_bare(f"{section}.{entry[1]}" if section else entry[1]), number)
    return found


def _line(lines: Mapping[str, int], key: str) -> int | None:
    return lines.get(key.removesuffix("."), lines.get(key.partition(".")[0]))


def _bare(key: str) -> str:
    return re.sub(r"[\s\"']", "", key)

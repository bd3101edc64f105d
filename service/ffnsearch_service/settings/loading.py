"""What does everything together say? (settings as given, later ones win -> one ServerConfig, or every problem)."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ffnsearch_service.config import DEFAULT_ALIAS, ServerConfig
from ffnsearch_service.errors import SettingsError
from ffnsearch_service.names import NAME, NAME_RULE
from ffnsearch_service.settings import rules
from ffnsearch_service.settings.schema import TABLES, sections, settings
from ffnsearch_service.settings.sources import Given
from ffnsearch_service.settings.values import UnfitValueError, path_of, shown, value_of

DEFAULT_ORIGIN = "default"


@dataclass(frozen=True)
class Loaded:
    """Settings that fit together. origins: by key, where each value that is not the default comes from."""

    config: ServerConfig
    origins: Mapping[str, str]

    def origin(self, key: str) -> str:
        """Where the value of a key comes from."""
        return self.origins.get(key, DEFAULT_ORIGIN)


def load(given: Iterable[Given]) -> Loaded:
    """Put together what the sources give, in their order: a later one wins.

    Raises SettingsError with every problem: of single values, and of values that contradict each other.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    problems: list[str] = []
    doubtful: set[str] = set()
    for one in given:
        try:
            values[one.key] = _value(one)
            origins[one.key] = one.origin
        except UnfitValueError as error:
            problems.append(f"{one.key.removesuffix('.')} ({one.origin}): {error}")
            doubtful.add(_nearest_section(one.key))
    loaded = Loaded(_config(values), origins)
    problems += rules.problems(loaded.config, loaded.origin, doubtful)
    if problems:
        raise SettingsError(problems)
    return loaded


def key_values(config: ServerConfig) -> dict[str, Any]:
    """Every value of a configuration by its key, the tables last; an absent one is None."""
    found = {}
    for key, setting in settings().items():
        section = key.partition(".")[0]
        owner = config if section == "server" else getattr(config, section)
        found[key] = getattr(owner, setting.field)
    for table in TABLES:
        found |= {f"{table}.{name}": value for name, value in getattr(config, table).items()}
    return found


def _value(one: Given) -> Any:
    section, _, name = one.key.partition(".")
    if section in TABLES:
        return _table_value(section, name, one)
    if one.key not in settings():
        raise UnfitValueError(f"there is no such setting: {_advice(one.key)}")
    return value_of(settings()[one.key], one.raw, is_text=one.is_text, folder=one.folder)


def _table_value(table: str, name: str, one: Given) -> Any:
    """The path of a snapshot, or the name that an alias points to."""
    if not NAME.fullmatch(name):
        raise UnfitValueError(f"{shown(name)} is not a name: {NAME_RULE}")
    if not isinstance(one.raw, str) or not one.raw:
        raise UnfitValueError(
            f'{shown(one.raw)} is not a text: write NAME = "{"PATH" if table == "snapshots" else "NAME"}"'
        )
    return path_of(one.raw, one.folder) if table == "snapshots" else one.raw


def _advice(key: str) -> str:
    """The nearest name of a setting, or where all of them are."""
    section = key.partition(".")[0]
    known = [*settings(), *TABLES]
    switch = f"{key.rpartition('.')[2]}.enabled"
    nearest = [switch] if switch in known else difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if not nearest and section in sections():
        names = [one.partition(".")[2] for one in known if one.startswith(f"{section}.")]
        return f"section {section} has {', '.join(names)}"
    return f"did you mean {nearest[0]}?" if nearest else "`ffnsearch serve --print-config` lists them all"


def _nearest_section(key: str) -> str:
    """The section that a key is in, or may have been meant to be in."""
    section = key.partition(".")[0]
    return next(iter(difflib.get_close_matches(section, [*sections(), *TABLES], n=1)), section)


def _config(values: Mapping[str, Any]) -> ServerConfig:
    """The configuration with the values by key; a sole or first snapshot is the default one unless an alias says so."""
    tables: dict[str, dict[str, Any]] = {table: {} for table in TABLES}
    parts: dict[str, dict[str, Any]] = {section: {} for section in sections()}
    for key, value in values.items():
        section, _, name = key.partition(".")
        (tables[section] if section in TABLES else parts[section])[name] = value
    if tables["snapshots"]:
        tables["aliases"].setdefault(DEFAULT_ALIAS, next(iter(tables["snapshots"])))
    server = parts.pop("server")
    own = {section: sections()[section](**part) for section, part in parts.items()}
    arguments: dict[str, Any] = {**tables, **server, **own}
    return ServerConfig(**arguments)

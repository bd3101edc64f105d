"""Which settings are there, of which type, in which range? (the dataclasses of `config.py` -> settings by key)."""

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any

from ffnsearch_service.config import Limits, ServerConfig

TABLES = ("snapshots", "aliases")
"""Sections whose keys the operator chooses: names of snapshots, and aliases."""

INT32_MAX = 2**31 - 1
"""gRPC keeps the lengths of messages in an int32; nothing counted here comes near it."""

_BOUNDS: Mapping[str, tuple[float, float]] = {
    "server.port": (0, 65535),
    "server.threads": (1, 1024),
    "server.grace_s": (0, 3600),
    "metrics.port": (0, 65535),
    "admin.builds_max": (1, 64),
    "limits.snapshots_bytes_max": (1, 2**63 - 1),
}


@dataclass(frozen=True)
class Setting:
    """One setting with a key of its own.

    kind: bool, int, float, str or Path. choices: the only values of a str, or none. bounds: least and greatest value of
    a number, both allowed, or none. owner, field: the dataclass and its field.
    """

    kind: type
    default: Any
    owner: type
    field: str
    choices: tuple[str, ...] = ()
    bounds: tuple[float, float] | None = None


@cache
def settings() -> dict[str, Setting]:
    """Every setting by its key, section by section; the tables are not among them."""
    found = {}
    for section, owner in sections().items():
        kinds = typing.get_type_hints(owner)
        for one in fields(owner):
            if owner is ServerConfig and (one.name in TABLES or is_dataclass(kinds[one.name])):
                continue
            found[f"{section}.{one.name}"] = _setting(f"{section}.{one.name}", owner, one.name, kinds[one.name])
    return found


@cache
def sections() -> dict[str, type]:
    """The dataclass of each section: `server` is the whole, every other one a field of it with the section's name."""
    kinds: dict[str, type] = typing.get_type_hints(ServerConfig)
    return {"server": ServerConfig, **{name: kind for name, kind in kinds.items() if is_dataclass(kind)}}


def _setting(key: str, owner: type, field: str, hint: Any) -> Setting:
    is_union = isinstance(hint, types.UnionType)
    kind = next(part for part in typing.get_args(hint) if part is not types.NoneType) if is_union else hint
    choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    return Setting(
        kind=str if choices else kind,
        default=getattr(owner(), field),
        owner=owner,
        field=field,
        choices=choices,
        bounds=_BOUNDS.get(key, (1, INT32_MAX) if owner is Limits else None),
    )

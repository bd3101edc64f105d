"""What is a token, and what does the file that lists tokens look like?

A token is `ffn_` and 256 random bits. The file, TOML, has only its SHA-256: nobody who reads the file can call.

    count = 1

    [tokens.nightly]
    scopes = ["admin", "read"]
    sha256 = "6f1e…"
    created = 2026-11-22T10:00:00Z
    expires = 2027-11-22T10:00:00Z    # optional

`count` distinguishes a file that was copied only in part from a whole one.
"""

import hashlib
import json
import re
import secrets
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ffnsearch_service.errors import CredentialsError
from ffnsearch_service.security.private_files import read_file

READ = "read"
"""The scope of everything that only asks."""

ADMIN = "admin"
"""The scope of everything that changes what is served. It does not include `read`."""

SCOPES = (ADMIN, READ)
TOKENS_MAX = 256
"""Most tokens in a file: each call is compared with all of them, 0.2 microseconds each."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEYS = {"scopes", "sha256", "created", "expires"}
_WHAT = "tokens file"


@dataclass(frozen=True)
class Token:
    """One token, without its secret. Immutable. name: unique in its file. created, expires: with a time zone."""

    name: str
    scopes: frozenset[str]
    sha256: bytes
    created: datetime
    expires: datetime | None = None

    def is_expired(self, now_s: float) -> bool:
        """Whether its time is over at `now_s`, in seconds since 1970."""
        return self.expires is not None and self.expires.timestamp() <= now_s


def new_secret() -> str:
    """A new token of 256 random bits; its prefix lets scanners find one that was published."""
    return "ffn_" + secrets.token_urlsafe(32)


def hash_secret(secret: str) -> bytes:
    """SHA-256 of a token. Enough for 256 random bits: there is nothing to guess that stretching would slow down."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def new_token(name: str, scopes: Iterable[str], secret: str, expires: datetime | None = None) -> Token:
    """The entry of a new token. Raises CredentialsError for an invalid name or scope, or an expiry in the past."""
    now = datetime.now(UTC).replace(microsecond=0)
    token = Token(name, frozenset(scopes), hash_secret(secret), now, expires)
    _require_name(name)
    for scope in sorted(token.scopes - set(SCOPES)):
        raise CredentialsError(f"{scope[:80]!r} is no scope: choose of {' and '.join(SCOPES)}", reason="INVALID_TOKEN")
    _require_scopes(name, token.scopes)
    if token.is_expired(now.timestamp()):
        raise CredentialsError(f"token {name!r} would expire at once: give a later time", reason="INVALID_TOKEN")
    return token


def load_tokens(path: Path) -> tuple[Token, ...]:
    """Read a tokens file. Raises CredentialsError where others may read it, or where anything in it is invalid."""
    data = read_file(path, _WHAT, private=True)
    try:
        return _read(tomllib.loads(data.decode()))
    except (ValueError, CredentialsError) as error:
        wrong = error.message if isinstance(error, CredentialsError) else f"it is not TOML: {error}"
        raise CredentialsError(
            f"the {_WHAT} {path} cannot be used: {wrong}; restore it, or make another with `ffnsearch token create`",
            reason="INVALID_TOKENS_FILE",
        ) from None


def render_tokens(tokens: Iterable[Token]) -> str:
    """The text of a tokens file, in the order given."""
    listed = list(tokens)
    head = f"# Written by `ffnsearch token`. Hashes alone: no token can be read from here.\ncount = {len(listed)}\n"
    return head + "".join(map(_render, listed))


def _render(token: Token) -> str:
    lines = [
        f'\n[tokens."{token.name}"]',
        f"scopes = {json.dumps(sorted(token.scopes))}",
        f'sha256 = "{token.sha256.hex()}"',
        f"created = {token.created.isoformat()}",
    ]
    if token.expires is not None:
        lines.append(f"expires = {token.expires.isoformat()}")
    return "\n".join(lines) + "\n"


def _read(document: Mapping[str, Any]) -> tuple[Token, ...]:
    """The tokens of a document. Messages name tokens and keys, never a value: it may be a token, put in by mistake."""
    _require(document.keys() <= {"count", "tokens"}, "it has keys other than count and tokens")
    tables = document.get("tokens", {})
    _require(isinstance(tables, dict), "`tokens` is not a table")
    _require(document.get("count") == len(tables), f"`count` is not the number of its tokens, {len(tables)}")
    _require(len(tables) <= TOKENS_MAX, f"it has {len(tables)} tokens, more than {TOKENS_MAX}")
    tokens = tuple(_read_token(name, table) for name, table in tables.items())
    _require(len({token.sha256 for token in tokens}) == len(tokens), "two of its tokens have the same hash")
    return tokens


def _read_token(name: str, table: Any) -> Token:
    _require_name(name)
    _require(isinstance(table, dict) and table.keys() <= _KEYS, f"token {name!r} has keys that are not known")
    scopes, sha256, expires = table.get("scopes"), table.get("sha256"), table.get("expires")
    _require(
        isinstance(scopes, list) and all(isinstance(scope, str) for scope in scopes),
        f"token {name!r}: scopes is not a list of words",
    )
    _require_scopes(name, frozenset(scopes))
    _require(
        isinstance(sha256, str) and bool(_SHA256.fullmatch(sha256)),
        f"token {name!r}: sha256 is not 64 hexadecimal digits",
    )
    _require(_is_time(table.get("created")), f"token {name!r}: created is not a time with a zone")
    _require(expires is None or _is_time(expires), f"token {name!r}: expires is not a time with a zone")
    return Token(name, frozenset(scopes), bytes.fromhex(sha256), table["created"], expires)


def _require_name(name: str) -> None:
    wrong = "a token's name has 1 to 63 letters, digits, dots, dashes and underscores, a letter or digit first"
    _require(bool(_NAME.fullmatch(name)), wrong)


def _require_scopes(name: str, scopes: frozenset[str]) -> None:
    known = " and ".join(SCOPES)
    _require(bool(scopes) and scopes <= set(SCOPES), f"token {name!r} needs at least one scope, of {known}")


def _is_time(value: Any) -> bool:
    return isinstance(value, datetime) and value.tzinfo is not None


def _require(holds: bool, wrong: str) -> None:
    if not holds:
        raise CredentialsError(wrong, reason="INVALID_TOKEN")

"""How is a tokens file changed? Whole or not at all, by one process at a time, open to nobody else."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ffnsearch_indexer.files import disk_errors, write_whole
from ffnsearch_service.errors import CredentialsError
from ffnsearch_service.security.tokens import TOKENS_MAX, Token, load_tokens, render_tokens

_MODE = 0o600

Tokens = tuple[Token, ...]


def add_token(path: Path, token: Token) -> None:
    """Add a token to a file, which is made where it is missing; a running server takes it a moment later.

    Raises CredentialsError where the name is taken or the file cannot be used, OutputError where it cannot be written.
    """

    def added(tokens: Tokens) -> Tokens:
        if any(token.name == other.name for other in tokens):
            raise CredentialsError(
                f"{path} has a token {token.name!r} already: choose another name, or revoke that one first",
                reason="TOKEN_EXISTS",
            )
        if len(tokens) == TOKENS_MAX:
            raise CredentialsError(
                f"{path} has {TOKENS_MAX} tokens, the most there can be: revoke one first", reason="TOO_MANY_TOKENS"
            )
        return (*tokens, token)

    _change(path, added)


def revoke_token(path: Path, name: str) -> None:
    """Take a token out of a file; a running server refuses it a moment later. Raises as `add_token` does."""

    def without(tokens: Tokens) -> Tokens:
        rest = tuple(token for token in tokens if token.name != name)
        if len(rest) == len(tokens):
            raise CredentialsError(
                f"{path} has no token of that name: `ffnsearch token list {path}` shows them", reason="TOKEN_NOT_FOUND"
            )
        return rest

    if not path.exists():
        raise CredentialsError(f"there is no tokens file at {path}: check the path", reason="FILE_UNREADABLE")
    _change(path, without)


def _change(path: Path, change: Callable[[Tokens], Tokens]) -> None:
    """Read, change and write; a link is followed, so that it still is one afterwards."""
    real = path.resolve()
    with disk_errors("check the path, and who may write there"), _alone_in(real.parent):
        exists = real.exists()
        text = render_tokens(change(load_tokens(real) if exists else ()))
        owner = real.stat() if exists else None
        write_whole(real, lambda partial: _write_private(partial, text, owner))


def _write_private(path: Path, text: str, owner: os.stat_result | None) -> None:
    """Write a new file that nobody else can open; an older one's group and mode are kept, as its readers need them."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        if owner is not None:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
            os.fchmod(descriptor, owner.st_mode & 0o777)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other command changes a file in this folder; the lock goes with the process."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

"""May this caller call this method? Tokens in the `authorization` metadata, against the scopes of the methods."""

import contextvars
from collections.abc import Iterable
from typing import Any

from ffnsearch_service.errors import AuthenticationError, ScopeError
from ffnsearch_service.security.refusals import RefusalLog
from ffnsearch_service.security.scopes import scope_of
from ffnsearch_service.security.streams import checked_stream
from ffnsearch_service.security.token_store import TokenStore
from ffnsearch_service.security.tokens import Token

_admitted: contextvars.ContextVar[tuple[Token, str]] = contextvars.ContextVar("admitted")
"""The token of the call that this code runs for, and the scope that it takes."""


class TokenGuard:
    """Admits calls whose token is valid and has the method's scope.

    A stream ends once its token is no longer valid: at its next message, or within `stream_check_s` plus the time that
    the store takes to notice. A call with a single response is still answered. Lives in one event loop.
    """

    def __init__(self, store: TokenStore, *, stream_check_s: float) -> None:
        self._store = store
        self._stream_check_s = stream_check_s
        self._refusals = RefusalLog()

    def admit(self, details: Any) -> str | None:
        """The name of a call's token, None where it needs none. Raises AuthenticationError, ScopeError."""
        scope = scope_of(details.method)
        if scope is None:
            return None
        try:
            token = self._token(details.invocation_metadata, scope)
        except (AuthenticationError, ScopeError) as refusal:
            self._refusals.note(refusal.reason)
            raise
        _admitted.set((token, scope))
        return token.name

    def checked(self, handler: Any) -> Any:
        """The handler; where it has a stream, one that keeps checking that the token of its call is valid."""
        if not (handler.request_streaming or handler.response_streaming):
            return handler
        return checked_stream(handler, self._check, self._stream_check_s)

    def _token(self, metadata: Iterable[tuple[str, str | bytes]], scope: str) -> Token:
        """The token of a call, which has the scope. Raises AuthenticationError, ScopeError."""
        secret = bearer(metadata)
        if secret is None:
            raise AuthenticationError(
                "the call has no token: send the metadata `authorization: Bearer TOKEN`", reason="TOKEN_MISSING"
            )
        return _require_scope(self._store.find(secret), scope)

    def _check(self) -> None:
        """Look again whether the current call's token may go on. Raises AuthenticationError, ScopeError."""
        token, scope = _admitted.get()
        _require_scope(self._store.find_hash(token.sha256), scope)


def bearer(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    """The token in a call's metadata; None where there is none, or more than one."""
    values = [value for name, value in metadata if name == "authorization"]
    if len(values) != 1 or not isinstance(values[0], str):
        return None
    scheme, _, secret = values[0].partition(" ")
    return secret.strip() if scheme.lower() == "bearer" and secret.strip() else None


def _require_scope(token: Token | None, scope: str) -> Token:
    if token is None:
        raise AuthenticationError("the token is unknown, expired or revoked: ask the operator for another")
    if scope not in token.scopes:
        raise ScopeError(f"the token lacks the scope {scope!r}: ask the operator for one that has it", scope=scope)
    return token

"""May this caller call this method? Tokens in the `authorization` metadata, against the scopes of the methods."""

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

import grpc

from ffnsearch_service.errors import AuthenticationError, ScopeError
from ffnsearch_service.operations.callers import UNKNOWN_METHOD, current_call
from ffnsearch_service.security.handlers import refusing
from ffnsearch_service.security.refusals import RefusalLog
from ffnsearch_service.security.scopes import scope_of
from ffnsearch_service.security.streams import checked_stream
from ffnsearch_service.security.token_store import TokenStore
from ffnsearch_service.security.tokens import Token


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Lets a call through whose token is valid and has the method's scope; refuses all others before reading them.

    A stream ends once its token is not valid any more: with its next message, or within `stream_check_s` plus what
    the store takes to see it. A call with a single response is answered as it began. Lives in one event loop.
    """

    def __init__(self, store: TokenStore, *, stream_check_s: float) -> None:
        self._store = store
        self._stream_check_s = stream_check_s
        self._refusals = RefusalLog()

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Refuse the call, or give its handler; the record of the call has the token's name from here on."""
        scope = scope_of(handler_call_details.method)
        if scope is None:
            return await continuation(handler_call_details)
        record = current_call.get()
        try:
            token = self._token(handler_call_details.invocation_metadata, scope)
        except (AuthenticationError, ScopeError) as refusal:
            self._refusals.note(refusal.reason)
            if record is not None and await continuation(handler_call_details) is None:
                record.method = UNKNOWN_METHOD  # names of what is not there are the caller's: no label, no log line
            return refusing(refusal)
        if record is not None:
            record.token_name = token.name
        handler = await continuation(handler_call_details)
        if handler is None or not (handler.request_streaming or handler.response_streaming):
            return handler
        return checked_stream(handler, partial(self._check, token, scope), self._stream_check_s)

    def _token(self, metadata: Iterable[tuple[str, str | bytes]], scope: str) -> Token:
        """The token of a call, which has the scope. Raises AuthenticationError, ScopeError."""
        secret = bearer(metadata)
        if secret is None:
            raise AuthenticationError(
                "the call has no token: send the metadata `authorization: Bearer TOKEN`", reason="TOKEN_MISSING"
            )
        return _require_scope(self._store.find(secret), scope)

    def _check(self, token: Token, scope: str) -> None:
        """Look again whether a token may go on. Raises AuthenticationError, ScopeError."""
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
        raise ScopeError(f"the token has not the scope {scope!r}: ask the operator for one that has", scope=scope)
    return token

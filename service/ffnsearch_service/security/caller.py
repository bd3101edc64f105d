"""Who is calling? The name of the token, for handlers and for the log; the token itself is kept nowhere."""

from contextvars import ContextVar

CALLER: ContextVar[str] = ContextVar("ffnsearch_caller", default="")
"""Name of the token of the call that is being answered; "" without tokens, and for a call that needs none.

It is seen by whatever the handler awaits, and by `asyncio.to_thread`; a thread pool's own threads do not see it.
"""

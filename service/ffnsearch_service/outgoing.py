"""How much of the responses is unread, and by whom? (a caller that reads nothing -> refused).

A response stays in memory until its caller's flow control lets it go, long after its handler has returned. A caller
that answers pings and never reads would fill the memory with what the engine found for it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from ffnsearch_service.config import Limits
from ffnsearch_service.errors import UnreadError

SHARES = 4
"""One connection may leave one part in so many unread, so that it takes no room from the others."""


class Outgoing:
    """Counts the bytes of responses that have not left. Lives in one event loop; `unread_bytes` is read anywhere.

    There are at most `unread_bytes_max` of them and one response more; on a connection, a quarter and one more.
    """

    def __init__(self, limits: Limits) -> None:
        self.unread_bytes = 0
        self._bytes_max = limits.unread_bytes_max
        self._share_bytes = limits.unread_bytes_max // SHARES
        self._of_peers: dict[str, int] = {}

    def check(self, peer: str) -> None:
        """Raise UnreadError where a connection, named by its far end, or all of them together may have no more."""
        if self._of_peers.get(peer, 0) > self._share_bytes:
            raise UnreadError(
                f"{self._of_peers[peer]} bytes of responses on this connection are unread, more than "
                f"{self._share_bytes}: read the responses, then call again"
            )
        if self.unread_bytes > self._bytes_max:
            raise UnreadError(
                f"{self.unread_bytes} bytes of responses on all connections are unread, more than {self._bytes_max}: "
                "read the responses, or call again later"
            )

    def hold(self, peer: str, response: bytes) -> Callable[[Any], None]:
        """Count a response that is about to go out; returns what is to be called once, when its call is done.

        Raises UnreadError as `check` does: others may have been answered while this one was worked on.
        """
        self.check(peer)
        size = len(response)
        self.unread_bytes += size
        self._of_peers[peer] = self._of_peers.get(peer, 0) + size
        return partial(self._release, peer, size)

    def _release(self, peer: str, size: int, _: Any) -> None:
        self.unread_bytes -= size
        left = self._of_peers.pop(peer, 0) - size
        if left > 0:
            self._of_peers[peer] = left

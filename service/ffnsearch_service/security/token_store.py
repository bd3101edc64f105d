"""Which tokens are valid now? A tokens file, looked at again as calls come in."""

import hmac
import logging
import time
from collections.abc import Callable
from pathlib import Path

from ffnsearch_service.errors import CredentialsError
from ffnsearch_service.security.private_files import Stamp, stamp
from ffnsearch_service.security.tokens import Token, hash_secret, load_tokens

_log = logging.getLogger(__name__)


class TokenStore:
    """The tokens of one file. Lives in one thread.

    Every `find` first looks whether the file has changed, at most once in `check_ms_max`: some microseconds, or some
    milliseconds where it has. A file that cannot be used, or is gone, leaves the tokens as they were; the log says so,
    once for each state of the file, and names no path.
    """

    def __init__(
        self,
        path: Path,
        *,
        check_ms_max: int,
        clock_s: Callable[[], float] = time.monotonic,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._check_s = check_ms_max / 1000
        self._clock_s = clock_s
        self._now_s = now_s
        self._tokens: tuple[Token, ...] = ()
        self._seen: Stamp | None = None
        self._looked_s = clock_s()

    @classmethod
    def open(cls, path: Path, *, check_ms_max: int) -> "TokenStore":
        """Read a tokens file. Raises CredentialsError where it cannot be used: a server does not start with it."""
        store = cls(path, check_ms_max=check_ms_max)
        store.load()
        return store

    def load(self) -> None:
        """Read the file as it is now. Raises CredentialsError, and then keeps the tokens that it has."""
        self._seen = stamp(self._path)  # before reading: a change in between is seen the next time
        self._tokens = load_tokens(self._path)

    def find(self, secret: str) -> Token | None:
        """The token of a secret; None where it is unknown, revoked or expired, at the same cost."""
        return self.find_hash(hash_secret(secret))

    def find_hash(self, sha256: bytes) -> Token | None:
        """The token of a hash, as `find`. Every token is compared, whether one before it was equal or not."""
        self._look()
        now_s = self._now_s()
        found = None
        for token in self._tokens:
            is_it = hmac.compare_digest(token.sha256, sha256)
            if is_it & (not token.is_expired(now_s)):
                found = token
        return found

    def _look(self) -> None:
        clock_s = self._clock_s()
        if clock_s - self._looked_s < self._check_s:
            return
        self._looked_s = clock_s
        if stamp(self._path) == self._seen:
            return
        try:
            self.load()
        except CredentialsError as error:
            _log.error("the tokens in use stay as they are: %s; `ffnsearch serve --check` says more", error.reason)
        else:
            _log.info("the tokens file has changed: %d tokens are in use", len(self._tokens))

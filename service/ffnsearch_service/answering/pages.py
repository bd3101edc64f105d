"""How many entries a page has, and how its token says where the list goes on; a token of another list is refused."""

import base64
import binascii
import hashlib
from dataclasses import dataclass

from ffnsearch_service.config import Limits
from ffnsearch_service.errors import RequestError

_OFFSET_BYTES = 8
_SEAL_BYTES = 16


@dataclass(frozen=True)
class Page:
    """A part of one list. key: names the list. offset: where the page begins. size: most entries, at least 1."""

    key: str
    offset: int
    size: int


def page_entries(page_size: int, limits: Limits) -> int:
    """How many entries a page has: 0 asks for the default, and no page has more than the limit.

    Raises RequestError for a negative number.
    """
    if page_size < 0:
        raise RequestError(
            f"page_size: {page_size} is negative: leave it out, or choose at least 1",
            reason="PAGE_SIZE_NEGATIVE",
            field="page_size",
        )
    return min(page_size or limits.page_size_default, limits.page_size_max)


def page_token(key: str, offset: int) -> str:
    """The token for the page that begins at `offset` of the list named `key`; all tokens are of the same length."""
    place = offset.to_bytes(_OFFSET_BYTES, "big")
    seal = hashlib.sha256(key.encode() + b"\0" + place).digest()[:_SEAL_BYTES]
    return base64.urlsafe_b64encode(place + seal).decode()


def read_page_token(token: str, key: str, *, size: int) -> Page:
    """The page that a token stands for, the first for an empty one. Raises RequestError for a token of another list."""
    if not token:
        return Page(key, 0, size)
    try:
        offset = int.from_bytes(base64.urlsafe_b64decode(token)[:_OFFSET_BYTES], "big")
    except (binascii.Error, ValueError):
        offset = 0
    if token != page_token(key, offset):  # another spelling of the same bytes is refused too
        raise RequestError(
            "page_token: it belongs to another request or snapshot: begin again without one, or repeat the request "
            "with the same prompt or query, block, threshold and exclude_self",
            reason="INVALID_PAGE_TOKEN",
            field="page_token",
        )
    return Page(key, offset, size)

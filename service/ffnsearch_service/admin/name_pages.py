"""How a list by name is cut into pages, while names come and go: the next page begins after the last name."""

import base64
import binascii
import bisect
from collections.abc import Sequence

from ffnsearch_service.answering.pages import page_entries
from ffnsearch_service.config import Limits
from ffnsearch_service.errors import RequestError


def name_page(names: Sequence[str], page_size: int, page_token: str, limits: Limits) -> tuple[slice, str]:
    """Which of the ascending names are on a page, and the token of the next one, "" on the last.

    page_size: 0 for the default, lowered to the limit. Raises RequestError, which names the field.
    """
    entries = page_entries(page_size, limits)
    first = bisect.bisect_right(names, _last_name(page_token)) if page_token else 0
    end = first + entries
    token = base64.urlsafe_b64encode(names[end - 1].encode()).decode() if end < len(names) else ""
    return slice(first, end), token


def _last_name(page_token: str) -> str:
    try:
        name = base64.b64decode(page_token, altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        name = ""
    if not name:
        raise RequestError(
            "page_token: it does not belong to this list: begin again without one",
            reason="INVALID_PAGE_TOKEN",
            field="page_token",
        )
    return name

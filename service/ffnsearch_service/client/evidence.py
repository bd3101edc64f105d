"""The evidence for an answer: the best neighbors of a prompt in one block, from as many pages as it takes."""

from dataclasses import dataclass
from typing import Unpack

from ffnsearch_service.client.asking import NeighborsOptions, PromptLike
from ffnsearch_service.client.interface import Calls
from ffnsearch_service.client.results import Neighbor

_PAGE_NEIGHBORS_MAX = 1000


@dataclass(frozen=True)
class Evidence:
    """The best neighbors of a prompt in one block, best first. total_neighbors: how many there are above threshold."""

    snapshot_id: str
    block: int
    threshold: float
    total_neighbors: int
    neighbors: tuple[Neighbor, ...]


def collect(
    calls: Calls, prompt: PromptLike, block: int, *, limit: int, **options: Unpack[NeighborsOptions]
) -> Evidence:
    """Fetch the `limit` best neighbors, at least 1. Raises FfnSearchError."""
    options["page_size"] = min(limit, _PAGE_NEIGHBORS_MAX)
    found: list[Neighbor] = []
    for page in calls.neighbor_pages(prompt, block, **options):
        found.extend(page.neighbors)
        if len(found) >= limit or not page.next_page_token:
            return Evidence(page.snapshot_id, block, page.threshold, page.total_neighbors, tuple(found[:limit]))
    raise AssertionError("there is always a page")

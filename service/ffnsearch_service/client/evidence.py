"""The evidence for an answer: the best neighbors of a prompt in one block, from as many pages as it takes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Unpack

from ffnsearch_service.client.asking import NeighborsOptions, PromptLike
from ffnsearch_service.client.interface import Calls
from ffnsearch_service.client.results import Neighbor, NeighborPage

_PAGE_NEIGHBORS_MAX = 1000


@dataclass(frozen=True)
class Evidence:
    """The best neighbors of a prompt in one block, best first. total_neighbors: how many there are above threshold."""

    snapshot_id: str
    block: int
    threshold: float
    total_neighbors: int
    neighbors: tuple[Neighbor, ...]


def best_pages(
    calls: Calls, prompt: PromptLike, block: int, *, limit: int, **options: Unpack[NeighborsOptions]
) -> Iterator[NeighborPage]:
    """The `limit` best neighbors, at least 1, in pages as they arrive; at least one page. Raises FfnSearchError."""
    options["page_size"] = min(limit, _PAGE_NEIGHBORS_MAX)
    for page in calls.neighbor_pages(prompt, block, **options):
        yield replace(page, neighbors=page.neighbors[:limit])
        limit -= len(page.neighbors)
        if limit <= 0:
            return


def collect(
    calls: Calls, prompt: PromptLike, block: int, *, limit: int, **options: Unpack[NeighborsOptions]
) -> Evidence:
    """Fetch the `limit` best neighbors, at least 1, and hold them together. Raises FfnSearchError."""
    pages = list(best_pages(calls, prompt, block, limit=limit, **options))
    neighbors = tuple(neighbor for page in pages for neighbor in page.neighbors)
    return Evidence(pages[0].snapshot_id, block, pages[0].threshold, pages[0].total_neighbors, neighbors)

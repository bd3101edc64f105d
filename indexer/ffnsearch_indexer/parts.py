"""How work on many items is cut into parts."""

from collections.abc import Iterator


def parts_of(items: int, step: int) -> Iterator[slice]:
    """Slices of at most `step` items each, which together are all of them, in order."""
    return (slice(first, min(items, first + step)) for first in range(0, items, step))

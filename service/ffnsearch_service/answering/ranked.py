"""How the lists that callers are paging through are kept, so that the next page does not search again."""

from collections import OrderedDict

from ffnsearch_indexer.answer.predictor import RankedNeighbors


class RankedCache:
    """The lists used last: at most `lists_max`, within `bytes_max` but for the newest. One thread at a time."""

    def __init__(self, lists_max: int, bytes_max: int) -> None:
        self._lists_max = lists_max
        self._bytes_max = bytes_max
        self._lists: OrderedDict[str, RankedNeighbors] = OrderedDict()

    def get(self, key: str) -> RankedNeighbors | None:
        """The list named `key`, which becomes the newest, or None."""
        if key in self._lists:
            self._lists.move_to_end(key)
        return self._lists.get(key)

    def put(self, key: str, ranked: RankedNeighbors) -> None:
        """Keep a list, and drop the oldest beyond the limits."""
        self._lists[key] = ranked
        while len(self._lists) > 1 and (len(self._lists) > self._lists_max or self._bytes() > self._bytes_max):
            self._lists.popitem(last=False)

    def _bytes(self) -> int:
        return sum(ranked.ids.nbytes + ranked.scores.nbytes for ranked in self._lists.values())

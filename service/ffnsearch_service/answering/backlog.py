"""How much waits, and in how many batches will it run? Work of equal keys shares batches, so it is counted by key."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import NamedTuple


class Load(NamedTuple):
    """How much waits, if each batch takes as much of one key as it has room for.

    prompts, batches: until nothing waits. next_prompts, next_batches: until each work has had one piece.
    """

    prompts: int = 0
    batches: int = 0
    next_prompts: int = 0
    next_batches: int = 0


class Backlog:
    """Counts what waits. A count takes the same time however much that is. Not safe to share between threads."""

    def __init__(self, piece_prompts_max: int) -> None:
        """Begin empty. piece_prompts_max: what a work gets of a batch before any gets more."""
        self.load = Load()
        self._piece_prompts_max = piece_prompts_max
        self._of_keys: dict[Hashable, _OfKey] = {}

    def add(self, key: Hashable, prompts: int, batch_prompts_max: int) -> None:
        """Count work of `prompts`, at least one. Work of equal keys has the same `batch_prompts_max`."""
        of_key = self._of_keys.setdefault(key, _OfKey(batch_prompts_max))
        self._count(of_key, prompts)

    def remove(self, key: Hashable, prompts: int) -> None:
        """Undo an `add` of this many prompts."""
        of_key = self._of_keys[key]
        self._count(of_key, -prompts)
        if not of_key.prompts:
            del self._of_keys[key]

    def until(self, key: Hashable, prompts: int, batch_prompts_max: int, last_prompts: int) -> tuple[int, int]:
        """Prompts and batches that will run before new work of `prompts` is done.

        They are its own pieces, and for each of them one round of everything queued before it. Its last batch counts
        as at least `last_prompts`, where there is room for so many: work that comes later shares it.
        """
        pieces = -(-prompts // self._piece_prompts_max)
        before = self._of_keys.get(key) or _OfKey(batch_prompts_max)
        shared, load = before.load, self.load
        its_prompts = prompts + min(before.prompts, pieces * before.piece_prompts)
        its_batches = -(-its_prompts // batch_prompts_max)
        usual = (its_batches - 1) * batch_prompts_max + min(last_prompts, batch_prompts_max)
        other_prompts = min(load.prompts - shared.prompts, pieces * (load.next_prompts - shared.next_prompts))
        other_batches = min(load.batches - shared.batches, pieces * (load.next_batches - shared.next_batches))
        return max(its_prompts, usual) + other_prompts, its_batches + other_batches

    def _count(self, of_key: "_OfKey", prompts: int) -> None:
        before, load = of_key.load, self.load
        of_key.change(prompts, max(-self._piece_prompts_max, min(prompts, self._piece_prompts_max)))
        after = of_key.load
        self.load = Load(
            load.prompts - before.prompts + after.prompts,
            load.batches - before.batches + after.batches,
            load.next_prompts - before.next_prompts + after.next_prompts,
            load.next_batches - before.next_batches + after.next_batches,
        )


@dataclass
class _OfKey:
    """What waits of one key. piece_prompts: how many prompts the next pieces of its works have."""

    batch_prompts_max: int
    prompts: int = 0
    piece_prompts: int = 0
    load: Load = field(default_factory=Load)

    def change(self, prompts: int, piece_prompts: int) -> None:
        """Add to both; negative numbers take away."""
        self.prompts += prompts
        self.piece_prompts += piece_prompts
        next_batches = -(-self.piece_prompts // self.batch_prompts_max)
        self.load = Load(
            self.prompts,
            -(-self.prompts // self.batch_prompts_max),
            min(self.prompts, next_batches * self.batch_prompts_max),
            next_batches,
        )

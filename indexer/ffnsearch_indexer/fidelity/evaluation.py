"""What one measurement found, and the JSON document that says so.

Shapes: n prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.answer.profile import Profile
from ffnsearch_indexer.fidelity.metrics import Measures, by_support, summarise, summarise_part
from ffnsearch_indexer.fidelity.protocols import Protocol
from ffnsearch_indexer.index.base import Int64

AnswerKey = tuple[str, str]
"""What was measured: a group (profiles, blocks, baselines, sisters) and a name or number in it."""

Document = dict[str, Any]

EXAMPLES = 8
"""How many of the nearest and of the farthest answers are listed."""


@dataclass(frozen=True)
class Evaluation:
    """One measurement under one protocol, prompt by prompt.

    measures: by what was measured, [n] each; a block alone answers with the sums over the steps that the default
    profile has in it, normalised. mass: [n] int64, next tokens that were found at the widest step of each block, over
    all blocks. positions: [n] int64, where in the corpus each prompt begins. trained_on: the name of what the model was
    trained on, and is_in_training: [n], whether it has each prompt; both None where that is not known. sisters: the
    facts about each. seconds: what the search took, over all runs.
    """

    protocol: Protocol
    corpus: str
    trained_on: str | None
    seed: int
    profiles: Sequence[Profile]
    default: str
    sisters: Sequence[dict[str, Any]]
    texts: Sequence[str]
    measures: dict[AnswerKey, Measures]
    mass: Int64
    positions: Int64
    is_in_training: NDArray[np.bool_] | None
    seconds: float

    @cached_property
    def document(self) -> Document:
        """The JSON form of this measurement: the default profile's measures, then those of everything else.

        `noise_floor` is the mean Hellinger distance of the sisters, null where there is none; `trained_on`,
        `in_training` and `not_in_training` are null where it is not known what the model was trained on.
        """
        distances = self.measures["profiles", self.default].hellinger
        profiles = self._summaries("profiles")
        blocks = list(self._summaries("blocks").values())
        best = min(range(len(blocks)), key=lambda block: blocks[block]["hellinger"]["mean"])
        sisters = list(self._summaries("sisters").values())
        is_in = self.is_in_training
        descriptions = {profile.name: profile.source for profile in self.profiles}
        return {
            "protocol": self.protocol.key,
            "corpus": self.corpus,
            "trained_on": self.trained_on,
            "prompts": len(self.texts),
            "seed": self.seed,
            "profile": self.default,
            **profiles[self.default],
            "in_training": None if is_in is None else summarise_part(distances[is_in]),
            "not_in_training": None if is_in is None else summarise_part(distances[~is_in]),
            "by_support": by_support(distances, self.mass),
            "profiles": {name: {"description": descriptions[name], **of} for name, of in profiles.items()},
            "blocks": blocks,
            "baselines": {**self._summaries("baselines"), "best_block": {"block": best, **blocks[best]}},
            "sisters": [{**facts, **of} for facts, of in zip(self.sisters, sisters, strict=True)],
            "noise_floor": float(np.mean([of["hellinger"]["mean"] for of in sisters])) if sisters else None,
            "best": self._examples(distances, np.argsort(distances, kind="stable")[:EXAMPLES]),
            "worst": self._examples(distances, np.argsort(-distances, kind="stable")[:EXAMPLES]),
            "seconds": self.seconds,
        }

    def _summaries(self, group: str) -> dict[str, Document]:
        return {
            name: summarise(measures, self.positions) for (of, name), measures in self.measures.items() if of == group
        }

    def _examples(self, distances: NDArray[np.float64], rows: Int64) -> list[Document]:
        return [{"text": self.texts[row], "hellinger": float(distances[row])} for row in rows]

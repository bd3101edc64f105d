"""What a call gives: frozen results with NumPy arrays, and how they become JSON.

Shapes: V vocabulary.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ffnsearch_indexer.answer.profile import Profile
from ffnsearch_service.client.queries import Queries
from ffnsearch_service.profiles import Kind

Status = Literal["OK", "NO_SUPPORT", "INVALID"]


@dataclass(frozen=True)
class Failure:
    """Why one prompt cannot be run. code: name of the gRPC status code. reason: stable UPPER_SNAKE name."""

    code: str
    reason: str
    message: str
    field: str
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class TokenProbability:
    """The probability of one token, in (0, 1].

    block_contributions: on request, for tokens of an answer, what each block contributes; of a sum, shares that add up
    to the probability; of a product, nats, less their mean over the answer. prior_contribution: of a product, the same
    for its prior; all together are the log probability plus the answer's entropy.
    """

    id: int
    text: str
    probability: float
    block_contributions: tuple[float, ...]
    prior_contribution: float | None


@dataclass(frozen=True)
class Distribution:
    """The likeliest tokens, best first, and on request all probabilities. dense: [V] float64, read-only."""

    tokens: tuple[TokenProbability, ...]
    dense: NDArray[np.float64] | None


@dataclass(frozen=True)
class StepResult:
    """What was found above one threshold. mass: sum of next-token counts.

    frequencies: on request, those counts by token, [V] int64, read-only.
    """

    threshold: float
    weight: float
    neighbors: int
    mass: int
    frequencies: NDArray[np.int64] | None


@dataclass(frozen=True)
class PromptResult:
    """The answer to one prompt; with status INVALID there is an error and nothing else.

    distribution: None without support. model: None unless requested, and for queries in the place of a prompt, which
    have no hellinger, expected_hellinger and self_id either. hellinger: distance between the two, in [0, 1].
    expected_hellinger: the mean distance among calibration prompts with similar support, None where there was none, or
    without support. support: how much was found, the mean of log(1 + mass) over all steps, None for status INVALID.
    used_tokens: how many of its last tokens were used. short_prompt: fewer than a window. self_id: the substring equal
    to its last window. blocks: for each block, its steps. queries: on request, what was searched for.
    """

    status: Status
    error: Failure | None
    distribution: Distribution | None
    model: Distribution | None
    hellinger: float | None
    expected_hellinger: float | None
    support: float | None
    used_tokens: int
    short_prompt: bool
    self_id: int | None
    blocks: tuple[tuple[StepResult, ...], ...]
    queries: Queries | None


@dataclass(frozen=True)
class Timings:
    """Durations of the stages of one call, in nanoseconds."""

    tokenize_ns: int
    queue_ns: int
    model_ns: int
    search_ns: int
    combine_ns: int
    total_ns: int


@dataclass(frozen=True)
class PredictResult:
    """The answers to the prompts of one call, in their order. profile_name: empty for a profile of the caller's.

    recall: share of its neighbors that a query was measured to find, 1 where nothing is approximate. batch_prompts:
    prompts of the batch that the call was answered in, those of other callers included; of several, the largest.
    """

    snapshot_id: str
    profile_name: str
    profile_kind: Kind
    backend: str
    approximate: bool
    recall: float
    batch_prompts: int
    timings: Timings
    results: tuple[PromptResult, ...]


@dataclass(frozen=True)
class TokenCount:
    """How often one token follows a substring."""

    id: int
    text: str
    count: int


@dataclass(frozen=True)
class Place:
    """An occurrence in the corpus: position of the first token, and the text on either side."""

    position: int
    before: str
    after: str


@dataclass(frozen=True)
class Neighbor:
    """A substring above the threshold. next_tokens: by descending count. places: the first of `total_places`."""

    id: int
    text: str
    tokens: tuple[int, ...]
    score: float
    next_tokens: tuple[TokenCount, ...]
    places: tuple[Place, ...]
    total_places: int


@dataclass(frozen=True)
class NeighborPage:
    """One page of neighbors, best first. next_page_token: empty on the last page."""

    neighbors: tuple[Neighbor, ...]
    next_page_token: str
    total_neighbors: int
    threshold: float
    snapshot_id: str


@dataclass(frozen=True)
class SuffixClass:
    """All substrings that share a suffix: `neighbors` of its `members` are above the threshold.

    text: of the suffix, empty for the class of all substrings. best_score: of the neighbors. mass: sum of their
    next-token counts. next_tokens: the most frequent of these tokens, by descending count.
    """

    text: str
    tokens: tuple[int, ...]
    neighbors: int
    members: int
    best_score: float
    mass: int
    next_tokens: tuple[TokenCount, ...]


@dataclass(frozen=True)
class ClassList:
    """The classes that explain the neighbors of a prompt in one block, those with most neighbors first.

    No class contains another. covered_neighbors: how many of all neighbors are in one of them.
    """

    block: int
    classes: tuple[SuffixClass, ...]
    total_neighbors: int
    covered_neighbors: int
    threshold: float
    min_share: float
    snapshot_id: str


@dataclass(frozen=True)
class FidelitySummary:
    """What one measurement found: Hellinger distances between answers and the model, and shares of the prompts.

    protocol: parity, leave_one_out or held_out. noise_floor_hellinger_mean: the distance of models trained from other
    seeds, None where none was compared.
    """

    protocol: str
    prompts: int
    profile_name: str
    hellinger_mean: float
    hellinger_ci95_low: float
    hellinger_ci95_high: float
    hellinger_max: float
    top1_agreement: float
    no_support_share: float
    noise_floor_hellinger_mean: float | None


@dataclass(frozen=True)
class Info:
    """What a server serves. snapshot, model, limits: the fields of the messages of these names, by name.

    fidelity: one summary for each protocol that was measured. self_sums_profile_names: the profiles with which a prompt
    that is a substring needs no search.
    """

    snapshot: Mapping[str, Any]
    model: Mapping[str, Any]
    vocabulary: tuple[str, ...]
    profiles: Mapping[str, Profile]
    default_profile_name: str
    backend: str
    approximate: bool
    recall: float
    limits: Mapping[str, int]
    server_version: str
    fidelity: tuple[FidelitySummary, ...]
    self_sums_profile_names: tuple[str, ...]


def plain(value: Any) -> Any:
    """Turn a result into what JSON can hold: dataclasses into objects by field name, arrays into lists.

    A profile takes the form that a manifest stores.
    """
    if isinstance(value, Profile):
        return value.to_json()
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray) else value

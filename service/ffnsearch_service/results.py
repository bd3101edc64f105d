"""What a call gives: frozen results with NumPy arrays, made from response messages.

Shapes: V vocabulary.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from google.rpc import code_pb2
from numpy.typing import NDArray

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_indexer.answer.profile import Profile
from ffnsearch_service.profiles import read_profile

Status = Literal["OK", "NO_SUPPORT", "INVALID"]

_STATUS: dict[int, Status] = {
    pb.PROMPT_STATUS_OK: "OK",
    pb.PROMPT_STATUS_NO_SUPPORT: "NO_SUPPORT",
    pb.PROMPT_STATUS_INVALID: "INVALID",
}


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
    """The probability of one token, in (0, 1]."""

    id: int
    text: str
    probability: float


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

    distribution: None without support. model: None unless requested. hellinger: distance between the two, in [0, 1].
    used_tokens: how many of its last tokens were used. short_prompt: fewer than a window. self_id: the substring equal
    to its last window. blocks: for each block, its steps.
    """

    status: Status
    error: Failure | None
    distribution: Distribution | None
    model: Distribution | None
    hellinger: float | None
    used_tokens: int
    short_prompt: bool
    self_id: int | None
    blocks: tuple[tuple[StepResult, ...], ...]


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
    """The answers to the prompts of one call, in their order. profile_name: empty for a profile of the caller's."""

    snapshot_id: str
    profile_name: str
    backend: str
    approximate: bool
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
class Info:
    """What a server serves. snapshot, model, limits: the fields of the messages of these names, by name."""

    snapshot: Mapping[str, Any]
    model: Mapping[str, Any]
    vocabulary: tuple[str, ...]
    profiles: Mapping[str, Profile]
    default_profile_name: str
    backend: str
    approximate: bool
    limits: Mapping[str, int]
    server_version: str


def predict_result(message: pb.PredictResponse) -> PredictResult:
    """Read the response to a PredictRequest."""
    return PredictResult(
        snapshot_id=message.snapshot_id,
        profile_name=message.profile_name,
        backend=message.backend,
        approximate=message.approximate,
        timings=Timings(**_scalars(message.timings)),
        results=tuple(_prompt_result(result) for result in message.results),
    )


def neighbor_page(message: pb.ListNeighborsResponse) -> NeighborPage:
    """Read one page of neighbors."""
    return NeighborPage(
        neighbors=tuple(_neighbor(neighbor) for neighbor in message.neighbors),
        next_page_token=message.next_page_token,
        total_neighbors=message.total_neighbors,
        threshold=message.threshold,
        snapshot_id=message.snapshot_id,
    )


def info(message: pb.GetInfoResponse) -> Info:
    """Read the response to a GetInfoRequest."""
    return Info(
        snapshot=_scalars(message.snapshot),
        model=_scalars(message.model),
        vocabulary=tuple(message.vocabulary),
        profiles={profile.name: read_profile(profile) for profile in message.profiles},
        default_profile_name=message.default_profile_name,
        backend=message.backend,
        approximate=message.approximate,
        limits=_scalars(message.limits),
        server_version=message.server_version,
    )


def plain(value: Any) -> Any:
    """Turn a result into what JSON can hold: dataclasses into objects by field name, arrays into lists."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def _prompt_result(message: pb.PromptResult) -> PromptResult:
    return PromptResult(
        status=_STATUS[message.status],
        error=_failure(message.error) if message.HasField("error") else None,
        distribution=_distribution(message.distribution) if message.HasField("distribution") else None,
        model=_distribution(message.model_distribution) if message.HasField("model_distribution") else None,
        hellinger=message.hellinger if message.HasField("hellinger") else None,
        used_tokens=message.used_tokens,
        short_prompt=message.short_prompt,
        self_id=message.self_id if message.HasField("self_id") else None,
        blocks=tuple(tuple(_step(step) for step in block.steps) for block in message.blocks),
    )


def _failure(message: pb.PromptError) -> Failure:
    code = code_pb2.Code.Name(message.code)
    return Failure(code, message.reason, message.message, message.field, dict(message.metadata))


def _distribution(message: pb.Distribution) -> Distribution:
    tokens = tuple(TokenProbability(token.id, token.text, token.probability) for token in message.tokens)
    return Distribution(tokens, np.frombuffer(message.dense, dtype="<f8") if message.dense else None)


def _step(message: pb.StepResult) -> StepResult:
    frequencies = np.frombuffer(message.frequencies, dtype="<i8") if message.frequencies else None
    return StepResult(message.threshold, message.weight, message.neighbors, message.mass, frequencies)


def _neighbor(message: pb.Neighbor) -> Neighbor:
    return Neighbor(
        id=message.id,
        text=message.text,
        tokens=tuple(message.tokens),
        score=message.score,
        next_tokens=tuple(TokenCount(token.id, token.text, token.count) for token in message.next_tokens),
        places=tuple(Place(place.position, place.before, place.after) for place in message.places),
        total_places=message.total_places,
    )


def _scalars(message: Any) -> dict[str, Any]:
    return {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}

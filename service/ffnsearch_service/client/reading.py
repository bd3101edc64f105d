"""How responses are read: messages become frozen results with NumPy arrays."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from google.rpc import code_pb2

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_service.client.queries import Queries
from ffnsearch_service.client.results import (
    ClassList,
    Distribution,
    Failure,
    FidelitySummary,
    Info,
    Neighbor,
    NeighborPage,
    Place,
    PredictResult,
    PromptResult,
    Status,
    StepResult,
    SuffixClass,
    Timings,
    TokenCount,
    TokenProbability,
)
from ffnsearch_service.profiles import KINDS, read_profile

_STATUS: dict[int, Status] = {
    pb.PROMPT_STATUS_OK: "OK",
    pb.PROMPT_STATUS_NO_SUPPORT: "NO_SUPPORT",
    pb.PROMPT_STATUS_INVALID: "INVALID",
}


def predict_result(message: pb.PredictResponse) -> PredictResult:
    """Read the response to a PredictRequest."""
    return PredictResult(
        snapshot_id=message.snapshot_id,
        profile_name=message.profile_name,
        profile_kind=KINDS[message.profile_kind],
        backend=message.backend,
        approximate=message.approximate,
        batch_prompts=message.batch_prompts,
        recall=message.recall,
        timings=Timings(**scalars(message.timings)),
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


def class_list(message: pb.ListClassesResponse, block: int) -> ClassList:
    """Read the response to a ListClassesRequest about a block."""
    return ClassList(
        block=block,
        classes=tuple(_suffix_class(found) for found in message.classes),
        total_neighbors=message.total_neighbors,
        covered_neighbors=message.covered_neighbors,
        threshold=message.threshold,
        min_share=message.min_share,
        snapshot_id=message.snapshot_id,
    )


def info(message: pb.GetInfoResponse) -> Info:
    """Read the response to a GetInfoRequest."""
    return Info(
        snapshot=scalars(message.snapshot),
        model=scalars(message.model),
        vocabulary=tuple(message.vocabulary),
        profiles={profile.name: read_profile(profile) for profile in message.profiles},
        default_profile_name=message.default_profile_name,
        backend=message.backend,
        approximate=message.approximate,
        recall=message.recall,
        limits=scalars(message.limits),
        server_version=message.server_version,
        fidelity=fidelity_summaries(message.fidelity),
        self_sums_profile_names=tuple(message.self_sums_profile_names),
    )


def fidelity_summaries(messages: Iterable[pb.FidelitySummary]) -> tuple[FidelitySummary, ...]:
    """Read the measurements of a snapshot."""
    return tuple(FidelitySummary(**scalars(message)) for message in messages)


def scalars(message: Any) -> dict[str, Any]:
    """The fields of a flat message by name, None for one that is not set where the message can say so."""
    return {
        field.name: _optional(message, field.name) if field.has_presence else getattr(message, field.name)
        for field in message.DESCRIPTOR.fields
    }


def failure(message: pb.PromptError) -> Failure:
    """Read why a prompt was refused."""
    code = code_pb2.Code.Name(message.code)
    return Failure(code, message.reason, message.message, message.field, dict(message.metadata))


def _prompt_result(message: pb.PromptResult) -> PromptResult:
    return PromptResult(
        status=_STATUS[message.status],
        error=failure(message.error) if message.HasField("error") else None,
        distribution=_distribution(message.distribution) if message.HasField("distribution") else None,
        model=_distribution(message.model_distribution) if message.HasField("model_distribution") else None,
        hellinger=_optional(message, "hellinger"),
        expected_hellinger=_optional(message, "expected_hellinger"),
        support=_optional(message, "support"),
        used_tokens=message.used_tokens,
        short_prompt=message.short_prompt,
        self_id=_optional(message, "self_id"),
        blocks=tuple(tuple(_step(step) for step in block.steps) for block in message.blocks),
        queries=_queries(message.queries) if message.HasField("queries") else None,
    )


def _queries(message: pb.Queries) -> Queries:
    return Queries(np.frombuffer(vector, dtype="<f4") if vector else None for vector in message.blocks)


def _distribution(message: pb.Distribution) -> Distribution:
    return Distribution(
        tuple(_token(token) for token in message.tokens),
        np.frombuffer(message.dense, dtype="<f8") if message.dense else None,
    )


def _token(message: pb.TokenProbability) -> TokenProbability:
    return TokenProbability(
        id=message.id,
        text=message.text,
        probability=message.probability,
        block_contributions=tuple(message.block_contributions),
        prior_contribution=_optional(message, "prior_contribution"),
    )


def _step(message: pb.StepResult) -> StepResult:
    frequencies = np.frombuffer(message.frequencies, dtype="<i8") if message.frequencies else None
    return StepResult(message.threshold, message.weight, message.neighbors, message.mass, frequencies)


def _neighbor(message: pb.Neighbor) -> Neighbor:
    return Neighbor(
        id=message.id,
        text=message.text,
        tokens=tuple(message.tokens),
        score=message.score,
        next_tokens=_token_counts(message.next_tokens),
        places=tuple(Place(place.position, place.before, place.after) for place in message.places),
        total_places=message.total_places,
    )


def _suffix_class(message: pb.SuffixClass) -> SuffixClass:
    return SuffixClass(
        text=message.text,
        tokens=tuple(message.tokens),
        neighbors=message.neighbors,
        members=message.members,
        best_score=message.best_score,
        mass=message.mass,
        next_tokens=_token_counts(message.next_tokens),
    )


def _token_counts(messages: Iterable[pb.TokenCount]) -> tuple[TokenCount, ...]:
    return tuple(TokenCount(token.id, token.text, token.count) for token in messages)


def _optional(message: Any, name: str) -> Any:
    return getattr(message, name) if message.HasField(name) else None

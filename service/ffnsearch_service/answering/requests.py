"""How a request message becomes a job: everything is checked here, so that a batch fails only for our own reasons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_indexer.answer.profile import Profile
from ffnsearch_indexer.errors import FfnSearchError, LimitError, ProfileError
from ffnsearch_indexer.models.queries import GivenQueries, Prompt
from ffnsearch_service.answering.pages import Page, page_entries, read_page_token
from ffnsearch_service.answering.prompts import PromptReader, too_many
from ffnsearch_service.config import MIN_SHARE_DEFAULT, Limits
from ffnsearch_service.errors import RequestError
from ffnsearch_service.profiles import read_profile

BlockRequest = pb.ListNeighborsRequest | pb.ListClassesRequest
"""A request for the neighbors of one prompt in one block; both name them with the same fields."""

_PROMPT_BYTES_MAX, _BLOCK_BYTES_MAX, _STEP_BYTES_MAX, _LISTED_BYTES_MAX, _REFUSAL_BYTES_MAX = 128, 8, 64, 32, 8192
"""Upper bounds of what a prompt, a block, a step of it, a listed token and a refused prompt add to a response."""

_EXPLAINED_BYTES_MAX = 16
"""Upper bound of what a token's contributions add beside the 8 bytes of each block."""


class PredictJob(NamedTuple):
    """A valid PredictRequest.

    prompts: for each, its token ids [T], uint16, the queries in their place, or why it cannot be run. runnable: those
    that can, at least one.
    profile_name: empty for a profile of the caller's. top_n: 1 to V. response_bytes_max: upper bound of the response,
    but for what a call adds beside its prompts.
    """

    prompts: list[Prompt | FfnSearchError]
    runnable: list[Prompt]
    profile: Profile
    profile_name: str
    exclude_self: bool
    top_n: int
    min_prob: float
    dense: bool
    include_model: bool
    include_frequencies: bool
    include_contributions: bool
    include_queries: bool
    response_bytes_max: int

    @property
    def needs_freqs(self) -> bool:
        """Whether the response takes the sums themselves."""
        return self.include_frequencies or self.include_contributions


@dataclass(frozen=True)
class BlockSearch:
    """Whose neighbors are wanted, in which block, above which threshold. key: names the list of them."""

    prompt: Prompt
    block: int
    threshold: float
    exclude_self: bool
    key: str


@dataclass(frozen=True)
class NeighborsJob:
    """A valid ListNeighborsRequest: which neighbors, where in their list to begin, and how much to show of each."""

    search: BlockSearch
    page: Page
    context_tokens: int
    places_max: int


@dataclass(frozen=True)
class ClassesJob:
    """A valid ListClassesRequest: which neighbors, and how to explain them. classes_max: at least 1."""

    search: BlockSearch
    classes_max: int
    min_share: float


@dataclass(frozen=True)
class RequestReader:
    """Checks requests against one snapshot and the limits. Immutable, safe to share between threads."""

    snapshot_id: str
    prompts: PromptReader
    profiles: Mapping[str, Profile]
    default_profile: str
    limits: Limits

    def predict_job(self, request: pb.PredictRequest) -> PredictJob:
        """Check a PredictRequest. Raises FfnSearchError, which names the field; a bad prompt alone does not raise."""
        _require(len(request.prompts) > 0, "NO_PROMPTS", "prompts", "there are no prompts: give at least one")
        given, limit = len(request.prompts), self.limits.prompts_max
        if given > limit:
            raise too_many("TOO_MANY_PROMPTS", "prompts", "prompts", given, limit, "send them in several calls")
        name, profile = self._profile_choice(request)
        min_prob = request.min_prob
        _require(0 <= min_prob <= 1, "MIN_PROB_OUT_OF_RANGE", "min_prob", f"{min_prob} is not in [0, 1]")
        _require_size("top_n", request.top_n)
        needed = [block for block, steps in enumerate(profile.blocks) if steps]
        prompts = [self._try_prompt(prompt, f"prompts[{row}]", needed) for row, prompt in enumerate(request.prompts)]
        runnable = [prompt for prompt in prompts if not isinstance(prompt, FfnSearchError)]
        if not runnable:
            raise next(prompt for prompt in prompts if isinstance(prompt, FfnSearchError))
        top_n = min(request.top_n or self.limits.top_n_default, self.prompts.vocabulary_size)
        response_bytes_max = self._response_bytes_max(request, profile, top_n, len(runnable))
        self._require_room(len(prompts), response_bytes_max)
        return PredictJob(
            prompts=prompts,
            runnable=runnable,
            profile=profile,
            profile_name=name,
            exclude_self=request.exclude_self,
            top_n=top_n,
            min_prob=min_prob,
            dense=request.dense,
            include_model=request.include_model,
            include_frequencies=request.include_frequencies,
            include_contributions=request.include_contributions,
            include_queries=request.include_queries,
            response_bytes_max=response_bytes_max,
        )

    def neighbors_job(self, request: pb.ListNeighborsRequest) -> NeighborsJob:
        """Check a ListNeighborsRequest. Raises FfnSearchError, which names the field."""
        search = self._block_search(request)
        size = page_entries(request.page_size, self.limits)
        _require_size("context_tokens", request.context_tokens)
        _require_size("places_max", request.places_max)
        page = read_page_token(request.page_token, search.key, size=size)
        context_tokens = (
            request.context_tokens if request.HasField("context_tokens") else self.limits.context_tokens_default
        )
        places_max = request.places_max if request.HasField("places_max") else self.limits.places_default
        return NeighborsJob(
            search=search,
            page=page,
            context_tokens=min(context_tokens, self.limits.context_tokens_max),
            places_max=min(places_max, self.limits.places_max),
        )

    def classes_job(self, request: pb.ListClassesRequest) -> ClassesJob:
        """Check a ListClassesRequest. Raises FfnSearchError, which names the field."""
        search = self._block_search(request)
        _require_size("classes_max", request.classes_max)
        min_share = request.min_share if request.HasField("min_share") else MIN_SHARE_DEFAULT
        _require(0 < min_share <= 1, "MIN_SHARE_OUT_OF_RANGE", "min_share", f"{min_share} is not in (0, 1]")
        return ClassesJob(
            search=search,
            classes_max=min(request.classes_max or self.limits.classes_default, self.limits.classes_max),
            min_share=min_share,
        )

    def _profile_choice(self, request: pb.PredictRequest) -> tuple[str, Profile]:
        if request.WhichOneof("profile_choice") != "profile":
            return self._named_profile(request.profile_name)
        profile = read_profile(request.profile)
        profile.require_model(self.prompts.blocks, self.prompts.vocabulary_size)
        return "", profile

    def _named_profile(self, name: str) -> tuple[str, Profile]:
        name = name or self.default_profile
        if name not in self.profiles:
            raise ProfileError(
                f"the snapshot has no profile {name[:100]!r}: choose one of {', '.join(sorted(self.profiles))}",
                reason="PROFILE_NOT_FOUND",
                field="profile_name",
                profile_name=name,
            )
        return name, self.profiles[name]

    def _block_search(self, request: BlockRequest) -> BlockSearch:
        _require(
            0 <= request.block < self.prompts.blocks,
            "BLOCK_OUT_OF_RANGE",
            "block",
            f"block {request.block} does not exist: the model has blocks 0 to {self.prompts.blocks - 1}",
        )
        prompt = self.prompts.read(request.prompt, "prompt", [request.block])
        threshold = self._threshold(request)
        asked = (
            prompt.vectors[request.block].tobytes()
            if isinstance(prompt, GivenQueries)
            else prompt[-self.prompts.window_tokens :].tolist()
        )
        key = repr((self.snapshot_id, asked, request.block, threshold, request.exclude_self))
        return BlockSearch(prompt, request.block, threshold, request.exclude_self, key)

    def _threshold(self, request: BlockRequest) -> float:
        name, profile = self._named_profile(request.profile_name)  # the name must exist even where a threshold is given
        if request.HasField("threshold"):
            _require(
                -1 <= request.threshold <= 1,
                "THRESHOLD_OUT_OF_RANGE",
                "threshold",
                f"{request.threshold}; a cosine threshold is in [-1, 1]",
            )
            return request.threshold
        thresholds = profile.thresholds(request.block)
        _require(
            bool(thresholds),
            "THRESHOLD_REQUIRED",
            "threshold",
            f"the profile {name!r} has no threshold for block {request.block}: give one",
        )
        return min(thresholds)

    def _try_prompt(self, prompt: pb.Prompt, field: str, needed: Sequence[int]) -> Prompt | FfnSearchError:
        try:
            return self.prompts.read(prompt, field, needed)
        except FfnSearchError as error:
            return error.with_traceback(None)

    def _response_bytes_max(self, request: pb.PredictRequest, profile: Profile, top_n: int, runnable: int) -> int:
        """Upper bound of a response's bytes, but for what a call adds beside its prompts; known before any work."""
        array_bytes = 8 * self.prompts.vocabulary_size
        step_bytes = _STEP_BYTES_MAX + request.include_frequencies * array_bytes
        distribution_bytes = top_n * _LISTED_BYTES_MAX + request.dense * array_bytes
        explained_bytes = request.include_contributions * top_n * (_EXPLAINED_BYTES_MAX + 8 * self.prompts.blocks)
        prompt_bytes = (
            _PROMPT_BYTES_MAX
            + self.prompts.blocks * _BLOCK_BYTES_MAX
            + sum(map(len, profile.blocks)) * step_bytes
            + (1 + request.include_model) * distribution_bytes
            + explained_bytes
            + request.include_queries * self.prompts.queries_bytes_max
        )
        return runnable * prompt_bytes + (len(request.prompts) - runnable) * _REFUSAL_BYTES_MAX

    def _require_room(self, prompts: int, bytes_max: int) -> None:
        """Refuse so many prompts, before any work, where their response may be larger than the limit."""
        if bytes_max > self.limits.response_bytes_max:
            raise LimitError(
                f"prompts: the response to {prompts} prompts may take {bytes_max} bytes; the limit is "
                f"{self.limits.response_bytes_max}: send fewer, lower top_n, or leave out dense, "
                "include_frequencies, include_contributions or include_queries",
                reason="RESPONSE_TOO_LARGE",
                field="prompts",
                given_bytes=bytes_max,
                limit_bytes=self.limits.response_bytes_max,
            )


def _require(holds: bool, reason: str, field: str, message: str) -> None:
    if not holds:
        raise RequestError(f"{field}: {message}", reason=reason, field=field)


def _require_size(field: str, value: int) -> None:
    _require(value >= 0, f"{field.upper()}_NEGATIVE", field, f"{value} is negative: leave it out, or choose 0 or more")

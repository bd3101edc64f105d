from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ProfileKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROFILE_KIND_UNSPECIFIED: _ClassVar[ProfileKind]
    PROFILE_KIND_SUM: _ClassVar[ProfileKind]
    PROFILE_KIND_PRODUCT: _ClassVar[ProfileKind]

class PromptStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROMPT_STATUS_UNSPECIFIED: _ClassVar[PromptStatus]
    PROMPT_STATUS_OK: _ClassVar[PromptStatus]
    PROMPT_STATUS_NO_SUPPORT: _ClassVar[PromptStatus]
    PROMPT_STATUS_INVALID: _ClassVar[PromptStatus]
PROFILE_KIND_UNSPECIFIED: ProfileKind
PROFILE_KIND_SUM: ProfileKind
PROFILE_KIND_PRODUCT: ProfileKind
PROMPT_STATUS_UNSPECIFIED: PromptStatus
PROMPT_STATUS_OK: PromptStatus
PROMPT_STATUS_NO_SUPPORT: PromptStatus
PROMPT_STATUS_INVALID: PromptStatus

class Prompt(_message.Message):
    __slots__ = ("text", "tokens", "queries")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    text: str
    tokens: TokenIds
    queries: Queries
    def __init__(self, text: _Optional[str] = ..., tokens: _Optional[_Union[TokenIds, _Mapping]] = ..., queries: _Optional[_Union[Queries, _Mapping]] = ...) -> None: ...

class Queries(_message.Message):
    __slots__ = ("blocks",)
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    blocks: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, blocks: _Optional[_Iterable[bytes]] = ...) -> None: ...

class TokenIds(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Profile(_message.Message):
    __slots__ = ("name", "blocks", "mass_power", "source", "kind", "prior_weight", "token_bias", "expectation")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    MASS_POWER_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PRIOR_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_BIAS_FIELD_NUMBER: _ClassVar[int]
    EXPECTATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    blocks: _containers.RepeatedCompositeFieldContainer[ProfileBlock]
    mass_power: float
    source: str
    kind: ProfileKind
    prior_weight: float
    token_bias: _containers.RepeatedScalarFieldContainer[float]
    expectation: ProfileExpectation
    def __init__(self, name: _Optional[str] = ..., blocks: _Optional[_Iterable[_Union[ProfileBlock, _Mapping]]] = ..., mass_power: _Optional[float] = ..., source: _Optional[str] = ..., kind: _Optional[_Union[ProfileKind, str]] = ..., prior_weight: _Optional[float] = ..., token_bias: _Optional[_Iterable[float]] = ..., expectation: _Optional[_Union[ProfileExpectation, _Mapping]] = ...) -> None: ...

class ProfileBlock(_message.Message):
    __slots__ = ("steps",)
    STEPS_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedCompositeFieldContainer[ProfileStep]
    def __init__(self, steps: _Optional[_Iterable[_Union[ProfileStep, _Mapping]]] = ...) -> None: ...

class ProfileStep(_message.Message):
    __slots__ = ("threshold", "weight", "prior_mass", "support_weight", "block_support_weights")
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    PRIOR_MASS_FIELD_NUMBER: _ClassVar[int]
    SUPPORT_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SUPPORT_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    threshold: float
    weight: float
    prior_mass: float
    support_weight: float
    block_support_weights: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, threshold: _Optional[float] = ..., weight: _Optional[float] = ..., prior_mass: _Optional[float] = ..., support_weight: _Optional[float] = ..., block_support_weights: _Optional[_Iterable[float]] = ...) -> None: ...

class ProfileExpectation(_message.Message):
    __slots__ = ("support", "distance")
    SUPPORT_FIELD_NUMBER: _ClassVar[int]
    DISTANCE_FIELD_NUMBER: _ClassVar[int]
    support: _containers.RepeatedScalarFieldContainer[float]
    distance: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, support: _Optional[_Iterable[float]] = ..., distance: _Optional[_Iterable[float]] = ...) -> None: ...

class PredictRequest(_message.Message):
    __slots__ = ("prompts", "profile_name", "profile", "exclude_self", "top_n", "min_prob", "dense", "include_model", "include_frequencies", "include_contributions", "snapshot", "include_queries")
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    PROFILE_NAME_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_SELF_FIELD_NUMBER: _ClassVar[int]
    TOP_N_FIELD_NUMBER: _ClassVar[int]
    MIN_PROB_FIELD_NUMBER: _ClassVar[int]
    DENSE_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_MODEL_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_FREQUENCIES_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_QUERIES_FIELD_NUMBER: _ClassVar[int]
    prompts: _containers.RepeatedCompositeFieldContainer[Prompt]
    profile_name: str
    profile: Profile
    exclude_self: bool
    top_n: int
    min_prob: float
    dense: bool
    include_model: bool
    include_frequencies: bool
    include_contributions: bool
    snapshot: str
    include_queries: bool
    def __init__(self, prompts: _Optional[_Iterable[_Union[Prompt, _Mapping]]] = ..., profile_name: _Optional[str] = ..., profile: _Optional[_Union[Profile, _Mapping]] = ..., exclude_self: _Optional[bool] = ..., top_n: _Optional[int] = ..., min_prob: _Optional[float] = ..., dense: _Optional[bool] = ..., include_model: _Optional[bool] = ..., include_frequencies: _Optional[bool] = ..., include_contributions: _Optional[bool] = ..., snapshot: _Optional[str] = ..., include_queries: _Optional[bool] = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("snapshot_id", "profile_name", "backend", "approximate", "timings", "results", "profile_kind", "batch_prompts", "recall")
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    PROFILE_NAME_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    APPROXIMATE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    PROFILE_KIND_FIELD_NUMBER: _ClassVar[int]
    BATCH_PROMPTS_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    snapshot_id: str
    profile_name: str
    backend: str
    approximate: bool
    timings: Timings
    results: _containers.RepeatedCompositeFieldContainer[PromptResult]
    profile_kind: ProfileKind
    batch_prompts: int
    recall: float
    def __init__(self, snapshot_id: _Optional[str] = ..., profile_name: _Optional[str] = ..., backend: _Optional[str] = ..., approximate: _Optional[bool] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., results: _Optional[_Iterable[_Union[PromptResult, _Mapping]]] = ..., profile_kind: _Optional[_Union[ProfileKind, str]] = ..., batch_prompts: _Optional[int] = ..., recall: _Optional[float] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("tokenize_ns", "queue_ns", "model_ns", "search_ns", "combine_ns", "total_ns")
    TOKENIZE_NS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_NS_FIELD_NUMBER: _ClassVar[int]
    MODEL_NS_FIELD_NUMBER: _ClassVar[int]
    SEARCH_NS_FIELD_NUMBER: _ClassVar[int]
    COMBINE_NS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_NS_FIELD_NUMBER: _ClassVar[int]
    tokenize_ns: int
    queue_ns: int
    model_ns: int
    search_ns: int
    combine_ns: int
    total_ns: int
    def __init__(self, tokenize_ns: _Optional[int] = ..., queue_ns: _Optional[int] = ..., model_ns: _Optional[int] = ..., search_ns: _Optional[int] = ..., combine_ns: _Optional[int] = ..., total_ns: _Optional[int] = ...) -> None: ...

class PromptResult(_message.Message):
    __slots__ = ("status", "error", "distribution", "model_distribution", "hellinger", "used_tokens", "short_prompt", "self_id", "blocks", "expected_hellinger", "support", "queries")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    DISTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    MODEL_DISTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    HELLINGER_FIELD_NUMBER: _ClassVar[int]
    USED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SHORT_PROMPT_FIELD_NUMBER: _ClassVar[int]
    SELF_ID_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_HELLINGER_FIELD_NUMBER: _ClassVar[int]
    SUPPORT_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    status: PromptStatus
    error: PromptError
    distribution: Distribution
    model_distribution: Distribution
    hellinger: float
    used_tokens: int
    short_prompt: bool
    self_id: int
    blocks: _containers.RepeatedCompositeFieldContainer[BlockResult]
    expected_hellinger: float
    support: float
    queries: Queries
    def __init__(self, status: _Optional[_Union[PromptStatus, str]] = ..., error: _Optional[_Union[PromptError, _Mapping]] = ..., distribution: _Optional[_Union[Distribution, _Mapping]] = ..., model_distribution: _Optional[_Union[Distribution, _Mapping]] = ..., hellinger: _Optional[float] = ..., used_tokens: _Optional[int] = ..., short_prompt: _Optional[bool] = ..., self_id: _Optional[int] = ..., blocks: _Optional[_Iterable[_Union[BlockResult, _Mapping]]] = ..., expected_hellinger: _Optional[float] = ..., support: _Optional[float] = ..., queries: _Optional[_Union[Queries, _Mapping]] = ...) -> None: ...

class PromptError(_message.Message):
    __slots__ = ("code", "reason", "message", "field", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    message: str
    field: str
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., field: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Distribution(_message.Message):
    __slots__ = ("tokens", "dense")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    DENSE_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[TokenProbability]
    dense: bytes
    def __init__(self, tokens: _Optional[_Iterable[_Union[TokenProbability, _Mapping]]] = ..., dense: _Optional[bytes] = ...) -> None: ...

class TokenProbability(_message.Message):
    __slots__ = ("id", "text", "probability", "block_contributions", "prior_contribution")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    BLOCK_CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    PRIOR_CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    id: int
    text: str
    probability: float
    block_contributions: _containers.RepeatedScalarFieldContainer[float]
    prior_contribution: float
    def __init__(self, id: _Optional[int] = ..., text: _Optional[str] = ..., probability: _Optional[float] = ..., block_contributions: _Optional[_Iterable[float]] = ..., prior_contribution: _Optional[float] = ...) -> None: ...

class BlockResult(_message.Message):
    __slots__ = ("steps",)
    STEPS_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedCompositeFieldContainer[StepResult]
    def __init__(self, steps: _Optional[_Iterable[_Union[StepResult, _Mapping]]] = ...) -> None: ...

class StepResult(_message.Message):
    __slots__ = ("threshold", "weight", "neighbors", "mass", "frequencies")
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    NEIGHBORS_FIELD_NUMBER: _ClassVar[int]
    MASS_FIELD_NUMBER: _ClassVar[int]
    FREQUENCIES_FIELD_NUMBER: _ClassVar[int]
    threshold: float
    weight: float
    neighbors: int
    mass: int
    frequencies: bytes
    def __init__(self, threshold: _Optional[float] = ..., weight: _Optional[float] = ..., neighbors: _Optional[int] = ..., mass: _Optional[int] = ..., frequencies: _Optional[bytes] = ...) -> None: ...

class ListNeighborsRequest(_message.Message):
    __slots__ = ("prompt", "block", "threshold", "profile_name", "exclude_self", "page_size", "page_token", "context_tokens", "places_max", "snapshot")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    PROFILE_NAME_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_SELF_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PLACES_MAX_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    prompt: Prompt
    block: int
    threshold: float
    profile_name: str
    exclude_self: bool
    page_size: int
    page_token: str
    context_tokens: int
    places_max: int
    snapshot: str
    def __init__(self, prompt: _Optional[_Union[Prompt, _Mapping]] = ..., block: _Optional[int] = ..., threshold: _Optional[float] = ..., profile_name: _Optional[str] = ..., exclude_self: _Optional[bool] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., context_tokens: _Optional[int] = ..., places_max: _Optional[int] = ..., snapshot: _Optional[str] = ...) -> None: ...

class ListNeighborsResponse(_message.Message):
    __slots__ = ("neighbors", "next_page_token", "total_neighbors", "threshold", "snapshot_id")
    NEIGHBORS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOTAL_NEIGHBORS_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    neighbors: _containers.RepeatedCompositeFieldContainer[Neighbor]
    next_page_token: str
    total_neighbors: int
    threshold: float
    snapshot_id: str
    def __init__(self, neighbors: _Optional[_Iterable[_Union[Neighbor, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., total_neighbors: _Optional[int] = ..., threshold: _Optional[float] = ..., snapshot_id: _Optional[str] = ...) -> None: ...

class Neighbor(_message.Message):
    __slots__ = ("id", "text", "tokens", "score", "next_tokens", "places", "total_places")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    NEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PLACES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_PLACES_FIELD_NUMBER: _ClassVar[int]
    id: int
    text: str
    tokens: _containers.RepeatedScalarFieldContainer[int]
    score: float
    next_tokens: _containers.RepeatedCompositeFieldContainer[TokenCount]
    places: _containers.RepeatedCompositeFieldContainer[Place]
    total_places: int
    def __init__(self, id: _Optional[int] = ..., text: _Optional[str] = ..., tokens: _Optional[_Iterable[int]] = ..., score: _Optional[float] = ..., next_tokens: _Optional[_Iterable[_Union[TokenCount, _Mapping]]] = ..., places: _Optional[_Iterable[_Union[Place, _Mapping]]] = ..., total_places: _Optional[int] = ...) -> None: ...

class TokenCount(_message.Message):
    __slots__ = ("id", "text", "count")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    id: int
    text: str
    count: int
    def __init__(self, id: _Optional[int] = ..., text: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class Place(_message.Message):
    __slots__ = ("position", "before", "after")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    position: int
    before: str
    after: str
    def __init__(self, position: _Optional[int] = ..., before: _Optional[str] = ..., after: _Optional[str] = ...) -> None: ...

class ListClassesRequest(_message.Message):
    __slots__ = ("prompt", "block", "threshold", "profile_name", "exclude_self", "classes_max", "min_share", "snapshot")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    PROFILE_NAME_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_SELF_FIELD_NUMBER: _ClassVar[int]
    CLASSES_MAX_FIELD_NUMBER: _ClassVar[int]
    MIN_SHARE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    prompt: Prompt
    block: int
    threshold: float
    profile_name: str
    exclude_self: bool
    classes_max: int
    min_share: float
    snapshot: str
    def __init__(self, prompt: _Optional[_Union[Prompt, _Mapping]] = ..., block: _Optional[int] = ..., threshold: _Optional[float] = ..., profile_name: _Optional[str] = ..., exclude_self: _Optional[bool] = ..., classes_max: _Optional[int] = ..., min_share: _Optional[float] = ..., snapshot: _Optional[str] = ...) -> None: ...

class ListClassesResponse(_message.Message):
    __slots__ = ("classes", "total_neighbors", "covered_neighbors", "threshold", "min_share", "snapshot_id")
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_NEIGHBORS_FIELD_NUMBER: _ClassVar[int]
    COVERED_NEIGHBORS_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MIN_SHARE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    classes: _containers.RepeatedCompositeFieldContainer[SuffixClass]
    total_neighbors: int
    covered_neighbors: int
    threshold: float
    min_share: float
    snapshot_id: str
    def __init__(self, classes: _Optional[_Iterable[_Union[SuffixClass, _Mapping]]] = ..., total_neighbors: _Optional[int] = ..., covered_neighbors: _Optional[int] = ..., threshold: _Optional[float] = ..., min_share: _Optional[float] = ..., snapshot_id: _Optional[str] = ...) -> None: ...

class SuffixClass(_message.Message):
    __slots__ = ("text", "tokens", "neighbors", "members", "best_score", "mass", "next_tokens")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    NEIGHBORS_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    BEST_SCORE_FIELD_NUMBER: _ClassVar[int]
    MASS_FIELD_NUMBER: _ClassVar[int]
    NEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    text: str
    tokens: _containers.RepeatedScalarFieldContainer[int]
    neighbors: int
    members: int
    best_score: float
    mass: int
    next_tokens: _containers.RepeatedCompositeFieldContainer[TokenCount]
    def __init__(self, text: _Optional[str] = ..., tokens: _Optional[_Iterable[int]] = ..., neighbors: _Optional[int] = ..., members: _Optional[int] = ..., best_score: _Optional[float] = ..., mass: _Optional[int] = ..., next_tokens: _Optional[_Iterable[_Union[TokenCount, _Mapping]]] = ...) -> None: ...

class GetInfoRequest(_message.Message):
    __slots__ = ("snapshot",)
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    snapshot: str
    def __init__(self, snapshot: _Optional[str] = ...) -> None: ...

class GetInfoResponse(_message.Message):
    __slots__ = ("snapshot", "model", "vocabulary", "profiles", "default_profile_name", "backend", "approximate", "limits", "server_version", "fidelity", "self_sums_profile_names", "recall")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    PROFILES_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_PROFILE_NAME_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    APPROXIMATE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    FIDELITY_FIELD_NUMBER: _ClassVar[int]
    SELF_SUMS_PROFILE_NAMES_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    snapshot: SnapshotInfo
    model: ModelInfo
    vocabulary: _containers.RepeatedScalarFieldContainer[str]
    profiles: _containers.RepeatedCompositeFieldContainer[Profile]
    default_profile_name: str
    backend: str
    approximate: bool
    limits: Limits
    server_version: str
    fidelity: _containers.RepeatedCompositeFieldContainer[FidelitySummary]
    self_sums_profile_names: _containers.RepeatedScalarFieldContainer[str]
    recall: float
    def __init__(self, snapshot: _Optional[_Union[SnapshotInfo, _Mapping]] = ..., model: _Optional[_Union[ModelInfo, _Mapping]] = ..., vocabulary: _Optional[_Iterable[str]] = ..., profiles: _Optional[_Iterable[_Union[Profile, _Mapping]]] = ..., default_profile_name: _Optional[str] = ..., backend: _Optional[str] = ..., approximate: _Optional[bool] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., server_version: _Optional[str] = ..., fidelity: _Optional[_Iterable[_Union[FidelitySummary, _Mapping]]] = ..., self_sums_profile_names: _Optional[_Iterable[str]] = ..., recall: _Optional[float] = ...) -> None: ...

class FidelitySummary(_message.Message):
    __slots__ = ("protocol", "prompts", "profile_name", "hellinger_mean", "hellinger_ci95_low", "hellinger_ci95_high", "hellinger_max", "top1_agreement", "no_support_share", "noise_floor_hellinger_mean")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    PROFILE_NAME_FIELD_NUMBER: _ClassVar[int]
    HELLINGER_MEAN_FIELD_NUMBER: _ClassVar[int]
    HELLINGER_CI95_LOW_FIELD_NUMBER: _ClassVar[int]
    HELLINGER_CI95_HIGH_FIELD_NUMBER: _ClassVar[int]
    HELLINGER_MAX_FIELD_NUMBER: _ClassVar[int]
    TOP1_AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    NO_SUPPORT_SHARE_FIELD_NUMBER: _ClassVar[int]
    NOISE_FLOOR_HELLINGER_MEAN_FIELD_NUMBER: _ClassVar[int]
    protocol: str
    prompts: int
    profile_name: str
    hellinger_mean: float
    hellinger_ci95_low: float
    hellinger_ci95_high: float
    hellinger_max: float
    top1_agreement: float
    no_support_share: float
    noise_floor_hellinger_mean: float
    def __init__(self, protocol: _Optional[str] = ..., prompts: _Optional[int] = ..., profile_name: _Optional[str] = ..., hellinger_mean: _Optional[float] = ..., hellinger_ci95_low: _Optional[float] = ..., hellinger_ci95_high: _Optional[float] = ..., hellinger_max: _Optional[float] = ..., top1_agreement: _Optional[float] = ..., no_support_share: _Optional[float] = ..., noise_floor_hellinger_mean: _Optional[float] = ...) -> None: ...

class SnapshotInfo(_message.Message):
    __slots__ = ("id", "format_version", "corpus_name", "corpus_sha256", "corpus_characters", "split", "substrings", "window_tokens", "key_dtype", "forward_pass")
    ID_FIELD_NUMBER: _ClassVar[int]
    FORMAT_VERSION_FIELD_NUMBER: _ClassVar[int]
    CORPUS_NAME_FIELD_NUMBER: _ClassVar[int]
    CORPUS_SHA256_FIELD_NUMBER: _ClassVar[int]
    CORPUS_CHARACTERS_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    SUBSTRINGS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KEY_DTYPE_FIELD_NUMBER: _ClassVar[int]
    FORWARD_PASS_FIELD_NUMBER: _ClassVar[int]
    id: str
    format_version: int
    corpus_name: str
    corpus_sha256: str
    corpus_characters: int
    split: str
    substrings: int
    window_tokens: int
    key_dtype: str
    forward_pass: str
    def __init__(self, id: _Optional[str] = ..., format_version: _Optional[int] = ..., corpus_name: _Optional[str] = ..., corpus_sha256: _Optional[str] = ..., corpus_characters: _Optional[int] = ..., split: _Optional[str] = ..., substrings: _Optional[int] = ..., window_tokens: _Optional[int] = ..., key_dtype: _Optional[str] = ..., forward_pass: _Optional[str] = ...) -> None: ...

class ModelInfo(_message.Message):
    __slots__ = ("model_sha256", "tokenizer_sha256", "blocks", "d_model", "vocabulary_size", "context_tokens")
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_SHA256_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    D_MODEL_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    model_sha256: str
    tokenizer_sha256: str
    blocks: int
    d_model: int
    vocabulary_size: int
    context_tokens: int
    def __init__(self, model_sha256: _Optional[str] = ..., tokenizer_sha256: _Optional[str] = ..., blocks: _Optional[int] = ..., d_model: _Optional[int] = ..., vocabulary_size: _Optional[int] = ..., context_tokens: _Optional[int] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("prompts_max", "prompt_tokens_max", "request_bytes_max", "response_bytes_max", "page_size_default", "page_size_max", "context_tokens_max", "places_max", "calls_max", "classes_default", "classes_max", "top_n_default", "context_tokens_default", "places_default", "queue_prompts_max", "streams_max")
    PROMPTS_MAX_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_MAX_FIELD_NUMBER: _ClassVar[int]
    REQUEST_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_MAX_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_MAX_FIELD_NUMBER: _ClassVar[int]
    PLACES_MAX_FIELD_NUMBER: _ClassVar[int]
    CALLS_MAX_FIELD_NUMBER: _ClassVar[int]
    CLASSES_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    CLASSES_MAX_FIELD_NUMBER: _ClassVar[int]
    TOP_N_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    PLACES_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    QUEUE_PROMPTS_MAX_FIELD_NUMBER: _ClassVar[int]
    STREAMS_MAX_FIELD_NUMBER: _ClassVar[int]
    prompts_max: int
    prompt_tokens_max: int
    request_bytes_max: int
    response_bytes_max: int
    page_size_default: int
    page_size_max: int
    context_tokens_max: int
    places_max: int
    calls_max: int
    classes_default: int
    classes_max: int
    top_n_default: int
    context_tokens_default: int
    places_default: int
    queue_prompts_max: int
    streams_max: int
    def __init__(self, prompts_max: _Optional[int] = ..., prompt_tokens_max: _Optional[int] = ..., request_bytes_max: _Optional[int] = ..., response_bytes_max: _Optional[int] = ..., page_size_default: _Optional[int] = ..., page_size_max: _Optional[int] = ..., context_tokens_max: _Optional[int] = ..., places_max: _Optional[int] = ..., calls_max: _Optional[int] = ..., classes_default: _Optional[int] = ..., classes_max: _Optional[int] = ..., top_n_default: _Optional[int] = ..., context_tokens_default: _Optional[int] = ..., places_default: _Optional[int] = ..., queue_prompts_max: _Optional[int] = ..., streams_max: _Optional[int] = ...) -> None: ...

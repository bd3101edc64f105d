import datetime

from ffnsearch.v1 import ffnsearch_pb2 as _ffnsearch_pb2
from google.longrunning import operations_pb2 as _operations_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SnapshotState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SNAPSHOT_STATE_UNSPECIFIED: _ClassVar[SnapshotState]
    SNAPSHOT_STATE_LOADING: _ClassVar[SnapshotState]
    SNAPSHOT_STATE_OPEN: _ClassVar[SnapshotState]
    SNAPSHOT_STATE_FAILED: _ClassVar[SnapshotState]
SNAPSHOT_STATE_UNSPECIFIED: SnapshotState
SNAPSHOT_STATE_LOADING: SnapshotState
SNAPSHOT_STATE_OPEN: SnapshotState
SNAPSHOT_STATE_FAILED: SnapshotState

class Snapshot(_message.Message):
    __slots__ = ("name", "state", "folder", "etag", "aliases", "error", "info", "model_sha256", "size_bytes", "leases", "default_profile_name", "fidelity")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_PROFILE_NAME_FIELD_NUMBER: _ClassVar[int]
    FIDELITY_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: SnapshotState
    folder: str
    etag: str
    aliases: _containers.RepeatedScalarFieldContainer[str]
    error: str
    info: _ffnsearch_pb2.SnapshotInfo
    model_sha256: str
    size_bytes: int
    leases: int
    default_profile_name: str
    fidelity: _containers.RepeatedCompositeFieldContainer[_ffnsearch_pb2.FidelitySummary]
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[SnapshotState, str]] = ..., folder: _Optional[str] = ..., etag: _Optional[str] = ..., aliases: _Optional[_Iterable[str]] = ..., error: _Optional[str] = ..., info: _Optional[_Union[_ffnsearch_pb2.SnapshotInfo, _Mapping]] = ..., model_sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ..., leases: _Optional[int] = ..., default_profile_name: _Optional[str] = ..., fidelity: _Optional[_Iterable[_Union[_ffnsearch_pb2.FidelitySummary, _Mapping]]] = ...) -> None: ...

class Alias(_message.Message):
    __slots__ = ("name", "snapshot_name", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_NAME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    snapshot_name: str
    etag: str
    def __init__(self, name: _Optional[str] = ..., snapshot_name: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...

class FidelityGate(_message.Message):
    __slots__ = ("protocol", "hellinger_mean_max")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    HELLINGER_MEAN_MAX_FIELD_NUMBER: _ClassVar[int]
    protocol: str
    hellinger_mean_max: float
    def __init__(self, protocol: _Optional[str] = ..., hellinger_mean_max: _Optional[float] = ...) -> None: ...

class ListSnapshotsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListSnapshotsResponse(_message.Message):
    __slots__ = ("snapshots", "next_page_token")
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    snapshots: _containers.RepeatedCompositeFieldContainer[Snapshot]
    next_page_token: str
    def __init__(self, snapshots: _Optional[_Iterable[_Union[Snapshot, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetSnapshotRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetSnapshotResponse(_message.Message):
    __slots__ = ("snapshot",)
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    snapshot: Snapshot
    def __init__(self, snapshot: _Optional[_Union[Snapshot, _Mapping]] = ...) -> None: ...

class LoadSnapshotRequest(_message.Message):
    __slots__ = ("name", "folder")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    name: str
    folder: str
    def __init__(self, name: _Optional[str] = ..., folder: _Optional[str] = ...) -> None: ...

class LoadSnapshotResponse(_message.Message):
    __slots__ = ("snapshot",)
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    snapshot: Snapshot
    def __init__(self, snapshot: _Optional[_Union[Snapshot, _Mapping]] = ...) -> None: ...

class UnloadSnapshotRequest(_message.Message):
    __slots__ = ("name", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    etag: str
    def __init__(self, name: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...

class UnloadSnapshotResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListAliasesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListAliasesResponse(_message.Message):
    __slots__ = ("aliases", "next_page_token")
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    aliases: _containers.RepeatedCompositeFieldContainer[Alias]
    next_page_token: str
    def __init__(self, aliases: _Optional[_Iterable[_Union[Alias, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetAliasRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetAliasResponse(_message.Message):
    __slots__ = ("alias",)
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    alias: Alias
    def __init__(self, alias: _Optional[_Union[Alias, _Mapping]] = ...) -> None: ...

class MoveAliasRequest(_message.Message):
    __slots__ = ("name", "snapshot_name", "etag", "allow_missing", "fidelity_gate")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_NAME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    ALLOW_MISSING_FIELD_NUMBER: _ClassVar[int]
    FIDELITY_GATE_FIELD_NUMBER: _ClassVar[int]
    name: str
    snapshot_name: str
    etag: str
    allow_missing: bool
    fidelity_gate: FidelityGate
    def __init__(self, name: _Optional[str] = ..., snapshot_name: _Optional[str] = ..., etag: _Optional[str] = ..., allow_missing: _Optional[bool] = ..., fidelity_gate: _Optional[_Union[FidelityGate, _Mapping]] = ...) -> None: ...

class MoveAliasResponse(_message.Message):
    __slots__ = ("alias",)
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    alias: Alias
    def __init__(self, alias: _Optional[_Union[Alias, _Mapping]] = ...) -> None: ...

class DeleteAliasRequest(_message.Message):
    __slots__ = ("name", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    etag: str
    def __init__(self, name: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...

class DeleteAliasResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BuildSnapshotRequest(_message.Message):
    __slots__ = ("name", "corpus", "model", "window_tokens", "split", "calibration_prompts", "load", "alias", "evaluation_prompts", "fidelity_gate")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CORPUS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WINDOW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_PROMPTS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_PROMPTS_FIELD_NUMBER: _ClassVar[int]
    FIDELITY_GATE_FIELD_NUMBER: _ClassVar[int]
    name: str
    corpus: str
    model: str
    window_tokens: int
    split: str
    calibration_prompts: int
    load: bool
    alias: str
    evaluation_prompts: int
    fidelity_gate: FidelityGate
    def __init__(self, name: _Optional[str] = ..., corpus: _Optional[str] = ..., model: _Optional[str] = ..., window_tokens: _Optional[int] = ..., split: _Optional[str] = ..., calibration_prompts: _Optional[int] = ..., load: _Optional[bool] = ..., alias: _Optional[str] = ..., evaluation_prompts: _Optional[int] = ..., fidelity_gate: _Optional[_Union[FidelityGate, _Mapping]] = ...) -> None: ...

class BuildSnapshotMetadata(_message.Message):
    __slots__ = ("request", "create_time", "start_time", "end_time", "attempts", "stage", "fraction", "units_done", "units_total", "units_per_second", "seconds_left")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    UNITS_DONE_FIELD_NUMBER: _ClassVar[int]
    UNITS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    UNITS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    SECONDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    request: BuildSnapshotRequest
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    attempts: int
    stage: str
    fraction: float
    units_done: int
    units_total: int
    units_per_second: float
    seconds_left: float
    def __init__(self, request: _Optional[_Union[BuildSnapshotRequest, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., attempts: _Optional[int] = ..., stage: _Optional[str] = ..., fraction: _Optional[float] = ..., units_done: _Optional[int] = ..., units_total: _Optional[int] = ..., units_per_second: _Optional[float] = ..., seconds_left: _Optional[float] = ...) -> None: ...

class BuildSnapshotResponse(_message.Message):
    __slots__ = ("name", "snapshot_id", "substrings", "loaded", "alias")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBSTRINGS_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    name: str
    snapshot_id: str
    substrings: int
    loaded: bool
    alias: str
    def __init__(self, name: _Optional[str] = ..., snapshot_id: _Optional[str] = ..., substrings: _Optional[int] = ..., loaded: _Optional[bool] = ..., alias: _Optional[str] = ...) -> None: ...

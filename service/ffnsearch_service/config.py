"""Every limit and setting of the service, with its unit, its default and the reason for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

MIB = 1 << 20

Backend = Literal["auto", "fused", "tiles", "exact", "faiss", "faiss-ivf"]
"""`auto`, or a name of `answer.backends.BACKENDS`; that module imports torch, which settings do not need."""

TOKEN_VARIABLE = "FFNSEARCH_TOKEN"
"""The variable of the environment that may hold a client's token: a command line is no place for one."""

CALL_TIMEOUT_S = 30
"""How long a call may take where a client does not say: gRPC's own default is for ever."""

WINDOW_TOKENS_DEFAULT = 10
CALIBRATION_PROMPTS_DEFAULT = 2000
"""How long the substrings of a build are, in tokens, and what it is calibrated with, where a caller does not say."""

LOAD_TIMEOUT_S = 600
"""How long the load of a snapshot may take where a client does not say: it reads every byte, seconds for each GB."""

DEFAULT_ALIAS = "default"
"""The alias that a request without a snapshot means."""

MIN_SHARE_DEFAULT = 0.5
"""Least share of a class that is above the threshold where a request does not say: most of it is."""


@dataclass(frozen=True)
class Limits:
    """What a request may ask for. Immutable, safe to share between threads."""

    prompts_max: int = 1024  # amortises the pass over the keys; more gain nothing
    prompt_tokens_max: int = 4096  # only the last window matters: room for a page of context, not for a book
    request_bytes_max: int = (
        4 * MIB
    )  # gRPC's own default: `prompts_max` prompts of 1,000 characters, four times; 450 queries of 6 x 384
    response_bytes_max: int = 64 * MIB  # dense distributions and frequencies of a full call fit
    top_n_default: int = 10  # tokens of an answer where a request does not say
    page_size_default: int = 20  # neighbors; a screen of them
    page_size_max: int = 1000  # neighbors; more are cut by bytes anyway
    page_bytes_max: int = 2 * MIB  # a page ends early rather than grow beyond what is read at once
    context_tokens_default: int = 30  # about half a line on either side
    context_tokens_max: int = 200  # on either side: a paragraph
    places_default: int = 3  # places of a neighbor in the corpus; enough to see what it is
    places_max: int = 100  # a short neighbor is in thousands of places
    classes_default: int = 10  # what is read at a glance
    classes_max: int = 100  # lines of an explanation; beyond, it explains less than it lists
    calls_max: int = 512  # two batches of one prompt a call, one that runs and one that waits
    queue_prompts_max: int = 4096  # four of the largest calls wait; more would wait past any patience
    batch_prompts_max: int = 256  # throughput hardly grows beyond, and a small call waits for it to end
    batch_tokens_max: int = 64 * 1024  # of the windows: bounds how long the model holds a batch of long ones
    piece_prompts_max: int = 64  # what each call gets before any gets more: a quarter of a batch
    sums_bytes_max: int = 256 * MIB  # int64 sums held at a time: a batch has fewer prompts where they are large
    ranked_lists_max: int = 8  # searches whose pages can be read on without searching again
    ranked_bytes_max: int = 256 * MIB  # 16 bytes a neighbor
    unread_bytes_max: int = 512 * MIB  # of responses that callers leave unread; a connection has room for two full ones
    streams_max: int = 1024  # calls at a time on one connection: above calls_max, so that a refusal says why
    metadata_bytes_max: int = 8192  # of one call; a token and a trace take some hundred
    handshake_ms_max: int = 10_000  # a connection that says nothing is let go
    ping_interval_ms_min: int = 10_000  # between a client's pings while no data flows; gRPC's own is 5 minutes
    ping_strikes_max: int = 2  # pings too early before the connection is closed
    keepalive_ms: int = 60_000  # without data for so long, the server asks whether the client is still there
    ping_timeout_ms: int = 20_000  # a client that has not answered is gone
    connection_idle_ms_max: int = 1_800_000  # a connection without calls is closed; clients open another by themselves
    connection_age_ms_max: int = 3_600_000  # so that a replaced certificate or client CA reaches everybody
    connection_age_grace_ms_max: int = 300_000  # longest that a call may go on after that: streams begin again
    tokens_check_ms_max: int = 250  # between two looks at the tokens file: so long a revoked token may be accepted
    snapshots_max: int = 16  # open at a time; each holds some tens of files
    snapshots_bytes_max: int = 1 << 40  # sizes on disk, together: they are mapped, so memory is another matter
    failed_loads_max: int = 16  # loads that failed and are listed; beyond it those that failed first are forgotten
    aliases_max: int = 256  # names for people; a thousand would be somebody's mistake
    builds_queued_max: int = 16  # builds that wait for their turn
    waits_max: int = 256  # callers that wait for a build's end; others can ask now and then
    operations_max: int = 1000  # builds that are remembered; beyond it those that ended first are forgotten

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            assert value >= 1, f"{name} is {value}: a limit is at least 1"


@dataclass(frozen=True)
class TlsSettings:
    """Encryption, and mutual TLS where a client authority is given. Immutable."""

    certificate_file: Path | None = None  # PEM, the server's own certificate first; with it calls are encrypted
    key_file: Path | None = None  # PEM, the private key of that certificate
    client_ca_file: Path | None = None  # PEM; with it a client must show a certificate that this authority signed


@dataclass(frozen=True)
class AuthSettings:
    """Who may call. Immutable."""

    tokens_file: Path | None = None  # hashes of tokens with their scopes; then every call but Health/Check needs one


@dataclass(frozen=True)
class MetricsSettings:
    """Where measurements, liveness and readiness can be read over HTTP. Immutable."""

    host: str = "127.0.0.1"  # they reveal what is served, and how much: by default to this machine alone
    port: int | None = None  # absent: off; 0 takes a free one


@dataclass(frozen=True)
class LoggingSettings:
    """How the log looks. Immutable."""

    format: Literal["text", "json"] = "text"  # for a person, or an object a line for a collector
    level: Literal["debug", "info", "warning", "error"] = "info"  # info has a line a call; debug has stack traces


@dataclass(frozen=True)
class TracingSettings:
    """Where spans go. Immutable."""

    endpoint: str | None = None  # an OpenTelemetry collector that takes OTLP over gRPC; absent: off


@dataclass(frozen=True)
class AdminSettings:
    """Whether there are administrative calls, and what they may reach. Immutable."""

    enabled: bool = False  # loading, unloading, aliases and builds over the wire
    snapshots_folder: Path | None = None  # only what lies in it can be loaded; builds are written there
    corpora_folder: Path | None = None  # only texts in it can be built from
    models_folder: Path | None = None  # only models in it can be built with
    builds_max: int = 1  # at a time: a build takes every core that it is given


@dataclass(frozen=True)
class ServerConfig:
    """How a server runs. Immutable; `settings.loading` makes it of a file, the environment and flags.

    The fields with plain values are the section `server`; every other section has a field of its own.
    """

    snapshots: Mapping[str, Path] = field(default_factory=dict)  # by name; all are open from the start
    host: str = "127.0.0.1"  # another one can be reached by others: that needs TLS and tokens
    port: int = 50051  # 0 takes a free one
    backend: Backend = "auto"  # what searches: auto (the fastest there is), fused, tiles, exact, faiss or faiss-ivf
    device: Literal["auto", "cpu", "cuda"] = "auto"  # where; auto goes on with the CPU when a GPU fails, cuda does not
    threads: int | None = None  # for the model and the search; absent: one a core
    verify: Literal["all", "sizes"] = "all"  # read every byte of a snapshot when it is opened, or compare sizes alone
    insecure_public: bool = False  # allow other machines to reach host and metrics.host without TLS and tokens
    grace_s: float = 10.0  # how long running calls may go on after SIGTERM; orchestrators allow 30 s
    reflection: bool = True  # tell clients which services there are, which is no secret
    state_folder: Path | None = None  # where what was changed over the wire is kept for the next start
    aliases: Mapping[str, str] = field(default_factory=dict)  # by alias, the name of a snapshot
    tls: TlsSettings = field(default_factory=TlsSettings)
    auth: AuthSettings = field(default_factory=AuthSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    tracing: TracingSettings = field(default_factory=TracingSettings)
    admin: AdminSettings = field(default_factory=AdminSettings)
    limits: Limits = field(default_factory=Limits)

"""Every limit and setting of the service, with its unit, its default and the reason for it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

MIB = 1 << 20

MIN_SHARE_DEFAULT = 0.5
"""Least share of a class that is above the threshold where a request does not say: more of it is than is not."""


@dataclass(frozen=True)
class Limits:
    """What a request may ask for. Immutable, safe to share between threads."""

    prompts_max: int = 1024  # amortises the pass over the keys; more gain nothing
    prompt_tokens_max: int = 4096  # only the last window matters: room for a page of context, not for a book
    request_bytes_max: int = 4 * MIB  # gRPC's own default: `prompts_max` prompts of 1,000 characters, four times
    response_bytes_max: int = 64 * MIB  # dense distributions and frequencies of a full call fit
    top_n_default: int = 10
    page_size_default: int = 20
    page_size_max: int = 1000
    page_bytes_max: int = 2 * MIB  # a page ends early rather than grow beyond what reads at once
    context_tokens_default: int = 30  # about half a line on either side
    context_tokens_max: int = 200
    places_default: int = 3
    places_max: int = 100
    classes_default: int = 10
    classes_max: int = 100  # lines of an explanation; beyond, it explains less than it lists
    calls_max: int = 512  # two batches of one prompt a call, one that runs and one that waits; then come back
    queue_prompts_max: int = 4096  # four of the largest calls wait; more would wait past any patience
    batch_prompts_max: int = 256  # throughput hardly grows beyond, and a small call waits for it to end
    batch_tokens_max: int = 64 * 1024  # of the windows: bounds how long the model holds a batch of long ones
    piece_prompts_max: int = (
        64  # what each call gets before any gets more: a quarter of a batch, and four forward passes
    )
    sums_bytes_max: int = 256 * MIB  # int64 sums held at a time: a batch has fewer prompts where they are large
    ranked_lists_max: int = 8  # searches whose pages can be read on without searching again
    ranked_bytes_max: int = 256 * MIB  # 16 bytes a neighbor
    streams_max: int = 1024  # calls at a time on one connection: more than find a place, so these are refused in words
    metadata_bytes_max: int = 8192  # of one call; a token and a trace take some hundred
    handshake_ms_max: int = 10_000  # a connection that says nothing is let go
    ping_interval_ms_min: int = 10_000  # between a client's pings while no data flows; gRPC's own is 5 minutes
    ping_strikes_max: int = 2  # pings too early before the connection is closed
    keepalive_ms: int = 60_000  # without data for so long, the server asks whether the client is still there
    ping_timeout_ms: int = 20_000  # a client that has not answered is gone
    connection_idle_ms_max: int = 1_800_000  # a connection without calls is closed; clients open another by themselves
    connection_age_ms_max: int = 3_600_000  # so that a replaced certificate or client CA reaches everybody
    connection_age_grace_ms_max: int = 300_000  # longest that a call may go on after that: streams begin again
    tokens_check_ms_max: int = 250  # oldest look at the tokens file: how long a revoked token may still be taken
    snapshots_max: int = 16  # open at a time; each holds some tens of files
    snapshots_bytes_max: int = 1 << 40  # sizes on disk, together: they are mapped, so memory is another matter
    aliases_max: int = 256
    builds_queued_max: int = 16  # builds that wait for their turn
    operations_max: int = 1000  # builds that are remembered; beyond it those that ended first are forgotten

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            assert value >= 1, f"{name} is {value}: a limit is at least 1"
        assert self.queue_prompts_max >= self.prompts_max, "the largest call must fit into an empty queue"


@dataclass(frozen=True)
class ServerConfig:
    """How a server runs. Immutable."""

    snapshot: Path
    host: str = "127.0.0.1"
    port: int = 50051  # 0 takes a free one
    backend: str = "tiles"
    check: Literal["all", "sizes"] = "all"  # read every byte of the snapshot at the start, or compare "sizes" alone
    insecure_public: bool = False  # listen beyond this machine, though anyone may then call
    grace_s: float = 10.0  # how long running calls may go on after SIGTERM; orchestrators allow 30 s
    limits: Limits = field(default_factory=Limits)

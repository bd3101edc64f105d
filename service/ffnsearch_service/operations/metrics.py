"""What is measured? (events and calls -> Prometheus metrics, in a registry of our own)."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ffnsearch_service.operations.histograms import Histogram
from ffnsearch_service.operations.record import TIMED_STAGES, CallRecord
from ffnsearch_service.operations.seen import CatalogSeen

STAGES = (*TIMED_STAGES, "write")

# From what a call costs without any work, about 1 ms, to the client's own deadline of 30 s; 2 to 2.5 times a step.
CALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
# Tokenizing and combining take some 10 us a prompt: two steps more at the fine end.
STAGE_SECONDS = (0.0001, 0.0003, *CALL_SECONDS)
# Batches double until another prompt gains nothing, at `prompts_max`.
BATCH_PROMPTS = tuple(2.0**power for power in range(11))
BATCH_CALLS = tuple(2.0**power for power in range(9))  # a call has a prompt at least: to `batch_prompts_max`
# Neighbors differ by powers of ten; 0 is no support in this block, and 10^8 more than any corpus has.
NEIGHBORS = (0, *(10**power for power in range(9)))


class Metrics:
    """Counts what a server does; labels are looked up once, not at each event.

    Any thread may call any method, but `begun` and `ended`, which are the event loop's.
    """

    def __init__(self, version: str) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Gauge("ffnsearch_build_info", "The version that runs; always 1.", ["version"], registry=registry).labels(
            version
        ).set(1)
        calls = Counter("ffnsearch_calls", "Calls that have ended.", ["method", "code"], registry=registry)
        self._ended = cache(calls.labels)  # the children by their labels
        self._seconds = self._histogram("call_seconds", "Duration of unary calls.", CALL_SECONDS, "method")
        self._in_flight = 0
        self._gauge("calls_in_flight", "Calls that have begun and not ended.", lambda: self._in_flight)
        waits = self._histogram("queue_wait_seconds", "How long a call waited for the engine.", STAGE_SECONDS)
        self._waits = waits.series()
        self._batch_calls = self._histogram("batch_calls", "Calls answered in one batch.", BATCH_CALLS).series()
        self._batch_prompts = self._histogram("batch_prompts", "Prompts answered in one batch.", BATCH_PROMPTS).series()
        stages = self._histogram("stage_seconds", "Time of a prediction by stage.", STAGE_SECONDS, "stage")
        self._stages = {stage: stages.series(stage) for stage in STAGES}
        self._tokens = Counter("ffnsearch_tokens", "Tokens of all batches.", registry=registry)
        self._neighbors = self._histogram(
            "neighbors", "Neighbors of a prompt above the lowest threshold.", NEIGHBORS, "block"
        )
        self._catalog = _CatalogInfo()
        registry.register(self._catalog)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)

    def begun(self) -> None:
        """Count a call that has begun."""
        self._in_flight += 1

    def ended(self, record: CallRecord, *, is_unary: bool) -> None:
        """Count a call that has ended; one that streams lasts as long as its caller likes, and is not timed."""
        self._in_flight -= 1
        self._ended(record.method, record.code).inc()
        if is_unary:
            self._seconds.series(record.method).observe(record.duration_s)
        if record.timings is not None:
            for stage, nanoseconds in stage_times(record.timings).items():
                self._stages[stage].observe(nanoseconds / 1e9)

    def watch_queue(self, calls: Callable[[], int], prompts: Callable[[], int]) -> None:
        """Ask these functions, whenever metrics are read, how many calls wait and how many prompts they have. Once."""
        self._gauge("queue_calls", "Calls that wait for the engine.", calls)
        self._gauge("queue_prompts", "Prompts of the calls that wait for the engine.", prompts)

    def watch_unread(self, unread_bytes: Callable[[], int]) -> None:
        """Ask this function, whenever metrics are read, how many bytes of responses have not left. Once."""
        self._gauge("unread_bytes", "Bytes of responses whose callers have not read them yet.", unread_bytes)

    def taken(self, waits_s: Sequence[float]) -> None:
        """Count calls that have left the queue for the engine, each after so many seconds."""
        self._waits.observe_all(waits_s)

    def batched(self, calls: int, prompts: int, tokens: int) -> None:
        """Count a batch: the calls in it, their prompts and tokens together."""
        self._batch_calls.observe(calls)
        self._batch_prompts.observe(prompts)
        self._tokens.inc(tokens)

    def found(self, block: int, neighbors: Sequence[int]) -> None:
        """Count the neighbors that each prompt of a batch has in a block, above the lowest threshold."""
        self._neighbors.series(str(block)).observe_all(neighbors)

    def see(self, catalog: CatalogSeen) -> None:
        """Show these snapshots and aliases from now on."""
        self._catalog.seen = catalog

    def _gauge(self, name: str, what: str, value: Callable[[], float]) -> None:
        Gauge(f"ffnsearch_{name}", what, registry=self.registry).set_function(value)

    def _histogram(self, name: str, what: str, edges: Sequence[float], label: str | None = None) -> Histogram:
        made = Histogram(f"ffnsearch_{name}", what, edges, label)
        self.registry.register(made)
        return made


def stage_times(timings: Any) -> dict[str, int]:
    """Nanoseconds of each of STAGES, from a response's timings; `write` is what is left of the total."""
    found = {stage: getattr(timings, f"{stage}_ns") for stage in TIMED_STAGES}
    found["write"] = max(0, timings.total_ns - sum(found.values()))
    return found


class _CatalogInfo(Collector):
    """What is open under which name. It is replaced as a whole, so a reader never sees half of a change."""

    def __init__(self) -> None:
        self.seen = CatalogSeen({}, {})

    def collect(self) -> Iterator[Metric]:
        """The snapshots and aliases of this moment."""
        snapshots, aliases, _ = self.seen
        yield GaugeMetricFamily("ffnsearch_snapshots_open", "Open snapshots.", value=len(snapshots))
        substrings = GaugeMetricFamily(
            "ffnsearch_snapshot_substrings",
            "Substrings of an open snapshot.",
            labels=["snapshot", "snapshot_id", "backend"],
        )
        for name, one in snapshots.items():
            substrings.add_metric([name, one.snapshot_id, one.backend], one.substrings)
        yield substrings
        info = GaugeMetricFamily(
            "ffnsearch_alias_info", "Which snapshot an alias means; always 1.", labels=["alias", "snapshot"]
        )
        for alias, name in aliases.items():
            info.add_metric([alias, name], 1)
        yield info

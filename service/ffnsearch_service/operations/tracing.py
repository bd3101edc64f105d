"""Which spans does a call leave? (its record -> OpenTelemetry spans; the one user of opentelemetry).

Spans are made when a call has ended, from the times that were taken anyway: a call that is not traced costs nothing.
Those of the stages stand one after the other; where prompts run in groups, each one is the sum over the groups.
"""

from typing import Any
from urllib.parse import urlsplit

import grpc

from ffnsearch_service.config import TracingSettings
from ffnsearch_service.errors import SettingsError
from ffnsearch_service.operations.record import TIMED_STAGES, CallRecord

EXPORT_S_MAX = 2.0
"""How long the collector may take for a batch; also what an end may wait for one that does not answer."""


class Tracer:
    """Sends the spans of calls. Any thread may call `ended`; spans are sent from a thread of its own. Close it."""

    def __init__(self, version: str, exporter: Any) -> None:
        """Take over a SpanExporter of opentelemetry. Raises SettingsError where the extra is not installed."""
        require_extra()
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._processor = BatchSpanProcessor(exporter, export_timeout_millis=1e3 * EXPORT_S_MAX)
        resource = Resource.create({"service.name": "ffnsearch", "service.version": version})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer("ffnsearch", version)
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def open(cls, settings: TracingSettings, version: str) -> "Tracer | None":
        """A tracer that sends to the endpoint; None where there is none. Raises SettingsError without the extra."""
        if settings.endpoint is None:
            return None
        require_extra()
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        insecure = urlsplit(settings.endpoint).scheme == "http"
        return cls(version, OTLPSpanExporter(endpoint=settings.endpoint, insecure=insecure, timeout=EXPORT_S_MAX))

    def ended(self, record: CallRecord) -> None:
        """Make the spans of a call that has ended."""
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

        parent = self._propagator.extract({"traceparent": record.traceparent} if record.traceparent else {})
        span = self._tracer.start_span(
            record.method,
            parent,
            kind=SpanKind.SERVER,
            attributes=_attributes(record),
            start_time=record.started_unix_ns,
        )
        if record.code != "OK":
            span.set_status(StatusCode.ERROR, record.code)
        if record.timings is not None:
            begin_ns = record.started_unix_ns + record.timings.tokenize_ns
            for name in TIMED_STAGES[1:]:  # after tokenizing, which has no span of its own
                end_ns = begin_ns + getattr(record.timings, f"{name}_ns")
                child = self._tracer.start_span(name, set_span_in_context(span), start_time=begin_ns)
                child.end(end_ns)
                begin_ns = end_ns
        span.end(record.started_unix_ns + int(1e9 * record.duration_s))

    def close(self) -> None:
        """Send what waits, and stop."""
        self._provider.shutdown()


def require_extra() -> None:
    """Raise SettingsError where what sends spans is not installed."""
    try:
        import opentelemetry.exporter.otlp.proto.grpc.trace_exporter
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError:
        raise SettingsError(
            ["tracing.endpoint is set, and what sends spans is missing: pip install 'ffnsearch[tracing]', or unset it"]
        ) from None


def _attributes(record: CallRecord) -> dict[str, Any]:
    service, _, method = record.method.rpartition("/")
    found = {
        "rpc.system": "grpc",
        "rpc.service": service,
        "rpc.method": method,
        "rpc.grpc.status_code": grpc.StatusCode[record.code].value[0],
        "ffnsearch.request_id": record.request_id,
        "ffnsearch.prompts": record.prompts,
        "ffnsearch.snapshot": record.snapshot,
    }
    return {name: value for name, value in found.items() if value is not None}

"""Spans tell of a call and its stages, below the caller's own; without the extra there is a clear error."""

import sys
from types import SimpleNamespace

import pytest

from ffnsearch_service.config import ServerConfig, TracingSettings
from ffnsearch_service.errors import SettingsError
from ffnsearch_service.operations.record import CallRecord
from ffnsearch_service.operations.tracing import Tracer

METHOD = "ffnsearch.v1.PredictionService/Predict"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def exporter():
    memory = pytest.importorskip(
        "opentelemetry.sdk.trace.export.in_memory_span_exporter", reason="the extra `tracing` is not installed"
    )
    return memory.InMemorySpanExporter()


def spans_of(exporter, record):
    tracer = Tracer("1.0", exporter)
    tracer.ended(record)
    tracer.close()
    return {span.name: span for span in exporter.get_finished_spans()}


def timings():
    return SimpleNamespace(tokenize_ns=10, queue_ns=20, model_ns=30, search_ns=40, combine_ns=50)


def test_a_call_leaves_a_span_with_its_stages(exporter):
    record = CallRecord("the-id", METHOD, f"00-{TRACE}-{PARENT}-01", code="OK", prompts=2, duration_s=1e-6)
    record.timings = timings()
    spans = spans_of(exporter, record)
    assert spans.keys() == {METHOD, "queue", "model", "search", "combine"}
    call = spans[METHOD]
    assert f"{call.context.trace_id:032x}" == TRACE
    assert f"{call.parent.span_id:016x}" == PARENT
    assert (call.end_time - call.start_time, call.start_time) == (1000, record.started_unix_ns)
    assert call.attributes["rpc.method"] == "Predict"
    assert call.attributes["ffnsearch.prompts"] == 2
    begin = record.started_unix_ns + 10
    for name in ("queue", "model", "search", "combine"):
        assert spans[name].parent.span_id == call.context.span_id
        assert spans[name].start_time == begin
        begin += getattr(record.timings, f"{name}_ns")
        assert spans[name].end_time == begin


@pytest.mark.parametrize("traceparent", [None, "nonsense", "00-0-0-00"])
def test_a_failed_call_leaves_one_span_that_says_so(exporter, traceparent):
    (span,) = spans_of(exporter, CallRecord("the-id", METHOD, traceparent, code="NOT_FOUND")).values()
    assert (span.parent, span.status.description) == (None, "NOT_FOUND")
    assert span.attributes["rpc.grpc.status_code"] == 5


def test_a_caller_that_does_not_sample_is_heeded(exporter):
    assert spans_of(exporter, CallRecord("the-id", METHOD, f"00-{TRACE}-{PARENT}-00", code="OK")) == {}


def test_without_an_endpoint_nothing_is_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    assert Tracer.open(ServerConfig().tracing, "1.0") is None


def test_without_the_extra_there_is_a_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(SettingsError, match=r"pip install 'ffnsearch\[tracing\]'"):
        Tracer.open(TracingSettings("http://127.0.0.1:4317"), "1.0")

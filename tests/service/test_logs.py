"""A call leaves one line with its request id, and nothing of what it asked."""

import io
import json
import logging

import grpc
import pytest
from serving import WAIT_S, serving

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch.v1 import ffnsearch_pb2_grpc as pb_grpc
from ffnsearch_service.config import LoggingSettings
from ffnsearch_service.operations.logs import log_call, logging_to
from ffnsearch_service.operations.record import CallRecord, request_id_of

METHOD = "ffnsearch.v1.PredictionService/Predict"


@pytest.fixture
def lines():
    """What is logged in JSON during a test, line by line."""
    stream = io.StringIO()
    with logging_to(LoggingSettings("json"), stream):
        yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def text_of(work, level="info"):
    stream = io.StringIO()
    with logging_to(LoggingSettings("text", level), stream):
        work()
    return stream.getvalue()


def id_of(call):
    return dict(call.trailing_metadata())["x-request-id"]


def test_a_call_leaves_one_line(engine, lines):
    with serving(engine) as address, grpc.insecure_channel(address) as channel:
        stub = pb_grpc.PredictionServiceStub(channel)
        request = pb.PredictRequest(prompts=[pb.Prompt(text="the people")] * 3)
        _, call = stub.Predict.with_call(request, timeout=WAIT_S, metadata=[("x-request-id", "abc-123456")])
        assert id_of(call) == "abc-123456"
    (line,) = [line for line in lines() if line["logger"] == "ffnsearch.call"]
    assert line.pop("duration_ms") > 0
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "INFO",
        "logger": "ffnsearch.call",
        "message": "call",
        "request_id": "abc-123456",
        "method": METHOD,
        "code": "OK",
        "prompts": 3,
    }


@pytest.mark.parametrize("method", ["Predict", "GetInfo"])
def test_the_line_of_a_call_names_the_snapshot_that_was_asked(engine, lines, method):
    asked = {"Predict": pb.PredictRequest, "GetInfo": pb.GetInfoRequest}[method](snapshot="plays")
    with serving(engine) as address, grpc.insecure_channel(address) as channel:
        call = getattr(pb_grpc.PredictionServiceStub(channel), method).future(asked, timeout=WAIT_S)
        assert call.code() is grpc.StatusCode.NOT_FOUND
    (line,) = [line for line in lines() if line["logger"] == "ffnsearch.call"]
    assert (line["code"], line["snapshot"]) == ("NOT_FOUND", "plays")


@pytest.mark.parametrize(("code", "told"), [("UNAUTHENTICATED", False), ("PERMISSION_DENIED", True), ("OK", True)])
def test_guessing_tokens_fills_no_disk(code, told):
    record = CallRecord("id", METHOD, code=code)
    assert bool(text_of(lambda: log_call(record))) is told
    assert text_of(lambda: log_call(record), "debug")


def test_a_failed_call_has_its_request_id_too_and_nothing_of_the_prompt_is_told(engine, lines):
    with serving(engine) as address, grpc.insecure_channel(address) as channel:
        stub = pb_grpc.PredictionServiceStub(channel)
        secret = "my most private text"
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(pb.PredictRequest(prompts=[pb.Prompt(text=secret)], profile_name=secret), timeout=WAIT_S)
    (line,) = [line for line in lines() if line["logger"] == "ffnsearch.call"]
    assert (line["code"], line["request_id"]) == ("NOT_FOUND", id_of(caught.value))
    assert secret not in json.dumps(lines())


@pytest.mark.parametrize(
    ("leave", "code"),
    [(lambda call: call.cancel(), "CANCELLED"), (lambda call: call.exception(WAIT_S), "DEADLINE_EXCEEDED")],
)
def test_calls_that_were_left_are_told_with_their_code(slow, slow_engine, lines, leave, code):
    with serving(slow_engine) as address, grpc.insecure_channel(address) as channel:
        stub = pb_grpc.PredictionServiceStub(channel)
        call = stub.Predict.future(pb.PredictRequest(prompts=[pb.Prompt(text="a")]), timeout=3)
        assert slow.running.wait(WAIT_S)
        leave(call)
        assert slow.stopped.wait(WAIT_S)
    assert [line["code"] for line in lines() if line["logger"] == "ffnsearch.call"] == [code]


@pytest.mark.parametrize("given", [None, "", "short", "x" * 65, "with space", "new\nline", b"bytes-bytes", "ünsafe-id"])
def test_an_id_that_is_not_sane_is_replaced(given):
    made = request_id_of(given)
    assert made != given
    assert request_id_of(made) == made


def test_text_is_one_line_whatever_is_in_it():
    record = CallRecord("id", METHOD, code="OK", snapshot="plays", token_name='a "b"\nc', duration_s=0.0123)
    told = text_of(lambda: log_call(record))
    assert told.count("\n") == 1
    assert told.endswith(
        rf' INFO ffnsearch.call call method={METHOD} code=OK duration_ms=12.3 snapshot=plays token="a \"b\"\nc"' "\n"
    )


def test_probes_are_told_at_debug_alone():
    record = CallRecord("id", "grpc.health.v1.Health/Check", code="OK")
    assert text_of(lambda: log_call(record)) == ""
    assert "Health/Check" in text_of(lambda: log_call(record), "debug")


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_failure_is_told_without_message_path_and_trace(form):
    def fail():
        try:
            raise ValueError("private text in /a/path")
        except ValueError:
            logging.getLogger("x").exception("it failed")

    told, stream = text_of(fail), io.StringIO()
    with logging_to(LoggingSettings(form), stream):
        fail()
    told = stream.getvalue()
    assert "ValueError" in told
    assert "test_logs.fail:" in told
    assert "private" not in told
    assert "/" not in told
    assert "Traceback" not in told
    assert "Traceback" in text_of(fail, "debug")


def test_grpc_quotes_no_metadata():
    text = text_of(lambda: logging.getLogger("grpc._cython.cygrpc").error("Invalid encoding on %s", b"Bearer ffn_\xff"))
    assert "Invalid encoding" in text
    assert "Bearer" not in text


def test_the_log_goes_back_to_where_it_went():
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    with logging_to(LoggingSettings("json", "error"), io.StringIO()):
        assert root.level == logging.ERROR
    assert (root.handlers[:], root.level) == before

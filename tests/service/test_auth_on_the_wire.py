"""Who has no valid token with the scope that a method takes is refused, on every kind of call, and told no more."""

import logging
import threading
import time
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from looping import WAIT_S
from protected import ADMIN_SERVICE, SERVICE, Methods, protected
from serving import serving

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch.v1 import ffnsearch_pb2_grpc as pb_grpc
from ffnsearch_service.client.credentials import token_metadata
from ffnsearch_service.config import Limits
from ffnsearch_service.security.protection import Protection
from ffnsearch_service.security.scopes import scope_of
from ffnsearch_service.security.token_edits import add_token, revoke_token
from ffnsearch_service.security.tokens import new_secret, new_token

UNAUTHENTICATED, PERMISSION_DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
CHECK_MS = 50
KINDS = ["Echo", "Sum", "Names", "Both"]


class Tokens:
    """A tokens file with three tokens, and their secrets by name."""

    def __init__(self, path):
        self.path = path
        self.secrets = {}
        self.add("reader", "read")
        self.add("boss", "admin")
        self.add("old", "read", expires=datetime.now(UTC) + timedelta(seconds=0.2))
        self.add("gone", "read")
        revoke_token(path, "gone")

    def add(self, name, *scopes, expires=None):
        self.secrets[name] = new_secret()
        add_token(self.path, new_token(name, scopes, self.secrets[name], expires))

    def of(self, name):
        """The metadata that shows a token."""
        return token_metadata(self.secrets[name], "127.0.0.1:1", encrypted=False)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return Tokens(tmp_path_factory.mktemp("auth") / "tokens.toml")


def protection_of(tokens):
    return Protection.open(Limits(tokens_check_ms_max=CHECK_MS), tokens_file=tokens.path)


@pytest.fixture(scope="module")
def methods():
    return Methods()


@pytest.fixture(scope="module")
def channel(tokens, methods):
    time.sleep(0.2)  # "old" expires
    with protected(protection_of(tokens), methods) as address, grpc.insecure_channel(address) as opened:
        yield opened


def call(channel, method, metadata, service=SERVICE, request=b"hello"):
    """Call a method of any kind and wait for its first response."""
    path = f"/{service}/{method}"
    if method in ("Sum", "Both"):
        kind = channel.stream_unary if method == "Sum" else channel.stream_stream
        answer = kind(path)(iter([request]), metadata=metadata, timeout=WAIT_S)
    else:
        kind = channel.unary_stream if method in ("Names", "Silent", "FailLate") else channel.unary_unary
        answer = kind(path)(request, metadata=metadata, timeout=WAIT_S)
    if isinstance(answer, bytes):
        return answer
    first = next(answer)
    answer.cancel()
    return first


def refused(work):
    """Code, reason and metadata of a call that must fail with a google.rpc.Status."""
    with pytest.raises(grpc.RpcError) as caught:
        work()
    info = error_details_pb2.ErrorInfo()
    status = rpc_status.from_call(caught.value)
    assert status.details[0].Unpack(info)
    assert info.domain == "ffnsearch"
    return caught.value.code(), info.reason, dict(info.metadata)


@pytest.mark.parametrize("method", KINDS)
def test_a_valid_token_calls(channel, tokens, method):
    assert call(channel, method, tokens.of("reader")) in (b"hello from reader", b"hello", b"reader")


def test_the_callers_name_reaches_the_handler(channel, tokens):
    assert call(channel, "Echo", tokens.of("reader")) == b"hello from reader"
    assert call(channel, "Names", tokens.of("reader")) == b"reader"
    assert call(channel, "Echo", tokens.of("boss"), ADMIN_SERVICE) == b"hello from boss"


@pytest.mark.parametrize("method", [*KINDS, "NoSuchMethod"])
def test_a_call_without_a_token_is_refused(channel, method):
    assert refused(lambda: call(channel, method, None)) == (UNAUTHENTICATED, "TOKEN_MISSING", {})


@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize("name", ["unknown", "old", "gone"])
def test_unknown_expired_and_revoked_tokens_are_refused_alike(channel, tokens, name, method):
    metadata = tokens.of(name) if name != "unknown" else token_metadata(new_secret(), "::1", encrypted=True)
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, method, metadata)
    assert refused(lambda: call(channel, method, metadata)) == (UNAUTHENTICATED, "TOKEN_INVALID", {})
    assert caught.value.details() == "the token is unknown, expired or revoked: ask the operator for another"


@pytest.mark.parametrize("method", KINDS)
def test_a_token_without_the_scope_is_refused(channel, tokens, method):
    assert refused(lambda: call(channel, method, tokens.of("reader"), ADMIN_SERVICE)) == (
        PERMISSION_DENIED,
        "SCOPE_MISSING",
        {"scope": "admin"},
    )
    assert refused(lambda: call(channel, method, tokens.of("boss"))) == (
        PERMISSION_DENIED,
        "SCOPE_MISSING",
        {"scope": "read"},
    )


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "Bearer ", "Basic {}", "{}", "Bearer {} {}", "Bearer {}x", "Token {}"],
)
def test_what_is_no_bearer_token_is_refused(channel, tokens, value):
    metadata = (("authorization", value.replace("{}", tokens.secrets["reader"])),)
    assert refused(lambda: call(channel, "Echo", metadata))[0] is UNAUTHENTICATED


def test_two_tokens_are_none(channel, tokens):
    assert refused(lambda: call(channel, "Echo", tokens.of("reader") * 2))[1] == "TOKEN_MISSING"


def test_the_scheme_may_be_written_in_any_case(channel, tokens):
    assert call(channel, "Echo", (("authorization", f"bEaReR {tokens.secrets['reader']}"),))


def test_a_refusal_does_not_wait_for_the_request(channel):
    """Neither for a body, which would have to be kept, nor for the first message of a stream."""
    ended = threading.Event()

    def requests():
        ended.wait(WAIT_S)
        yield b"late"

    try:
        answer = channel.stream_stream(f"/{SERVICE}/Both")(requests(), timeout=WAIT_S)
        began_s = time.monotonic()
        assert refused(lambda: next(answer))[0] is UNAUTHENTICATED
        assert time.monotonic() - began_s < WAIT_S / 2
    finally:
        ended.set()


def test_which_methods_there_are_is_told_to_nobody_without_a_token(channel):
    paths = (f"/{SERVICE}/Echo", f"/{SERVICE}/No", "/no.Service/No", "/", "//", "/google.longrunning.Operations/X")
    assert {outcome(channel, path, None) for path in paths} == {
        (UNAUTHENTICATED, "the call has no token: send the metadata `authorization: Bearer TOKEN`")
    }


def test_a_method_that_there_is_not_takes_the_scope_too(channel, tokens):
    assert outcome(channel, f"/{SERVICE}/No", tokens.of("reader"))[0] is grpc.StatusCode.UNIMPLEMENTED
    assert outcome(channel, "/no.Service/No", tokens.of("reader"))[0] is PERMISSION_DENIED
    assert outcome(channel, "/no.Service/No", tokens.of("boss"))[0] is grpc.StatusCode.UNIMPLEMENTED


def outcome(channel, path, metadata):
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path)(b"", metadata=metadata, timeout=WAIT_S)
    return caught.value.code(), caught.value.details()


def test_methods_take_the_scopes_that_are_documented():
    assert scope_of("/grpc.health.v1.Health/Check") is None
    for service in (SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"):
        assert scope_of(f"/{service}/Any") == "read"
    for service in (ADMIN_SERVICE, "google.longrunning.Operations", "not.Known", ""):
        assert scope_of(f"/{service}/Any") == "admin"
    for odd in (
        "",
        "/",
        "grpc.health.v1.Health/Check/",
        "//grpc.health.v1.Health/Check",
        "/x/grpc.health.v1.Health/Check",
    ):
        assert scope_of(odd) == "admin"


def test_health_is_checked_without_a_token_and_watched_with_one(channel, tokens):
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest()
    assert stub.Check(request, timeout=WAIT_S).status == health_pb2.HealthCheckResponse.SERVING
    assert refused(lambda: next(stub.Watch(request, timeout=WAIT_S)))[0] is UNAUTHENTICATED
    watch = stub.Watch(request, metadata=tokens.of("reader"), timeout=WAIT_S)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


def test_reflection_takes_a_token(channel, tokens):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    ask = [reflection_pb2.ServerReflectionRequest(list_services="")]
    assert refused(lambda: next(stub.ServerReflectionInfo(iter(ask), timeout=WAIT_S)))[0] is UNAUTHENTICATED
    answer = stub.ServerReflectionInfo(iter(ask), metadata=tokens.of("reader"), timeout=WAIT_S)
    assert next(answer).list_services_response.service
    answer.cancel()


@pytest.mark.parametrize("kind", ["health", "Names", "Silent", "Both", "Sum"])
def test_a_revoked_token_ends_its_streams(channel, methods, tokens, kind):
    name = f"{kind}-{time.monotonic_ns()}"
    tokens.add(name, "read")
    time.sleep(2 * CHECK_MS / 1000)
    ended = threading.Event()

    def requests():
        yield b"hello"
        ended.wait(WAIT_S)

    metadata = tokens.of(name)
    if kind == "health":
        stub = health_pb2_grpc.HealthStub(channel)
        stream = stub.Watch(health_pb2.HealthCheckRequest(), metadata=metadata, timeout=WAIT_S)
    elif kind == "Both":
        stream = channel.stream_stream(f"/{SERVICE}/Both")(requests(), metadata=metadata, timeout=WAIT_S)
    elif kind == "Sum":
        methods.begun.clear()
        stream = channel.stream_unary(f"/{SERVICE}/Sum").future(requests(), metadata=metadata, timeout=WAIT_S)
    else:
        stream = channel.unary_stream(f"/{SERVICE}/{kind}")(b"", metadata=metadata, timeout=WAIT_S)
    try:
        assert methods.begun.wait(WAIT_S) if kind == "Sum" else next(stream)
        revoke_token(tokens.path, name)
        began_s = time.monotonic()
        outcome = refused(lambda: stream.result() if kind == "Sum" else [*stream])
        assert outcome == (UNAUTHENTICATED, "TOKEN_INVALID", {})
        assert time.monotonic() - began_s < WAIT_S / 4
    finally:
        ended.set()
    wait_until_none_runs(methods)


def wait_until_none_runs(methods):
    deadline = time.monotonic() + WAIT_S
    while methods.running:
        assert time.monotonic() < deadline, "the handler goes on"
        time.sleep(0.01)


def test_a_revoked_token_ends_the_stream_of_who_does_not_read_it(channel, methods, tokens):
    tokens.add("lazy", "read")
    time.sleep(2 * CHECK_MS / 1000)
    stream = channel.unary_stream(f"/{SERVICE}/Flood")(b"", metadata=tokens.of("lazy"), timeout=WAIT_S)
    assert next(stream)
    assert methods.running == 1
    revoke_token(tokens.path, "lazy")
    wait_until_none_runs(methods)
    stream.cancel()


def test_a_token_that_expires_ends_its_streams(channel, tokens):
    tokens.add("soon", "read", expires=datetime.now(UTC) + timedelta(seconds=2))
    time.sleep(2 * CHECK_MS / 1000)
    stream = channel.unary_stream(f"/{SERVICE}/Silent")(b"", metadata=tokens.of("soon"), timeout=WAIT_S)
    assert next(stream) == b"only"
    assert refused(lambda: next(stream)) == (UNAUTHENTICATED, "TOKEN_INVALID", {})


def test_a_caller_who_leaves_stops_the_handler_of_a_stream(channel, methods, tokens):
    stream = channel.unary_stream(f"/{SERVICE}/Silent")(b"", metadata=tokens.of("reader"), timeout=WAIT_S)
    assert next(stream) == b"only"
    assert methods.running == 1
    stream.cancel()
    wait_until_none_runs(methods)


def test_one_revoked_token_leaves_the_others_alone(channel, tokens):
    tokens.add("first", "read")
    tokens.add("second", "read")
    time.sleep(2 * CHECK_MS / 1000)
    stream = channel.unary_stream(f"/{SERVICE}/Names")(b"", metadata=tokens.of("second"), timeout=WAIT_S)
    assert next(stream) == b"second"
    revoke_token(tokens.path, "first")
    ends_s = time.monotonic() + 4 * CHECK_MS / 1000
    while time.monotonic() < ends_s:
        assert next(stream) == b"second"
    stream.cancel()


@pytest.mark.parametrize("method", ["Fail", "FailLate"])
def test_what_a_handler_raises_is_opaque(channel, tokens, caplog, method):
    answer = channel.unary_stream(f"/{SERVICE}/{method}")(b"key", metadata=tokens.of("reader"), timeout=WAIT_S)
    with caplog.at_level(logging.ERROR), pytest.raises(grpc.RpcError) as caught:
        list(answer)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(caught.value)
    assert "OSError" not in str(caught.value)
    assert "/srv/secret" in caplog.text


def test_a_request_that_is_no_message_is_the_callers_fault(channel, tokens):
    code, reason, _ = refused(lambda: call(channel, "Typed", tokens.of("reader"), request=b"half"))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")
    assert call(channel, "Typed", tokens.of("reader"), request=b"whole") == b"whole from reader"


def test_no_token_is_in_a_log_or_a_reply(channel, tokens, caplog):
    unknown = new_secret()
    with caplog.at_level(logging.DEBUG):
        for secret in (*tokens.secrets.values(), unknown):
            for service in (SERVICE, ADMIN_SERVICE):
                with pytest.raises(grpc.RpcError) as caught:
                    call(channel, "Fail", (("authorization", f"Bearer {secret}"),), service)
                assert secret not in f"{caught.value} {caught.value.trailing_metadata()}"
    for secret in (*tokens.secrets.values(), unknown):
        assert secret not in caplog.text


def test_refused_calls_are_logged_by_reason_and_seldom(tokens, caplog):
    with protected(protection_of(tokens)) as address, grpc.insecure_channel(address) as channel:
        for _ in range(20):
            refused(lambda: call(channel, "Echo", None))
    lines = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert lines == ["calls refused since the last such line: 1 TOKEN_MISSING"]


def test_the_whole_server_asks_for_tokens(engine, tokens):
    request = pb.PredictRequest(prompts=[pb.Prompt(text="the people")])
    with (
        serving(engine, protection=protection_of(tokens)) as address,
        grpc.insecure_channel(address) as channel,
    ):
        stub = pb_grpc.PredictionServiceStub(channel)
        assert refused(lambda: stub.Predict(request, timeout=WAIT_S))[1] == "TOKEN_MISSING"
        assert refused(lambda: stub.GetInfo(pb.GetInfoRequest(), timeout=WAIT_S))[1] == "TOKEN_MISSING"
        assert stub.GetInfo(pb.GetInfoRequest(), metadata=tokens.of("reader"), timeout=WAIT_S).snapshot.id

"""Clients try again where it is right: UNAVAILABLE always, a busy server where asked to, never past the deadline."""

import json
import threading
import time

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import status_pb2
from scripted import Scripted, busy, scripted_server

from ffnsearch_service import errors
from ffnsearch_service.client import AsyncClient, Client
from ffnsearch_service.client.channel import service_config

CODES = {
    "INVALID_ARGUMENT": errors.InvalidRequestError,
    "UNAUTHENTICATED": errors.UnauthenticatedError,
    "PERMISSION_DENIED": errors.PermissionDeniedError,
    "NOT_FOUND": errors.NotFoundError,
    "ALREADY_EXISTS": errors.AlreadyExistsError,
    "FAILED_PRECONDITION": errors.FailedPreconditionError,
    "ABORTED": errors.AbortedError,
    "RESOURCE_EXHAUSTED": errors.ResourceExhaustedError,
    "DEADLINE_EXCEEDED": errors.DeadlineExceededError,
    "CANCELLED": errors.CallCancelledError,
    "UNIMPLEMENTED": errors.UnimplementedError,
    "INTERNAL": errors.InternalError,
    "DATA_LOSS": errors.ServiceError,
    "UNKNOWN": errors.ServiceError,
}
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def predict(
    kind: type, address: str, prompts: object = "a", *, timeout_s: float = 20, **options: object
) -> object:
    """One prediction through either kind of client."""
    if kind is Client:
        with Client(address, timeout_s=timeout_s, **options) as client:
            return client.predict(prompts)
    async with AsyncClient(address, timeout_s=timeout_s, **options) as client:
        return await client.predict(prompts)


@pytest.fixture(params=[Client, AsyncClient])
def kind(request):
    return request.param


@pytest.mark.parametrize("failures", [1, 4])
async def test_an_unavailable_server_is_asked_again(kind, failures):
    servicer = Scripted(*[UNAVAILABLE] * failures)
    with scripted_server(servicer) as address:
        assert (await predict(kind, address)).snapshot_id == "scripted"
    assert servicer.attempts == failures + 1


async def test_it_is_asked_five_times_and_then_told(kind):
    servicer = Scripted(*[UNAVAILABLE] * 9)
    with scripted_server(servicer) as address, pytest.raises(errors.UnavailableError, match="as told"):
        await predict(kind, address)
    assert servicer.attempts == 5


@pytest.mark.parametrize("code", CODES)
async def test_other_codes_are_told_at_once_each_by_its_own_exception(kind, code):
    servicer = Scripted(grpc.StatusCode[code])
    with scripted_server(servicer) as address, pytest.raises(errors.ServiceError) as caught:
        await predict(kind, address, retry_overloaded=True)
    assert (type(caught.value), caught.value.code, caught.value.reason) == (CODES[code], code, code)
    assert caught.value.retry_after_s is None
    assert servicer.attempts == 1


def test_every_call_is_retried():
    servicer = Scripted()
    with scripted_server(servicer) as address, Client(address) as client:
        for call in (
            client.info,
            lambda: client.predict("a"),
            lambda: list(client.neighbors("a", 0)),
            lambda: client.classes("a", 0),
        ):
            servicer.failures = [UNAVAILABLE]
            before = servicer.attempts
            call()
            assert servicer.attempts == before + 2


async def test_the_deadline_covers_all_tries(kind):
    servicer = Scripted(*[UNAVAILABLE] * 9)
    with scripted_server(servicer) as address:
        started = time.monotonic()
        with pytest.raises((errors.DeadlineExceededError, errors.UnavailableError)):
            await predict(kind, address, timeout_s=0.15)
        assert time.monotonic() - started < 5
    assert servicer.attempts < 5


async def test_a_large_request_is_retried_too(kind):
    servicer = Scripted(UNAVAILABLE, UNAVAILABLE)
    with scripted_server(servicer) as address:
        answer = await predict(kind, address, ["a" * 3000] * 1000)
    assert (servicer.attempts, len(answer.results)) == (3, 1000)


async def test_a_busy_server_is_left_alone_unless_asked_otherwise(kind):
    servicer = Scripted(busy(0.05))
    with scripted_server(servicer) as address, pytest.raises(errors.ResourceExhaustedError) as caught:
        await predict(kind, address)
    assert servicer.attempts == 1
    assert (caught.value.reason, caught.value.retry_after_s) == ("OVERLOADED", pytest.approx(0.05))
    assert caught.value.metadata == {"reason": "a", "message": "b"}


async def test_a_busy_server_is_asked_again_when_it_says(kind):
    servicer = Scripted(busy(0.1), busy(0.1))
    with scripted_server(servicer) as address:
        started = time.monotonic()
        await predict(kind, address, retry_overloaded=True)
        assert time.monotonic() - started >= 0.2
    assert servicer.attempts == 3


async def test_a_busy_server_is_not_waited_for_past_the_deadline(kind):
    servicer = Scripted(busy(60))
    with scripted_server(servicer) as address, pytest.raises(errors.ResourceExhaustedError):
        await predict(kind, address, retry_overloaded=True, timeout_s=60)
    assert servicer.attempts == 1


def test_details_that_cannot_be_read_leave_the_code():
    broken = any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")
    status = status_pb2.Status(code=grpc.StatusCode.ABORTED.value[0], message="as told", details=[broken])
    with (
        scripted_server(Scripted(status)) as address,
        Client(address) as client,
        pytest.raises(errors.AbortedError, match="as told") as caught,
    ):
        client.info()
    assert (caught.value.reason, caught.value.metadata) == ("ABORTED", {})


def test_the_service_config_retries_unavailable_alone():
    (method,) = json.loads(service_config())["methodConfig"]
    assert method["name"] == [{"service": "ffnsearch.v1.PredictionService"}]
    assert method["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert method["retryPolicy"]["maxAttempts"] == 5  # more are not made by any gRPC


async def wait(kind: type, address: str, timeout_s: float) -> None:
    """Wait for a server through either kind of client."""
    if kind is Client:
        with Client(address) as client:
            client.wait_for_ready(timeout_s)
    else:
        async with AsyncClient(address) as client:
            await client.wait_for_ready(timeout_s)


async def test_a_server_is_waited_for_until_it_serves(kind):
    servicer = Scripted()
    servicer.health = ["NOT_SERVING", "SERVICE_UNKNOWN", "SERVING"]
    with scripted_server(servicer) as address:
        await wait(kind, address, 20)
    assert servicer.attempts == 3
    assert servicer.requests[0].service == "ffnsearch.v1.PredictionService"


def test_a_server_may_begin_after_its_client():
    with scripted_server(Scripted()) as address:
        pass
    with Client(address) as client:
        waiting = threading.Thread(target=client.wait_for_ready, args=(20,))
        waiting.start()
        time.sleep(0.5)
        assert waiting.is_alive()
        with scripted_server(Scripted(), port=int(address.rpartition(":")[2])):
            waiting.join(20)
            assert not waiting.is_alive()
            assert client.info().backend == "scripted"


async def test_what_was_in_the_way_is_told(kind):
    servicer = Scripted()
    servicer.health = ["NOT_SERVING"]
    not_serving = pytest.raises(errors.DeadlineExceededError, match=r"not ready after 0\.3 s: it says NOT_SERVING")
    with scripted_server(servicer) as address, not_serving:
        await wait(kind, address, 0.3)
    with pytest.raises(errors.DeadlineExceededError, match=r"not ready after 0\.3 s: .*UNAVAILABLE"):
        await wait(kind, address, 0.3)


async def test_what_waiting_does_not_mend_is_told_at_once(kind):
    servicer = Scripted(grpc.StatusCode.UNAUTHENTICATED)
    with scripted_server(servicer) as address, pytest.raises(errors.UnauthenticatedError):
        await wait(kind, address, 20)

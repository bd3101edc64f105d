"""A reply tells what its caller can mend, and of everything else an id: no path, no trace, no class of exception."""

import logging
import re
import threading
import weakref
from contextlib import suppress

import grpc
import pytest
from test_errors_on_the_wire import INVALID_CLASSES, INVALID_NEIGHBORS, INVALID_PREDICTIONS

from ffnsearch.v1 import ffnsearch_pb2_grpc as pb_grpc
from ffnsearch_indexer import errors as indexer_errors
from ffnsearch_indexer.errors import FfnSearchError
from ffnsearch_service import errors as service_errors
from ffnsearch_service.errors import RequestError
from ffnsearch_service.security.handlers import abort
from ffnsearch_service.status import DOMAIN, error_message, status_of

PATH = "/srv/secret/snapshot.ffn"
OF_THE_CALLER = {
    "AbsentError": "NOT_FOUND",
    "AuthenticationError": "UNAUTHENTICATED",
    "CancelledError": "CANCELLED",
    "ExhaustedError": "RESOURCE_EXHAUSTED",
    "LimitError": "INVALID_ARGUMENT",
    "LostUpdateError": "ABORTED",
    "OverloadedError": "RESOURCE_EXHAUSTED",
    "PresentError": "ALREADY_EXISTS",
    "ProfileError": "INVALID_ARGUMENT",
    "PromptError": "INVALID_ARGUMENT",
    "RequestError": "INVALID_ARGUMENT",
    "ScopeError": "PERMISSION_DENIED",
    "ShuttingDownError": "UNAVAILABLE",
    "StateError": "FAILED_PRECONDITION",
    "TokenError": "INVALID_ARGUMENT",
    "UnreadError": "RESOURCE_EXHAUSTED",
}
"""The classes whose messages travel: they speak of the request and of names that callers give.

One that is new is decided on here.
"""


def tree(error=FfnSearchError):
    return [error, *(below for child in error.__subclasses__() for below in tree(child))]


def made(kind, reason=None):
    """An error of a class, with a path wherever it has room."""
    if issubclass(kind, service_errors.ServiceError):
        return kind(f"see {PATH}", code="INTERNAL", reason=reason or PATH, field=PATH, metadata={"file": PATH})
    if issubclass(kind, service_errors.SettingsError):
        return kind([f"see {PATH}"])
    return kind(f"see {PATH}", reason=reason, file=PATH, field=PATH)


OWN = [kind for kind in tree() if kind.__name__ not in (*OF_THE_CALLER, "DeviceError")]


def test_every_class_of_the_tree_is_known_by_its_module():
    for kind in tree():
        assert kind.__module__ in (indexer_errors.__name__, service_errors.__name__)
    assert {kind.__name__ for kind in tree()} >= set(OF_THE_CALLER)


@pytest.mark.parametrize("reason", [None, "DEVICE_MEMORY", "DEVICE_FAILED", "DEADLINE_EXCEEDED"])
def test_a_gpu_that_failed_is_told_in_words_of_our_own(reason, caplog):
    error = made(indexer_errors.DeviceError, reason)
    with caplog.at_level(logging.ERROR):
        status, shown = status_of(error), error_message(error)
    for message in (status, shown):
        text = str(message) + repr(message.SerializeToString())
        assert PATH not in text
        assert "DeviceError" not in text
    assert status.code == shown.code == grpc.StatusCode.UNAVAILABLE.value[0]
    assert shown.reason == ("DEVICE_MEMORY" if reason == "DEVICE_MEMORY" else "DEVICE_FAILED")
    assert PATH in caplog.text  # the server's log knows the rest


@pytest.mark.parametrize("reason", [None, "PROFILE_NOT_FOUND", "DEADLINE_EXCEEDED"])
@pytest.mark.parametrize("kind", [*OWN, OSError, KeyError, AssertionError], ids=lambda kind: kind.__name__)
def test_what_is_not_the_callers_travels_as_an_id(kind, reason, caplog):
    error = made(kind, reason) if issubclass(kind, FfnSearchError) else kind(f"see {PATH}")
    with caplog.at_level(logging.ERROR):
        status, shown = status_of(error), error_message(error)
    for message in (status, shown):
        text = str(message) + repr(message.SerializeToString())
        assert PATH not in text
        assert "secret" not in text
        assert kind.__name__ not in text
    assert status.code == shown.code == grpc.StatusCode.INTERNAL.value[0]
    assert shown.reason == "INTERNAL"
    assert re.fullmatch("[0-9a-f]{16}", shown.metadata["error_id"])
    assert shown.metadata["error_id"] in caplog.text


@pytest.mark.parametrize("name", OF_THE_CALLER)
def test_what_the_caller_can_mend_is_told(name):
    kind = next(kind for kind in tree() if kind.__name__ == name)
    options = {"retry_after_s": 1.5} if kind is service_errors.OverloadedError else {"reason": "SOME_REASON"}
    error = kind() if kind is service_errors.ShuttingDownError else kind("mend it", **options)
    status = status_of(error)
    assert status.message == error.message
    assert status.code == grpc.StatusCode[OF_THE_CALLER[name]].value[0]
    assert DOMAIN in str(status)


@pytest.mark.parametrize(
    ("method", "cases"),
    [("Predict", INVALID_PREDICTIONS), ("ListNeighbors", INVALID_NEIGHBORS), ("ListClasses", INVALID_CLASSES)],
)
def test_no_refusal_over_the_wire_names_a_path(channel, tiny_snapshot, method, cases):
    call = getattr(pb_grpc.PredictionServiceStub(channel), method)
    for request, _, _ in cases.values():
        with pytest.raises(grpc.RpcError) as caught:
            call(request, timeout=60)
        told = f"{caught.value.details()} {caught.value.trailing_metadata()}"
        assert str(tiny_snapshot.parent) not in told
        assert not re.search(r"(?<![\w.])/(home|tmp|usr|srv|work|root|var)/|\.py\b|Traceback|line \d+", told), told


class Aborting:
    """A context that keeps the error with which a call was aborted, as gRPC does."""

    async def abort_with_status(self, status):
        self.kept = grpc.aio.AbortError("aborted")
        raise self.kept

    def trailing_metadata(self):
        return (("x-request-id", "12345678"),)


async def test_a_refused_call_keeps_nothing_of_what_it_was_answered_from():
    context, held = Aborting(), threading.Event()
    gone = weakref.ref(held)

    def refuse(snapshot):
        raise RequestError("mend it", reason="SOME_REASON")

    async def handle(snapshot):
        try:
            refuse(snapshot)
        except RequestError as error:
            await abort(context, error)

    with suppress(grpc.aio.AbortError):
        await handle(held)
    context.kept.__traceback__ = None  # of the handler alone
    del held
    assert gone() is None

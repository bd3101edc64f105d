"""SIGTERM under load: no call that was accepted fails, and who tries again elsewhere is answered."""

import json
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from processes import content, request, stub_of, wait_for
from serving import WAIT_S

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
CALLERS = 8


def call_until_refused(address, right):
    """Call without a pause until the server takes no more calls; how often it was right, and how it ended."""
    answered = 0
    with stub_of(address) as stub:
        while True:
            try:
                assert content(stub.Predict(request(), timeout=WAIT_S)) == right
            except grpc.RpcError as error:
                return answered, error.code()
            answered += 1


def call_until(ended, address, right):
    """Call without a pause, as our clients do; how often it was right, which every answer has to be.

    A call that comes in the instant in which the socket closes is CANCELLED by gRPC itself: it was never taken.
    """
    answered = 0
    with stub_of(address, retries=True) as stub:
        while not ended.is_set():
            try:
                answer = stub.Predict(request(), timeout=WAIT_S)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.CANCELLED:
                    raise
            else:
                assert content(answer) == right
                answered += 1
    return answered


def test_sigterm_under_load_fails_no_accepted_call(servers, tiny_snapshot):
    ended = threading.Event()
    with (
        ThreadPoolExecutor(2 * CALLERS) as callers,  # whatever happens, they end with the servers
        servers.serving(tiny_snapshot, "--set", "logging.format=json") as first,
        servers.serving(tiny_snapshot, "--set", "logging.format=json") as second,
        stub_of(first.address) as stub,
        grpc.insecure_channel(first.address) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
        assert next(watch).status == SERVING
        right = content(stub.Predict(request(), timeout=WAIT_S))
        alone = [callers.submit(call_until_refused, first.address, right) for _ in range(CALLERS)]
        both = f"ipv4:{first.address},{second.address}"
        with_another = [callers.submit(call_until, ended, both, right) for _ in range(CALLERS)]
        try:
            wait_for(lambda: first.measured("ffnsearch_calls_total") > 10 * CALLERS)
            assert "ffnsearch.call" not in second.log.read_text(), "only the first is asked while it is there"
            first.signal(signal.SIGTERM)
            assert [told.status for told in watch] == [NOT_SERVING]
            assert first.wait() == 0
            wait_for(lambda: second.log.read_text().count("\n") > 10 * CALLERS)
        finally:
            ended.set()
        outcomes = [caller.result(WAIT_S) for caller in alone]
        assert {code for _, code in outcomes} <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert all(answered for answered, _ in outcomes)
        answered = 1 + sum(answered for answered, _ in outcomes) + sum(one.result(WAIT_S) for one in with_another)
    taken = Counter(
        line["code"]
        for server in (first, second)
        for line in map(json.loads, server.log.read_text().splitlines())
        if line["message"].startswith("call")
    )
    assert taken == {"OK": answered}, "what a server took, it answered, and the answer arrived"

"""SIGTERM drains a real process in its order, as SIGHUP does; a second one ends it at once; the manager is told."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving import WAIT_S, get

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch.v1 import ffnsearch_pb2_grpc as pb_grpc
from ffnsearch_service.operations.ending import notify

REQUEST = pb.PredictRequest(prompts=[pb.Prompt(text="the people")])
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
HERE = Path(__file__).parent


@contextmanager
def slow_process(snapshot, **environment):
    """A server whose searches run until a line is written to it; gives the process, its address, that of metrics."""
    paths = os.pathsep.join([str(HERE), str(HERE.parent), *sys.path])
    with subprocess.Popen(
        [sys.executable, HERE / "slow_process.py", snapshot],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, **environment},
    ) as process:
        try:
            yield process, *process.stdout.readline().split()
        finally:
            process.kill()


@contextmanager
def call_in_flight(address, metrics):
    """A watch that has said SERVING, and a call that runs; gives the two."""
    with grpc.insecure_channel(address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
        assert next(watch).status == SERVING
        call = pb_grpc.PredictionServiceStub(channel).Predict.future(REQUEST, timeout=WAIT_S)
        deadline = time.monotonic() + WAIT_S
        while "ffnsearch_calls_in_flight 2.0" not in get(metrics, "/metrics")[1]:
            assert time.monotonic() < deadline
        yield watch, call


@pytest.fixture
def manager(tmp_path):
    """A socket such as a service manager listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(WAIT_S)
        yield listening


def refusal(address):
    """The code with which a call on a new connection is refused, once one is."""
    with grpc.insecure_channel(address) as channel:
        while True:
            try:
                pb_grpc.PredictionServiceStub(channel).GetInfo(pb.GetInfoRequest(), timeout=WAIT_S)
            except grpc.RpcError as error:
                return error.code()


def test_sigterm_drains_in_order(tiny_snapshot, manager):
    with (
        slow_process(tiny_snapshot, NOTIFY_SOCKET=manager.getsockname()) as (process, address, metrics),
        call_in_flight(address, metrics) as (watch, call),
    ):
        assert manager.recv(100) == b"READY=1"
        process.send_signal(signal.SIGTERM)
        assert next(watch).status == NOT_SERVING  # first, health
        assert list(watch) == []
        assert manager.recv(100) == b"STOPPING=1"
        assert get(metrics, "/readyz")[0] == 503
        assert refusal(address) is grpc.StatusCode.UNAVAILABLE  # then no call is taken
        assert not call.done()
        assert process.poll() is None
        out, err = process.communicate("go\n", WAIT_S)  # then those in flight, then the snapshot
        assert call.result(WAIT_S).results[0].status == pb.PROMPT_STATUS_OK
    assert (process.returncode, out) == (0, "closed\n")
    told = [json.loads(line) for line in err.splitlines()]
    order = [line["message"].partition(":")[0] for line in told if line.get("method", "Predict").endswith("Predict")]
    assert order == ["draining", "call", "drained"]


def test_a_second_sigterm_ends_at_once(tiny_snapshot):
    with slow_process(tiny_snapshot) as (process, address, metrics), call_in_flight(address, metrics) as (watch, call):
        process.send_signal(signal.SIGTERM)
        assert next(watch).status == NOT_SERVING
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == -signal.SIGTERM
        assert call.code() is grpc.StatusCode.UNAVAILABLE


def test_a_session_that_closes_drains_and_may_say_so_twice(tiny_snapshot):
    with slow_process(tiny_snapshot) as (process, address, metrics), call_in_flight(address, metrics) as (watch, call):
        process.send_signal(signal.SIGHUP)
        assert next(watch).status == NOT_SERVING
        process.send_signal(signal.SIGHUP)
        out, _ = process.communicate("go\n", WAIT_S)
        assert call.result(WAIT_S).results[0].status == pb.PROMPT_STATUS_OK
    assert (process.returncode, out) == (0, "closed\n")


@pytest.fixture
def nohup():
    """What a test starts ignores SIGHUP, as the test then does itself."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_server_under_nohup_goes_on(nohup, tiny_snapshot):
    with slow_process(tiny_snapshot) as (process, address, metrics), call_in_flight(address, metrics) as (watch, call):
        process.send_signal(signal.SIGHUP)
        process.stdin.write("go\n")
        process.stdin.flush()
        assert call.result(WAIT_S).results[0].status == pb.PROMPT_STATUS_OK
        process.terminate()
        assert next(watch).status == NOT_SERVING
        assert process.wait(WAIT_S) == 0, "SIGTERM was its first signal"


def test_an_abstract_socket_is_told_and_nobody_is_no_error(monkeypatch):
    name = f"ffnsearch-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")

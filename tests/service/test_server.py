"""A server is healthy, describes itself, refuses overload, stops work nobody wants, and ends in order."""

import asyncio
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from serving import WAIT_S, server_thread, serving

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch.v1 import ffnsearch_pb2_grpc as pb_grpc
from ffnsearch_service.address import is_loopback, listening_address
from ffnsearch_service.config import ServerConfig
from ffnsearch_service.errors import AddressError
from ffnsearch_service.hosting import run
from ffnsearch_service.names import PREDICTION_SERVICE
from ffnsearch_service.tuning import ARENAS_MAX

REQUEST = pb.PredictRequest(prompts=[pb.Prompt(text="the people")])
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def code_of(call):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code()


HEAPS = """
import ctypes, sys, threading
from ffnsearch_service.tuning import share_heaps

share_heaps()
libc = ctypes.CDLL(None)
libc.fopen.restype = libc.malloc.restype = ctypes.c_void_p
together = threading.Barrier(16)

def take():
    together.wait()
    libc.malloc(1000)
    together.wait()

threads = [threading.Thread(target=take) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the heaps of threads are glibc's")
def test_threads_share_few_heaps(tmp_path):
    subprocess.run([sys.executable, "-c", HEAPS, str(tmp_path / "heaps.xml")], check=True)
    assert 1 <= (tmp_path / "heaps.xml").read_text().count("<heap nr=") <= ARENAS_MAX


@pytest.mark.parametrize("service", ["", PREDICTION_SERVICE])
def test_health_is_serving(channel, service):
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=service)
    assert stub.Check(request).status == SERVING
    watch = stub.Watch(request, timeout=WAIT_S)
    assert next(watch).status == SERVING
    watch.cancel()


def test_reflection_tells_services_and_the_contract(channel):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    ask = reflection_pb2.ServerReflectionRequest
    services, file = stub.ServerReflectionInfo(
        iter([ask(list_services=""), ask(file_containing_symbol=PREDICTION_SERVICE)])
    )
    assert {service.name for service in services.list_services_response.service} == {
        PREDICTION_SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    contract = descriptor_pb2.FileDescriptorProto.FromString(file.file_descriptor_response.file_descriptor_proto[0])
    assert [method.name for method in contract.service[0].method] == [
        "Predict",
        "ListNeighbors",
        "ListClasses",
        "GetInfo",
    ]


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Predict", REQUEST),
        ("ListNeighbors", pb.ListNeighborsRequest(prompt=REQUEST.prompts[0])),
        ("ListClasses", pb.ListClassesRequest(prompt=REQUEST.prompts[0])),
    ],
    ids=["Predict", "ListNeighbors", "ListClasses"],
)
def test_a_passed_deadline_stops_the_work(slow, slow_engine, method, request_):
    with serving(slow_engine) as address, grpc.insecure_channel(address) as channel:
        stub = pb_grpc.PredictionServiceStub(channel)
        for timeout_s in (0.5, 2, WAIT_S / 2):  # a busy machine may not begin before the first has passed
            code = code_of(lambda timeout_s=timeout_s: getattr(stub, method)(request_, timeout=timeout_s))
            assert code is grpc.StatusCode.DEADLINE_EXCEEDED
            if slow.running.is_set():
                break
    assert slow.stopped.wait(WAIT_S)


def test_a_cancelled_call_stops_the_work(slow, slow_engine):
    with serving(slow_engine) as address, grpc.insecure_channel(address) as channel:
        call = pb_grpc.PredictionServiceStub(channel).Predict.future(REQUEST)
        assert slow.running.wait(WAIT_S)
        assert not slow.stopped.is_set()
        call.cancel()
        assert slow.stopped.wait(WAIT_S)


def test_a_call_that_is_cancelled_while_it_waits_never_runs(slow, slow_engine):
    with serving(slow_engine) as address, grpc.insecure_channel(address) as channel:
        stub = pb_grpc.PredictionServiceStub(channel)
        first = stub.Predict.future(REQUEST)
        assert slow.running.wait(WAIT_S)
        assert code_of(lambda: stub.Predict(REQUEST, timeout=0.3)) is grpc.StatusCode.DEADLINE_EXCEEDED
        ends_s = time.monotonic() + WAIT_S
        while slow_engine.batcher.waiting_calls and time.monotonic() < ends_s:
            time.sleep(0.01)
        slow.release.set()
        assert first.result(WAIT_S).results
    assert slow.calls == 1


def test_one_call_too_many_is_refused_and_places_come_back(slow, slow_engine):
    with serving(slow_engine) as address, grpc.insecure_channel(address) as channel:
        stub = pb_grpc.PredictionServiceStub(channel)
        calls = [stub.Predict.future(REQUEST) for _ in range(2)]
        assert slow.running.wait(WAIT_S)
        deadline = time.monotonic() + WAIT_S
        while code_of(lambda: stub.Predict(REQUEST, timeout=0.2)) is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            assert time.monotonic() < deadline
        slow.release.set()
        assert all(call.result(WAIT_S).results for call in calls)
        assert stub.Predict(REQUEST, timeout=WAIT_S).results


def test_info_and_health_answer_while_the_engine_is_busy(slow, slow_engine):
    with serving(slow_engine) as address, grpc.insecure_channel(address) as channel:
        stub = pb_grpc.PredictionServiceStub(channel)
        call = stub.Predict.future(REQUEST)
        assert slow.running.wait(WAIT_S)
        assert stub.GetInfo(pb.GetInfoRequest(), timeout=WAIT_S).snapshot.substrings > 0
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=WAIT_S).status == SERVING
        call.cancel()


def test_the_end_says_so_first_and_lets_running_calls_finish(slow, slow_engine):
    with server_thread(slow_engine) as (address, begin_stop), grpc.insecure_channel(address) as channel:
        call = pb_grpc.PredictionServiceStub(channel).Predict.future(REQUEST)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=PREDICTION_SERVICE))
        assert next(watch).status == SERVING
        assert slow.running.wait(WAIT_S)
        begin_stop()
        assert next(watch).status == NOT_SERVING
        slow.release.set()
        assert call.result(WAIT_S).results[0].status == pb.PROMPT_STATUS_OK


def test_the_end_stops_calls_that_outlast_the_grace(slow, slow_engine):
    config = ServerConfig(port=0, grace_s=0.2)
    with serving(slow_engine, config) as address, grpc.insecure_channel(address) as channel:
        call = pb_grpc.PredictionServiceStub(channel).Predict.future(REQUEST)
        assert slow.running.wait(WAIT_S)
    assert slow.stopped.wait(WAIT_S)
    with pytest.raises(grpc.RpcError):
        call.result(WAIT_S)


def test_many_callers_get_their_own_answers(address):
    texts = ["the people", "First Citi", "my most gr", "hing tremb"] * 6

    async def ask_all():
        async with grpc.aio.insecure_channel(address) as channel:
            stub = pb_grpc.PredictionServiceStub(channel)
            requests = [pb.PredictRequest(prompts=[pb.Prompt(text=text)], include_model=True) for text in texts]
            return await asyncio.gather(*(stub.Predict(request) for request in requests))

    answers = {}
    for text, response in zip(texts, asyncio.run(ask_all()), strict=True):
        assert answers.setdefault(text, response.results[0]) == response.results[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_addresses_are_known(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com", ""])
def test_a_public_address_is_refused_unless_asked_for(host):
    with pytest.raises(AddressError, match="other machines") as caught:
        listening_address(host, 0, insecure_public=False)
    assert caught.value.reason == "PUBLIC_ADDRESS"


def test_a_public_address_is_possible():
    assert listening_address("0.0.0.0", 0, insecure_public=True) == "0.0.0.0:0"


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_does_not_exist_is_refused(port):
    with pytest.raises(AddressError):
        listening_address("127.0.0.1", port, insecure_public=False)


def test_a_port_in_use_is_told_before_the_snapshot_is_read(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressError, match=f"127.0.0.1:{port}.*in use"):
            run(ServerConfig({"missing": tmp_path / "missing"}, port=port), lambda address, engine: None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_process_in_order(tiny_snapshot, number):
    command = [sys.executable, "-m", "ffnsearch_service.cli", "serve", str(tiny_snapshot), "--port", "0"]
    command += ["--set", "logging.level=warning"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        address = line.split()[1].removesuffix(":")
        with grpc.insecure_channel(address) as channel:
            assert pb_grpc.PredictionServiceStub(channel).Predict(REQUEST, timeout=WAIT_S).results
        os.kill(process.pid, number)
        rest, complaints = process.communicate(timeout=WAIT_S)
    assert (process.returncode, rest, complaints) == (0, "", "")
    assert line.startswith("serving 127.0.0.1:")
    assert line.count("\n") == 1


def test_no_thread_is_left_behind(tiny_snapshot, slow_engine):
    before = threading.active_count()
    with serving(slow_engine) as address, grpc.insecure_channel(address) as channel:
        pb_grpc.PredictionServiceStub(channel).GetInfo(pb.GetInfoRequest(), timeout=WAIT_S)
    deadline = time.monotonic() + WAIT_S
    while threading.active_count() > before:
        assert time.monotonic() < deadline, [thread.name for thread in threading.enumerate()]
        time.sleep(0.01)

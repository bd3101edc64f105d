"""Measurements are read over HTTP, and count what happens."""

import socket
import threading
import time
from contextlib import closing, suppress
from http.client import RemoteDisconnected

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import WAIT_S, get, operations_for, serving_with

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch.v1 import ffnsearch_pb2_grpc as pb_grpc
from ffnsearch_service.config import MetricsSettings, ServerConfig
from ffnsearch_service.errors import AddressError
from ffnsearch_service.operations import endpoint
from ffnsearch_service.operations.endpoint import REQUESTS_MAX, Endpoint, Page
from ffnsearch_service.operations.metrics import STAGES, Metrics
from ffnsearch_service.operations.record import CallRecord
from ffnsearch_service.operations.seen import CatalogSeen, SnapshotSeen

METHOD = "ffnsearch.v1.PredictionService/Predict"


def samples(text):
    """Every sample of a scrape, by its name and the values of its labels, whose names are in order."""
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(metrics):
    return samples(metrics.text().decode())


def batches_counted(operations, prompts):
    """A scrape with batches of so many prompts: the engine counts one when its callers have their answers."""
    latest_s = time.monotonic() + WAIT_S
    while True:
        found = samples(get(operations.address, "/metrics")[1])
        if found["ffnsearch_batch_prompts_sum",] == prompts:
            return found
        assert time.monotonic() < latest_s
        time.sleep(0.01)


@pytest.fixture
def metrics():
    return Metrics("1.2.3")


@pytest.fixture
def watched(engine):
    """A server with a port for measurements: its operations and a stub."""
    config = ServerConfig(port=0, grace_s=2, metrics=MetricsSettings(port=0))
    with (
        operations_for(engine, config) as operations,
        serving_with(engine, config, operations) as address,
        grpc.insecure_channel(address) as channel,
    ):
        yield operations, channel


def test_a_scrape_counts_calls_by_method_and_code(watched):
    operations, channel = watched
    stub = pb_grpc.PredictionServiceStub(channel)
    for text in ("the people", "no", "and"):
        stub.Predict(pb.PredictRequest(prompts=[pb.Prompt(text=text)]), timeout=WAIT_S)
    with pytest.raises(grpc.RpcError):
        stub.Predict(pb.PredictRequest(), timeout=WAIT_S)
    with pytest.raises(grpc.RpcError):
        channel.unary_unary(f"/{METHOD}s{'x' * 50}")(b"", timeout=WAIT_S)
    found = batches_counted(operations, 3)
    status, text = get(operations.address, "/metrics")
    assert status == 200
    assert found["ffnsearch_calls_total", "OK", METHOD] == 3
    assert found["ffnsearch_calls_total", "INVALID_ARGUMENT", METHOD] == 1
    assert found["ffnsearch_calls_total", "UNIMPLEMENTED", "unknown"] == 1
    assert found["ffnsearch_call_seconds_count", METHOD] == 4
    assert found["ffnsearch_calls_in_flight",] == 0
    assert [found["ffnsearch_stage_seconds_count", stage] for stage in STAGES] == [3] * 6
    assert found["ffnsearch_stage_seconds_sum", "search"] > 0
    assert found["ffnsearch_queue_calls",] == found["ffnsearch_queue_prompts",] == 0
    assert found["ffnsearch_batch_prompts_sum",] == found["ffnsearch_neighbors_count", "0"] == 3
    assert found["ffnsearch_queue_wait_seconds_count",] == 3
    assert found["ffnsearch_snapshots_open",] == 1
    assert found["ffnsearch_alias_info", "default", "tiny"] == 1
    assert found["process_resident_memory_bytes",] > 1e7
    assert "xxx" not in text


def test_neighbors_are_counted_above_the_lowest_threshold_whatever_the_order_of_the_steps(watched):
    operations, channel = watched
    steps = [pb.ProfileStep(threshold=threshold, weight=1) for threshold in (0.99, -1, 0.5)]
    request = pb.PredictRequest(
        prompts=[pb.Prompt(text="the people")],
        profile=pb.Profile(blocks=[pb.ProfileBlock(steps=steps[:1]), pb.ProfileBlock(steps=steps)]),
    )
    found = pb_grpc.PredictionServiceStub(channel).Predict(request, timeout=WAIT_S).results[0].blocks
    counted = batches_counted(operations, 1)
    expected = [found[0].steps[0].neighbors, found[1].steps[1].neighbors]
    assert [counted["ffnsearch_neighbors_sum", block] for block in "01"] == expected
    assert expected[1] > found[1].steps[2].neighbors > found[1].steps[0].neighbors


def test_liveness_and_readiness(watched):
    operations, _ = watched
    assert get(operations.address, "/livez") == (200, "alive\n")
    assert get(operations.address, "/readyz?verbose") == (200, "ready\n")
    operations.see(CatalogSeen({}, {}))
    assert get(operations.address, "/readyz") == (503, "not ready\n")
    operations.see(CatalogSeen({"tiny": SnapshotSeen("id", 1, "tiles")}, {}))
    assert get(operations.address, "/readyz")[0] == 200
    assert get(operations.address, "/elsewhere") == (404, "try /metrics, /livez, /readyz\n")


def test_measurements_are_read_over_ipv6_too():
    try:
        listening = Endpoint("::1", 0, {"/livez": lambda: Page(200, "text/plain", b"alive\n")})
    except OSError:
        pytest.skip("this machine has no IPv6")
    with closing(listening):
        assert get(listening.address, "/livez") == (200, "alive\n")


def test_connections_that_say_nothing_hold_up_nobody_for_long(watched):
    operations, _ = watched
    host, _, port = operations.address.rpartition(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(3 * REQUESTS_MAX)]
    try:
        deadline = time.monotonic() + WAIT_S
        for connection in silent[REQUESTS_MAX:]:  # one too many is closed at once, or shortly after
            connection.settimeout(deadline - time.monotonic())
            assert connection.recv(1) == b""
    finally:
        for connection in silent:
            connection.close()
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            assert get(operations.address, "/livez")[0] == 200
            break
        except OSError:
            assert time.monotonic() < deadline


def test_connections_for_which_there_was_no_thread_keep_no_place(monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    with closing(Endpoint("127.0.0.1", 0, {"/livez": lambda: Page(200, "text/plain", b"alive\n")})) as served:
        with monkeypatch.context() as without_threads:
            without_threads.setattr(threading.Thread, "start", refuse)
            for _ in range(REQUESTS_MAX):
                with pytest.raises(OSError):  # noqa: PT011 - closed or reset, whichever is seen first
                    get(served.address, "/livez")
        assert get(served.address, "/livez") == (200, "alive\n")


def test_connections_that_say_something_for_ever_are_cut(watched, monkeypatch):
    monkeypatch.setattr(endpoint, "CONNECTION_S_MAX", 0.3)
    host, _, port = watched[0].address.rpartition(":")
    deadline = time.monotonic() + WAIT_S
    with socket.create_connection((host, int(port))) as trickling, suppress(OSError):
        while time.monotonic() < deadline:
            trickling.sendall(b"x")
            time.sleep(0.05)
    assert time.monotonic() < deadline


def test_a_page_that_cannot_be_made_is_told(caplog):
    with closing(Endpoint("127.0.0.1", 0, {"/livez": lambda: 1 / 0})) as broken:
        with pytest.raises(RemoteDisconnected):
            get(broken.address, "/livez")
        assert get(broken.address, "/elsewhere")[0] == 404
    assert [record.message for record in caplog.records] == ["a page could not be made"]


def test_the_engine_and_the_catalog_are_counted(metrics):
    metrics.watch_queue(lambda: 3, lambda: 70)
    metrics.taken([0.02])
    metrics.batched(2, 64, 640)
    metrics.found(0, [0, 1, 10, 11])
    metrics.found(0, [10**9])
    one, two = SnapshotSeen("1234", 500, "tiles"), SnapshotSeen("5678", 600, "exact")
    metrics.see(CatalogSeen({"a": one, "b": two}, {"default": "b", "old": "a"}))
    found = scrape(metrics)
    assert found["ffnsearch_queue_calls",] == 3
    assert found["ffnsearch_queue_prompts",] == 70
    assert found["ffnsearch_queue_wait_seconds_bucket", "0.025"] == 1
    assert found["ffnsearch_queue_wait_seconds_bucket", "0.01"] == 0
    assert found["ffnsearch_batch_prompts_bucket", "64.0"] == 1
    assert found["ffnsearch_batch_prompts_bucket", "32.0"] == 0
    assert found["ffnsearch_tokens_total",] == 640
    edges = ("0.0", "1.0", "10.0", "100.0", "+Inf")
    assert [found["ffnsearch_neighbors_bucket", "0", edge] for edge in edges] == [1, 2, 3, 4, 5]
    assert found["ffnsearch_neighbors_count", "0"] == 5
    assert found["ffnsearch_neighbors_sum", "0"] == 10**9 + 22
    assert found["ffnsearch_snapshot_substrings", "exact", "b", "5678"] == 600
    assert found["ffnsearch_build_info", "1.2.3"] == 1
    metrics.see(CatalogSeen({"b": two}, {"default": "b"}))
    assert ("ffnsearch_snapshot_substrings", "tiles", "a", "1234") not in scrape(metrics)
    assert ("ffnsearch_alias_info", "old", "a") not in scrape(metrics)
    assert scrape(metrics)["ffnsearch_snapshots_open",] == 1


def test_a_stream_is_counted_and_not_timed(metrics):
    record = CallRecord("id", "grpc.health.v1.Health/Watch", code="CANCELLED", duration_s=3600)
    metrics.begun()
    metrics.ended(record, is_unary=False)
    found = scrape(metrics)
    assert found["ffnsearch_calls_total", "CANCELLED", record.method] == 1
    assert ("ffnsearch_call_seconds_count", record.method) not in found


def test_two_servers_count_apart(metrics):
    metrics.batched(1, 7, 70)
    assert scrape(metrics)["ffnsearch_tokens_total",] == 70
    assert scrape(Metrics("1"))["ffnsearch_tokens_total",] == 0


def test_measurements_are_for_this_machine_unless_asked_for(engine):
    with pytest.raises(AddressError, match=r"other machines, by anyone: set metrics\.host to 127\.0\.0\.1"):
        operations_for(engine, ServerConfig(metrics=MetricsSettings("0.0.0.0", 0)))

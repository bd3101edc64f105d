"""What callers and balancers are told when the GPU of a server fails, and when the CPU takes its place."""

import grpc
import pytest
import torch
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from serving import get, operations_for, serving_with

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch.v1 import ffnsearch_pb2_grpc as pb_grpc
from ffnsearch_indexer.answer import backends
from ffnsearch_indexer.answer import predictor as predicting
from ffnsearch_indexer.answer.backends import BACKENDS, Backend
from ffnsearch_indexer.index.exact import ExactIndex
from ffnsearch_service.answering.engine import Engine
from ffnsearch_service.config import MetricsSettings, ServerConfig
from ffnsearch_service.names import PREDICTION_SERVICE
from tiny import model_on_cpu

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
GONE = torch.AcceleratorError("CUDA error: unspecified launch failure")
REQUEST = pb.PredictRequest(prompts=[pb.Prompt(text="the people")])
CONFIG = ServerConfig(port=0, grace_s=2, metrics=MetricsSettings(port=0))


class FaultyIndex(ExactIndex):
    failure = None

    def range_sum(self, *arguments, **options):
        if FaultyIndex.failure:
            raise FaultyIndex.failure
        return super().range_sum(*arguments, **options)


@pytest.fixture(autouse=True)
def _gpu(monkeypatch):
    """A machine with a GPU, whose backend `kernel` fails once `FaultyIndex.failure` is set."""

    def open_kernel(datastore, device):
        return [FaultyIndex(keys, datastore.counts) for keys in datastore.keys]

    monkeypatch.setattr(backends, "BACKENDS", {"kernel": Backend(open_kernel, devices=("cuda",)), **BACKENDS})
    monkeypatch.setattr(backends, "cuda_problem", lambda: None)
    monkeypatch.setattr(predicting, "DeviceModel", model_on_cpu)
    monkeypatch.setattr(FaultyIndex, "failure", None)


def refusal(stub):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(REQUEST)
    info = error_details_pb2.ErrorInfo()
    rpc_status.from_call(caught.value).details[0].Unpack(info)
    return caught.value.code(), info.reason


def test_a_gpu_that_was_asked_for_fails_with_its_reason_and_health_says_when_it_is_gone(tiny_snapshot):
    with (
        Engine.open(tiny_snapshot, device="cuda", check="sizes") as engine,
        operations_for(engine, CONFIG) as operations,
        serving_with(engine, CONFIG, operations) as address,
        grpc.insecure_channel(address, options=[("grpc.enable_retries", 0)]) as channel,
    ):
        stub, health = pb_grpc.PredictionServiceStub(channel), health_pb2_grpc.HealthStub(channel)

        def status(service):
            return health.Check(health_pb2.HealthCheckRequest(service=service)).status

        answered = stub.Predict(REQUEST)
        assert answered.backend == "kernel"
        FaultyIndex.failure = FULL
        assert refusal(stub) == (grpc.StatusCode.UNAVAILABLE, "DEVICE_MEMORY")
        assert [status(service) for service in ("", PREDICTION_SERVICE, "snapshot/tiny")] == [SERVING] * 3
        FaultyIndex.failure = None
        assert stub.Predict(REQUEST).results == answered.results
        FaultyIndex.failure = GONE
        assert refusal(stub) == (grpc.StatusCode.UNAVAILABLE, "DEVICE_FAILED")
        assert [status(service) for service in ("", PREDICTION_SERVICE, "snapshot/tiny")] == [NOT_SERVING] * 3
        assert get(operations.address, "/readyz")[0] == 503
        assert get(operations.address, "/livez")[0] == 200


def test_the_cpu_takes_over_and_everybody_is_told_its_name(tiny_snapshot):
    with (
        Engine.open(tiny_snapshot, check="sizes") as engine,
        operations_for(engine, CONFIG) as operations,
        serving_with(engine, CONFIG, operations) as address,
        grpc.insecure_channel(address) as channel,
    ):
        stub = pb_grpc.PredictionServiceStub(channel)
        assert (stub.Predict(REQUEST).backend, stub.GetInfo(pb.GetInfoRequest()).backend) == ("kernel", "kernel")
        FaultyIndex.failure = GONE
        answered = stub.Predict(REQUEST)
        assert (answered.backend, stub.GetInfo(pb.GetInfoRequest()).backend) == ("tiles", "tiles")
        with Engine.open(tiny_snapshot, backend="exact", device="cpu", check="sizes") as exact:
            assert exact.predict(REQUEST).results == answered.results
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(service=PREDICTION_SERVICE)).status == SERVING

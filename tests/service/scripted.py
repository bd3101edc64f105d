"""A server for tests of clients: it fails as often as it is told to, answers the rest, and keeps what it was sent."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch.v1 import ffnsearch_pb2_grpc as pb_grpc


def busy(retry_after_s: float) -> status_pb2.Status:
    """The status of a server that is busy, and says when to come back."""
    details = [
        error_details_pb2.ErrorInfo(reason="OVERLOADED", domain="ffnsearch", metadata={"reason": "a", "message": "b"}),
        error_details_pb2.RetryInfo(retry_delay=_duration(retry_after_s)),
    ]
    return status_pb2.Status(
        code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], message="busy", details=[_pack(one) for one in details]
    )


class Scripted(pb_grpc.PredictionServiceServicer, health_pb2_grpc.HealthServicer):
    """Fails the first calls with the codes and statuses of `failures`, then answers. Keeps metadata and requests."""

    def __init__(self, *failures: grpc.StatusCode | status_pb2.Status) -> None:
        self.failures = list(failures)
        self.metadata: list[dict[str, str]] = []
        self.requests: list[Any] = []
        self.health = ["SERVING"]

    @property
    def attempts(self) -> int:
        return len(self.requests)

    def Predict(self, request: pb.PredictRequest, context: grpc.ServicerContext) -> pb.PredictResponse:
        self._receive(request, context)
        results = [pb.PromptResult(status=pb.PROMPT_STATUS_NO_SUPPORT) for _ in request.prompts]
        return pb.PredictResponse(snapshot_id="scripted", results=results, timings=pb.Timings(total_ns=1_000))

    def GetInfo(self, request: pb.GetInfoRequest, context: grpc.ServicerContext) -> pb.GetInfoResponse:
        self._receive(request, context)
        return pb.GetInfoResponse(backend="scripted")

    def ListNeighbors(self, request: Any, context: grpc.ServicerContext) -> pb.ListNeighborsResponse:
        self._receive(request, context)
        return pb.ListNeighborsResponse()

    def ListClasses(self, request: Any, context: grpc.ServicerContext) -> pb.ListClassesResponse:
        self._receive(request, context)
        return pb.ListClassesResponse()

    def Check(self, request: Any, context: grpc.ServicerContext) -> health_pb2.HealthCheckResponse:
        self._receive(request, context)
        status = self.health.pop(0) if len(self.health) > 1 else self.health[0]
        return health_pb2.HealthCheckResponse(status=status)

    def _receive(self, request: Any, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        failure = self.failures.pop(0) if self.failures else None
        if isinstance(failure, grpc.StatusCode):
            context.abort(failure, "as told")
        if failure is not None:
            context.abort_with_status(rpc_status.to_status(failure))


@contextmanager
def scripted_server(
    servicer: Scripted, *, port: int = 0, credentials: grpc.ServerCredentials | None = None
) -> Iterator[str]:
    """Serve on loopback; yields the address."""
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    pb_grpc.add_PredictionServiceServicer_to_server(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    where = f"127.0.0.1:{port}"
    bound = server.add_secure_port(where, credentials) if credentials else server.add_insecure_port(where)
    server.start()
    try:
        yield f"127.0.0.1:{bound}"
    finally:
        server.stop(0).wait()


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration


def _pack(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed

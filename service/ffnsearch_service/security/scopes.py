"""Which scope does a method require? (method -> scope)."""

from ffnsearch_service.names import ADMIN_SERVICE, OPERATIONS_SERVICE, PREDICTION_SERVICE
from ffnsearch_service.security.tokens import ADMIN, READ

OPEN_METHODS = frozenset({"/grpc.health.v1.Health/Check"})
"""What anybody may call: whether a name is served. An orchestrator's probe has no token, and learns nothing else."""

_SCOPE_OF_SERVICE = {
    PREDICTION_SERVICE: READ,
    "grpc.health.v1.Health": READ,
    "grpc.reflection.v1.ServerReflection": READ,
    "grpc.reflection.v1alpha.ServerReflection": READ,
    ADMIN_SERVICE: ADMIN,
    OPERATIONS_SERVICE: ADMIN,
}


def scope_of(method: str) -> str | None:
    """The scope that `/package.Service/Method` requires, None for an open one; what is not listed requires `admin`."""
    if method in OPEN_METHODS:
        return None
    service, _, _ = method.removeprefix("/").rpartition("/")
    return _SCOPE_OF_SERVICE.get(service, ADMIN)

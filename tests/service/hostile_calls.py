"""Which calls does a hostile caller make? (seed and number -> a call; the same ones in every run).

Calls of all methods, on messages that were valid before somebody changed fields, bits or lengths. Beside them are calls
that gRPC's own clients can make wrong: of methods that are not there, with metadata, deadlines, compression or streams
that nobody expects. What they cannot send is in `hostile_connections.py`.
"""

import math
import random
import string
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from ffnsearch.v1 import admin_pb2, ffnsearch_pb2

MARK = "Zounds"
"""Is in every prompt, and so in no line of the log."""
DEADLINE_S = 30.0
"""Of calls that are not about deadlines."""
BRIEF_S = 0.3
"""Of calls that may wait for a request that never comes."""
MIB = 1 << 20

_PREDICTION, _ADMIN = "/ffnsearch.v1.PredictionService/", "/ffnsearch.v1.AdminService/"
_OPERATIONS, _HEALTH = "/google.longrunning.Operations/", "/grpc.health.v1.Health/"
_REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
KEPT = {"tiny", "default"}
"""Names that no call may take away: with them, valid prompts are answered between the rounds."""

_TEXTS = (MARK, f"{MARK} the people", f"And only l{MARK}", "", f"{MARK}\0", f"{MARK} \u00e9\u4e2d\U0001f600", "\u202e")
_NAMES = ("tiny", "default", "second", "other", "built", "a", "a" * 63, "a" * 64, "A", "-", "a-", "", " tiny", "tiny\n")
_PATHS = (
    "../tiny.ffn", "..", ".", "/etc/passwd", "tiny.ffn/../../state", "a//b", "link", "link/passwd", "link/ssl", "~root",
    "tiny.ffn", "second.ffn", "novel.txt", "second.ffn/manifest.json", "%2e%2e/x", "..\\x", "$(id)", "tiny.ffn\0x",
    "x" * 300, "/".join("abcdefghi"), "\nERROR forged line", "file:///etc/passwd", "\u2025/tiny.ffn",
)  # fmt: skip
_OPERATION_NAMES = ("operations/", "operations/../x", "operations/0", "operations/%00", "operations", "x/y/z", "//")
_TOKENS = ("AAAAAAAAAAEAAAAAAAAAAAAAAAAAAAAA", "====", "A", "\u00e9", "dGlueQ==", "-_-_", "A" * 4000)
_INTEGERS = (
    0,
    1,
    -1,
    2,
    3,
    10,
    64,
    65,
    200,
    1000,
    1024,
    4096,
    20_000,
    2**31 - 1,
    -(2**31),
    2**32 - 1,
    2**63 - 1,
    -(2**63),
)
_REALS = (0.0, 1.0, -1.0, 0.5, 0.9, 0.99, -0.0, 1.0000001, -1.0000001, 2.0, 1e-300, 5e-324, 1e308, -1e308)
_NO_NUMBERS = (float("nan"), float("inf"), float("-inf"))
_COUNTS = (0, 1, 2, 3, 7, 70)
_HUGE_COUNTS = (1025, 5000, 30_000)


@dataclass(frozen=True)
class Call:
    """One call. kind: what is wrong with it. leave_s: when the caller goes away, None if never."""

    kind: str
    method: str
    requests: tuple[bytes, ...]
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    deadline_s: float = DEADLINE_S
    leave_s: float | None = None
    is_gzip: bool = False
    is_stream: bool = False

    def told(self) -> str:
        """Everything that it takes to send it again."""
        shown = [data[:2000].hex() + ("..." if len(data) > 2000 else "") for data in self.requests]
        return f"{self.kind} {self.method} metadata={self.metadata!r} deadline_s={self.deadline_s} requests={shown}"


def hostile_call(seed: int, number: int) -> Call:
    """The call of this number."""
    rng = random.Random(f"call {seed} {number}")
    kind = rng.choices(list(_KINDS), [weight for weight, _ in _KINDS.values()])[0]
    return _KINDS[kind][1](kind, rng)


_VECTOR = struct.pack("<32f", *range(32))
_VECTORS = (
    _VECTOR,
    b"",
    bytes(4 * 32),
    _VECTOR[:-1],
    _VECTOR * 1000,
    struct.pack("<32f", math.nan, *[math.inf] * 31),
    struct.pack("<32f", *[3e38, 1e-45] * 16),
)
"""Queries of the block of a model whose d_model is 32, and what is none."""


def _templates() -> dict[str, list[Message]]:
    """For each method, requests that would be answered."""
    pb, admin, operations = ffnsearch_pb2, admin_pb2, operations_pb2
    prompts = [
        pb.Prompt(text="the people"),
        pb.Prompt(tokens=pb.TokenIds(ids=[13, 52, 42])),
        pb.Prompt(queries=pb.Queries(blocks=[_VECTOR, _VECTOR])),
    ]
    steps = [pb.ProfileBlock(steps=[pb.ProfileStep(threshold=t, weight=1) for t in (0.5, 0.9)]) for _ in range(2)]
    product = pb.Profile(kind=pb.PROFILE_KIND_PRODUCT, blocks=steps, prior_weight=1, token_bias=[0.0] * 65)
    expected = pb.Profile(blocks=steps, expectation=pb.ProfileExpectation(support=[1, 2], distance=[0.5, 0.1]))
    adding = ("dense", "include_model", "include_frequencies", "include_contributions", "include_queries")
    everything = dict.fromkeys(adding, True)
    one = prompts[0]
    return {
        f"{_PREDICTION}Predict": [
            pb.PredictRequest(prompts=prompts),
            pb.PredictRequest(prompts=prompts[:1], profile=expected, **everything),
            pb.PredictRequest(prompts=prompts[1:], profile=product, snapshot="tiny", top_n=3),
        ],
        f"{_PREDICTION}ListNeighbors": [
            pb.ListNeighborsRequest(prompt=prompt, block=1, threshold=0.5, page_size=3) for prompt in (one, prompts[2])
        ],
        f"{_PREDICTION}ListClasses": [pb.ListClassesRequest(prompt=one, block=1, threshold=0.5, min_share=0.5)],
        f"{_PREDICTION}GetInfo": [pb.GetInfoRequest(snapshot="tiny")],
        f"{_ADMIN}ListSnapshots": [admin.ListSnapshotsRequest(page_size=1)],
        f"{_ADMIN}GetSnapshot": [admin.GetSnapshotRequest(name="default")],
        f"{_ADMIN}LoadSnapshot": [admin.LoadSnapshotRequest(name="second", folder="second.ffn")],
        f"{_ADMIN}UnloadSnapshot": [admin.UnloadSnapshotRequest(name="second")],
        f"{_ADMIN}ListAliases": [admin.ListAliasesRequest(page_size=1)],
        f"{_ADMIN}GetAlias": [admin.GetAliasRequest(name="default")],
        f"{_ADMIN}MoveAlias": [
            admin.MoveAliasRequest(name="other", snapshot_name="tiny", allow_missing=True),
            admin.MoveAliasRequest(
                name="other",
                snapshot_name="second",
                etag="x",
                fidelity_gate=admin.FidelityGate(protocol="held_out", hellinger_mean_max=0.5),
            ),
        ],
        f"{_ADMIN}DeleteAlias": [admin.DeleteAliasRequest(name="other")],
        f"{_ADMIN}BuildSnapshot": [
            admin.BuildSnapshotRequest(name="built", corpus="novel.txt", model="tiny", calibration_prompts=0)
        ],
        f"{_OPERATIONS}ListOperations": [operations.ListOperationsRequest(name="operations", page_size=1)],
        f"{_OPERATIONS}GetOperation": [operations.GetOperationRequest(name="operations/0")],
        f"{_OPERATIONS}CancelOperation": [operations.CancelOperationRequest(name="operations/0")],
        f"{_OPERATIONS}DeleteOperation": [operations.DeleteOperationRequest(name="operations/0")],
        f"{_OPERATIONS}WaitOperation": [operations.WaitOperationRequest(name="operations/0")],
        f"{_HEALTH}Check": [health_pb2.HealthCheckRequest(service="snapshot/tiny")],
        f"{_HEALTH}List": [health_pb2.HealthListRequest()],
    }


_TEMPLATES = _templates()
METHODS = tuple(_TEMPLATES)
_SHARES = [30, 10, 6, 3, *([2] * (len(METHODS) - 4))]
"""How often each method is called: most of what is wrong can be wrong with Predict."""


def _method(rng: random.Random) -> str:
    return rng.choices(METHODS, _SHARES)[0]


def _valid(rng: random.Random, method: str) -> Message:
    message = rng.choice(_TEMPLATES[method])
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _changed(kind: str, rng: random.Random) -> Call:
    """Fields at their limits, beyond them, and with what is no value for them at all."""
    method = _method(rng)
    message = _valid(rng, method)
    for _ in range(rng.randint(1, 4)):
        _change(rng, message)
    return _spared(Call(kind, method, (message.SerializeToString(),)))


def _change(rng: random.Random, message: Message) -> None:
    """Change one field of a message, or of a message in it."""
    below = [value for field, value in message.ListFields() if field.message_type and not _repeated(field)]
    below += [
        item for field, value in message.ListFields() if field.message_type and _repeated(field) for item in value
    ]
    if below and rng.random() < 0.6:
        return _change(rng, rng.choice(below))
    field = rng.choice(message.DESCRIPTOR.fields) if message.DESCRIPTOR.fields else None
    if field is None:
        return None
    if _repeated(field):
        count = rng.choice(_HUGE_COUNTS if rng.random() < 0.02 else _COUNTS)
        message.ClearField(field.name)
        if field.message_type:
            for _ in range(count):
                getattr(message, field.name).add()
        else:
            values = [_value(rng, field) for _ in range(min(count, 3))]
            getattr(message, field.name).extend((values * count)[:count])
    elif field.message_type:
        getattr(message, field.name).SetInParent()
    else:
        setattr(message, field.name, _value(rng, field))
    return None


def _repeated(field: FieldDescriptor) -> bool:
    return bool(field.is_repeated)


def _value(rng: random.Random, field: FieldDescriptor) -> Any:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return rng.choice(_VECTORS)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return _string(rng, field.name)
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return rng.choice(_NO_NUMBERS) if rng.random() < 0.1 else rng.choice(_REALS)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return rng.random() < 0.5
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return rng.choice((0, 1, 2, 3, 99, -1))
    low, high = _RANGES[field.cpp_type]
    return rng.choice([value for value in _INTEGERS if low <= value <= high])


_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
}


def _string(rng: random.Random, name: str) -> str:
    if name == "text":
        return rng.choice(_TEXTS) * (rng.choice((1, 1, 10, 700)))
    if rng.random() < 0.1:
        return rng.choice((MARK, MARK * 100, _random_text(rng)))
    own = {"page_token": _TOKENS, "folder": _PATHS, "corpus": _PATHS, "model": _PATHS}.get(name, _NAMES)
    return rng.choice(rng.choice((own, own, _NAMES, _PATHS, _OPERATION_NAMES)))


def _random_text(rng: random.Random) -> str:
    return "".join(rng.choices(string.printable + "\0\x1b\u00e9\u2028\ufffe\U0010ffff", k=rng.randint(1, 100)))


def _flipped(kind: str, rng: random.Random) -> Call:
    """A valid message with some bits flipped."""
    method = _method(rng)
    data = bytearray(_valid(rng, method).SerializeToString())
    for _ in range(rng.randint(1, 5) if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return _spared(Call(kind, method, (bytes(data),)))


def _truncated(kind: str, rng: random.Random) -> Call:
    """A valid message that ends too early, or goes on."""
    method = _method(rng)
    data = _valid(rng, method).SerializeToString()
    cut = data[: rng.randrange(len(data) + 1)] if rng.random() < 0.7 else data + rng.randbytes(rng.randint(1, 30))
    return _spared(Call(kind, method, (cut,)))


def _noise(kind: str, rng: random.Random) -> Call:
    """No message at all."""
    return _spared(Call(kind, _method(rng), (rng.randbytes(rng.choice((0, 1, 2, 5, 50, 500, 20_000))),)))


def _undecodable(kind: str, rng: random.Random) -> Call:
    """Strings that are no UTF-8."""
    method = _method(rng)
    message = _valid(rng, method)
    fields = [field for field in message.DESCRIPTOR.fields if field.cpp_type == FieldDescriptor.CPPTYPE_STRING]
    text = rng.choice((b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", b"tiny\x80", b"\xf4\x90\x80\x80"))
    number = rng.choice(fields).number if fields else 1
    return _spared(Call(kind, method, (message.SerializeToString() + _tagged(number, 2, _delimited(text)),)))


def _unknown_fields(kind: str, rng: random.Random) -> Call:
    """Fields that the method does not know, or knows by another type; messages in messages without end; groups."""
    method = _method(rng)
    extra = rng.choice((
        _tagged(rng.randint(1, 2**29 - 1), 0, b"\xff" * 9 + b"\x01"),
        _tagged(rng.randint(1, 20), rng.randrange(8), rng.randbytes(rng.randint(0, 12))),
        _tagged(rng.randint(1, 20), 2, _varint(2 ** rng.choice((20, 31, 32, 63)))),
        b"\x0b" * rng.choice((1, 50, 5000)),
        b"\x00" * 10,
        rng.choice(_NESTED),
    ))  # fmt: skip
    return _spared(Call(kind, method, (_valid(rng, method).SerializeToString() + extra,)))


def _spliced(kind: str, rng: random.Random) -> Call:
    """The request of one method for another, or two requests in one: fields that exclude each other are both there."""
    method, other = _method(rng), _method(rng)
    parts = [_valid(rng, other).SerializeToString() for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.5:
        parts += [_valid(rng, method).SerializeToString(), parts[0]]
    return _spared(Call(kind, method, (b"".join(parts),)))


def _unknown_method(kind: str, rng: random.Random) -> Call:
    """Methods and services that are not there."""
    names = ("Predict", "predict", "", "..", MARK, "Predict/", "%2e", "a" * 1000, "GetInfo\u00e9", "Watch ", "*")
    services = (
        _PREDICTION,
        _ADMIN,
        _OPERATIONS,
        _HEALTH,
        "/",
        "//",
        "/ffnsearch.v2.PredictionService/",
        "/../",
        f"/{MARK}/",
    )
    method = rng.choice(services) + rng.choice(names)
    return Call(kind, f"{method}x" if method in METHODS else method, (b"",))


def _metadata(kind: str, rng: random.Random) -> Call:
    """Metadata that is large, binary, repeated, or pretends to be something."""
    method = _method(rng)
    some: tuple[tuple[str, str | bytes], ...] = rng.choice((
        (("x-request-id", rng.choice(("short", "a" * 65, "forged line level=ERROR", "good-enough-id"))),),
        (("traceparent", rng.choice(("00-0-0-0", "x" * 200, "00-" + "0" * 32 + "-" + "0" * 16 + "-01"))),),
        (("authorization", rng.choice(("Bearer", "Bearer ", "Basic x", f"Bearer {MARK}", "bearer ffn_a"))),),
        (("authorization", "Bearer a"), ("authorization", "Bearer b")),
        (("any-bin", rng.randbytes(rng.choice((0, 1, 300)))), ("grpc-trace-bin", rng.randbytes(7)), ("x-bin", b"\0")),
        tuple((f"x-{number}", "y") for number in range(rng.choice((10, 60)))),
        (("x-large", "y" * rng.choice((4000, 7000, 8200, 20_000, 200_000))),),
        (("grpc-tags-bin", rng.randbytes(20)), ("x-forwarded-for", "127.0.0.1"), ("cookie", "a=b"), ("host", "evil")),
    ))  # fmt: skip
    return _spared(Call(kind, method, (_valid(rng, method).SerializeToString(),), metadata=some))


def _late(kind: str, rng: random.Random) -> Call:
    """Deadlines that have passed, or nearly; waits for an eternity by who does not wait."""
    method = _method(rng)
    deadline_s = rng.choice((0.0, 1e-9, 0.0005, 0.002, 0.01, 1e7))
    return _spared(Call(kind, method, (_valid(rng, method).SerializeToString(),), deadline_s=deadline_s))


def _leaving(kind: str, rng: random.Random) -> Call:
    """Callers who go away."""
    method = _method(rng)
    leave_s = rng.choice((0.0, 0.0, 0.001, 0.005))
    return _spared(Call(kind, method, (_valid(rng, method).SerializeToString(),), leave_s=leave_s))


def _compressed(kind: str, rng: random.Random) -> Call:
    """Compressed requests; some hold a thousand times what they seem to."""
    method = _method(rng)
    data = bytes(64 * MIB) if rng.random() < 0.005 else _valid(rng, method).SerializeToString()
    return _spared(Call(kind, method, (data,), is_gzip=True))


def _large(kind: str, rng: random.Random) -> Call:
    """As large as a message may be, and larger."""
    text = MARK * rng.choice((1000, 100_000, 700_000))
    request = ffnsearch_pb2.PredictRequest(
        prompts=[ffnsearch_pb2.Prompt(text=text)], snapshot=text[: rng.choice((0, 9))]
    )
    return Call(kind, rng.choice((f"{_PREDICTION}Predict", f"{_PREDICTION}GetInfo")), (request.SerializeToString(),))


def _streamed(kind: str, rng: random.Random) -> Call:
    """No request, or several, where one is expected; streams that are read once; reflection of nonsense."""
    if rng.random() < 0.5:
        method = _method(rng)
        requests = tuple(_valid(rng, method).SerializeToString() for _ in range(rng.choice((0, 2, 20))))
        return _spared(Call(kind, method, requests, deadline_s=BRIEF_S, is_stream=True))
    if rng.random() < 0.3:
        watched = health_pb2.HealthCheckRequest(service=rng.choice(("", "snapshot/tiny", MARK))).SerializeToString()
        return Call(kind, f"{_HEALTH}Watch", (watched,), leave_s=rng.choice((0.0, 0.01)), is_stream=True)
    asked = reflection_pb2.ServerReflectionRequest
    nonsense = (
        asked(file_by_filename=rng.choice(_PATHS)),
        asked(file_containing_symbol=MARK),
        asked(all_extension_numbers_of_type="ffnsearch.v1.Prompt"),
        asked(file_containing_extension=reflection_pb2.ExtensionRequest(containing_type="x", extension_number=-1)),
        asked(list_services=MARK),
        asked(),
    )
    requests = tuple(rng.choice(nonsense).SerializeToString() for _ in range(rng.randint(0, 4)))
    noise = (rng.randbytes(20),) if rng.random() < 0.3 else ()
    return Call(kind, _REFLECTION, requests + noise, deadline_s=BRIEF_S, is_stream=True)


def _tagged(number: int, wire_type: int, value: bytes) -> bytes:
    return _varint(number << 3 | wire_type) + value


def _delimited(data: bytes) -> bytes:
    return _varint(len(data)) + data


def _varint(value: int) -> bytes:
    written = bytearray()
    while value >= 128:
        written.append(value % 128 + 128)
        value //= 128
    return bytes([*written, value])


def _nested(number: int, depth: int) -> bytes:
    """A message in a message, and so on."""
    data = b""
    for _ in range(depth):
        data = _tagged(number, 2, _delimited(data))
    return data


_NESTED = [_nested(number, depth) for number in (1, 3, 12) for depth in (50, 99, 101, 1000)]

_KINDS: dict[str, tuple[float, Callable[[str, random.Random], Call]]] = {
    "changed fields": (40, _changed),
    "flipped bits": (10, _flipped),
    "truncated or prolonged": (8, _truncated),
    "random bytes": (8, _noise),
    "text that is no UTF-8": (5, _undecodable),
    "unknown fields": (8, _unknown_fields),
    "spliced requests": (5, _spliced),
    "unknown methods": (3, _unknown_method),
    "odd metadata": (4, _metadata),
    "absurd deadlines": (3, _late),
    "callers who leave": (2, _leaving),
    "compressed": (2, _compressed),
    "too large": (0.15, _large),
    "streams": (3, _streamed),
}
"""What is wrong, and how often."""


def _spared(call: Call) -> Call:
    """The call, or a harmless one in its place where it would end what valid callers are answered from."""
    template = _TEMPLATES[call.method][0]
    for data in call.requests:
        try:
            request: Any = type(template).FromString(data)
        except DecodeError:
            continue
        method = call.method.rpartition("/")[2]
        ends = method in ("UnloadSnapshot", "MoveAlias", "DeleteAlias") and request.name in KEPT
        if ends or (method == "BuildSnapshot" and request.alias in KEPT):
            return Call(call.kind, f"{_ADMIN}GetSnapshot", call.requests, call.metadata, call.deadline_s)
    return call

"""What does a hostile caller do to a connection that no client of gRPC would do? (seed and number -> an attack).

Bytes at random, other protocols, calls with headers and frames by hand, and the known floods. Each attack is bounded:
a few thousand frames, a second or two of waiting. `HEADER_TABLE` asks the server not to compress its headers, so that
the codes of its answers can be read without a decoder.
"""

import random
import re
import socket
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from hostile_calls import MARK, hostile_call
from hostile_server import Server
from raw_http2 import (
    ACK,
    CONTINUATION,
    DATA,
    EMPTY_MESSAGE,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    Frame,
    RawConnection,
    header_block,
)

PRIORITY, PUSH_PROMISE, WINDOW_UPDATE = 2, 5, 8
HEADER_TABLE = struct.pack(">HI", 1, 0)
PREDICT, INFO = "/ffnsearch.v1.PredictionService/Predict", "/ffnsearch.v1.PredictionService/GetInfo"
ANSWER_S, LOOK_S = 0.4, 0.03
"""How long answers are waited for; how long it is looked whether a broken connection says something."""
_STATUS = re.compile(rb"grpc-status[\x01\x02](\d{1,2})")
_DETAILS = re.compile(rb"grpc-message(.*)", re.DOTALL)


@dataclass(frozen=True)
class Seen:
    """What came of an attack. codes: numbers of gRPC's codes in its answers. text: all that the server wrote."""

    kind: str
    sent: int
    codes: tuple[int, ...] = ()
    text: bytes = b""


def attack(server: Server, seed: int, number: int) -> Seen:
    """Do what has this number."""
    rng = random.Random(f"connection {seed} {number}")
    kind = rng.choices(list(_KINDS), [weight for weight, _ in _KINDS.values()])[0]
    is_plain = kind in _IN_PLAIN_TEXT
    with suppress(ConnectionError, TimeoutError, OSError), server.connect(is_plain=is_plain) as connection:
        return _KINDS[kind][1](kind, rng, connection, server)
    return Seen(kind, 1)


def hold(server: Server, connections: int) -> list[socket.socket]:
    """Connections that say next to nothing, for the caller to close: half a greeting, or a call that never ends."""
    held = []
    for number in range(connections):
        connection = server.connect()
        connection.sendall(PREFACE[: number % 24])
        held.append(connection)
    return held


def _talk(kind: str, connection: socket.socket, data: bytes) -> Seen:
    """Say something, and see whether there is an answer."""
    connection.settimeout(LOOK_S)
    told = b""
    with suppress(OSError):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while len(told) < 1 << 20 and (some := connection.recv(1 << 16)):
            told += some
    return Seen(kind, 1, text=told)


def _noise(kind: str, rng: random.Random, connection: socket.socket, server: Server) -> Seen:
    """Bytes at random, from the begin or after a proper greeting."""
    begin = rng.choice((b"", PREFACE, PREFACE + Frame(SETTINGS, 0, 0).encode()))
    return _talk(kind, connection, begin + rng.randbytes(rng.choice((1, 9, 30, 300, 5000))))


def _other_protocol(kind: str, rng: random.Random, connection: socket.socket, server: Server) -> Seen:
    """HTTP/1, TLS where there is none and none where there is, and others."""
    return _talk(kind, connection, rng.choice((
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
        b"GET /metrics HTTP/1.0\r\n\r\n",
        b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n" + rng.randbytes(100),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(508),
        b"\x16\x03\x01\xff\xff",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"\0" * 10_000,
    )))  # fmt: skip


def _bent_greeting(kind: str, rng: random.Random, connection: socket.socket, server: Server) -> Seen:
    """A valid call over a valid connection with some bits flipped, or cut off."""
    data = bytearray(PREFACE + Frame(SETTINGS, 0, 0, HEADER_TABLE).encode() + Frame(SETTINGS, ACK, 0).encode())
    data += Frame(HEADERS, END_HEADERS, 1, header_block(PREDICT)).encode() + Frame(DATA, 1, 1, EMPTY_MESSAGE).encode()
    for _ in range(rng.randint(0, 4)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return _talk(kind, connection, bytes(data[: rng.randrange(1, len(data) + 1)]))


def _broken_frames(kind: str, rng: random.Random, connection: socket.socket, server: Server) -> Seen:
    """Frames of any kind with any flags, on any stream, with payloads and lengths that do not fit."""
    raw = _greeted(connection)
    frames = [
        Frame(
            rng.choice((*range(10), 10, 255)),
            rng.choice((0, 1, 4, 5, 8, 32, 45, 255)),
            rng.choice((0, 1, 2, 3, 5, 2**31 - 1, 2**32 - 1)),
            rng.randbytes(rng.choice((0, 1, 4, 5, 6, 8, 100))),
        )
        for _ in range(rng.randint(1, 20))
    ]
    raw.send(*frames)
    if rng.random() < 0.3:
        raw.send_bytes(rng.choice((b"\xff\xff\xff", b"\x00\x40\x01", b"\x80\x00\x00")) + rng.randbytes(6))
    return _looked(kind, len(frames), raw)


def _calls(kind: str, rng: random.Random, connection: socket.socket, server: Server) -> Seen:
    """Calls whose headers no client would send, many on one connection."""
    raw = _greeted(connection)
    calls = rng.randint(5, 25)
    for number in range(calls):
        path, headers = _odd_headers(rng)
        token = tuple(server.metadata) if rng.random() < 0.8 else ()
        raw.send(
            Frame(HEADERS, END_HEADERS, 1 + 2 * number, header_block(path, *headers, *token)),
            Frame(DATA, END_STREAM, 1 + 2 * number, _odd_body(rng)),
        )
    ended: set[int] = set()

    def all_ended(frames: list[Frame]) -> bool:
        ended.update(frame.stream for frame in frames if _ends(frame))
        return len(ended) == calls or any(frame.kind == GOAWAY for frame in frames)

    return _seen(kind, calls, raw.read(all_ended, wait_s=ANSWER_S))


def _odd_headers(rng: random.Random) -> tuple[str, tuple[tuple[str, str | bytes], ...]]:
    """A path, and headers; those that are given replace the usual ones."""
    return rng.choice((
        (PREDICT, ()),
        (INFO, ()),
        (PREDICT, (("content-type", rng.choice(("text/plain", "application/grpc+json", "", "a" * 500))),)),
        (PREDICT, ((":method", rng.choice(("GET", "PUT", "DELETE", "CONNECT", "", "POST "))),)),
        (PREDICT, ((":scheme", "ftp"), (":authority", "evil\r\nx: y"))),
        (PREDICT, (("te", "nothing"),)),
        (PREDICT, (("grpc-timeout", rng.choice(("0n", "1n", "99999999H", "-1S", "S", "999999999999S", ""))),)),
        (PREDICT, (("grpc-encoding", rng.choice(("gzip", "deflate", "br", "snappy", "x" * 100, ""))),)),
        (PREDICT, (("x-name", rng.randbytes(30)), ("x-any-bin", "no base64 !!"), ("x-any-bin", rng.randbytes(9)))),
        (PREDICT, (("X-Upper", "y"), ("", "empty"), ("a b", "c"), (":unknown", "z"))),
        (PREDICT, (("x-request-id", b"line\nforged level=ERROR"), ("authorization", rng.randbytes(40)))),
        (rng.choice(("", "/", "Predict", "*", "/a/b/c", f"/{MARK}/{MARK}")), ()),
        (rng.choice(("/\xff\xfe/\x00", "http://evil/x", "?x=y" * 300)), ()),
    ))  # fmt: skip


def _odd_body(rng: random.Random) -> bytes:
    """A message as it travels: with lengths and flags that lie, compressed without end, or as it ought to be."""
    data = hostile_call(rng.randrange(1 << 30), 0).requests
    message = (data[0] if data else b"")[:8000]
    packed = zlib.compress(message)
    honest = b"\0" + struct.pack(">I", len(message)) + message
    return rng.choice((
        honest,
        EMPTY_MESSAGE,
        b"",
        b"\0\0\0",
        honest[:-1],
        honest + honest,
        honest + b"\0",
        b"\1" + struct.pack(">I", len(packed)) + packed,
        b"\1" + struct.pack(">I", len(_BOMB)) + _BOMB,
        bytes([rng.randrange(2, 256)]) + honest[1:],
        b"\0" + struct.pack(">I", rng.choice((2**31 - 1, 2**32 - 1, 5 << 20))) + message,
    ))  # fmt: skip


_BOMB = zlib.compress(bytes(12 << 20), 9)
"""12 KB that are 12 MiB."""


def _settings_flood(kind: str, rng: random.Random, connection: socket.socket, server: Server) -> Seen:
    """Settings by the thousand, known and unknown, at their limits; their acknowledgements are never read."""
    raw = _greeted(connection)
    values = (0, 1, 2**14, 2**24 - 1, 2**31 - 1, 2**32 - 1)
    frames = [
        Frame(SETTINGS, 0, 0, struct.pack(">HI", rng.randint(0, 9), rng.choice(values)))
        for _ in range(rng.choice((10, 1000)))
    ]
    raw.send(*frames)
    return _looked(kind, len(frames), raw)


def _rapid_reset(kind: str, rng: random.Random, connection: socket.socket, server: Server) -> Seen:
    """Calls that are begun and reset at once."""
    raw = _greeted(connection)
    block, streams = header_block(PREDICT, *server.metadata), rng.choice((50, 400))
    for number in range(streams):
        stream = 1 + 2 * number
        raw.send(Frame(HEADERS, END_HEADERS, stream, block), Frame(RST_STREAM, 0, stream, struct.pack(">I", 8)))
    return _looked(kind, streams, raw)


def _continuations(kind: str, rng: random.Random, connection: socket.socket, server: Server) -> Seen:
    """Headers that never end, empty or full, or are interrupted."""
    raw = _greeted(connection)
    piece = rng.choice((b"", b"\0\1x\1y" * 100, b"\x40\1x\x7f\xff\xff\xff\x7f"))
    frames = [Frame(CONTINUATION, 0, 1, piece) for _ in range(rng.choice((5, 500)))]
    if rng.random() < 0.3:
        frames.append(Frame(PING, 0, 0, b"12345678"))
    raw.send(Frame(HEADERS, 0, 1, header_block(PREDICT)), *frames)
    return _looked(kind, len(frames), raw)


def _windows(kind: str, rng: random.Random, connection: socket.socket, server: Server) -> Seen:
    """Windows of nothing, that overflow, by single bytes; and answers that are asked for and never taken."""
    raw = _greeted(connection)
    raw.send(Frame(SETTINGS, 0, 0, struct.pack(">HI", 4, rng.choice((0, 1, 2**31 - 1, 2**31)))))
    for stream in range(1, 21, 2):
        raw.send(Frame(HEADERS, END_HEADERS, stream, header_block(INFO, *server.metadata)))
        raw.send(Frame(DATA, END_STREAM, stream, EMPTY_MESSAGE))
    steps = [rng.choice((0, 1, 2**31 - 1, 2**32 - 1)) for _ in range(rng.choice((3, 300)))]
    raw.send(*(Frame(WINDOW_UPDATE, 0, rng.choice((0, 1, 3, 99)), struct.pack(">I", step)) for step in steps))
    return _looked(kind, len(steps) + 10, raw)


def _pings(kind: str, rng: random.Random, connection: socket.socket, server: Server) -> Seen:
    """Pings by the hundred."""
    raw = _greeted(connection)
    frames = [Frame(PING, rng.choice((0, 0, 1)), 0, rng.randbytes(8)) for _ in range(rng.choice((5, 1000)))]
    raw.send(*frames)
    return _looked(kind, len(frames), raw)


def _headers_bomb(kind: str, rng: random.Random, connection: socket.socket, server: Server) -> Seen:
    """A large header put into the table once, and named by a byte a thousand times; tables resized; nothing valid."""
    raw = _greeted(connection)
    large = b"\x40\1x\x7f\x81\x1e" + b"y" * 4000
    block = rng.choice((
        header_block(PREDICT) + large + b"\xbe" * 10_000,
        b"\x3f\xff\xff\xff\xff\x0f" + header_block(PREDICT),
        b"\x20" * 1000,
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        header_block(PREDICT) + b"\xff\x80" * 50,
        rng.randbytes(500),
    ))  # fmt: skip
    raw.send(Frame(HEADERS, END_HEADERS | END_STREAM, 1, block))
    return _looked(kind, 1, raw)


def _streams(kind: str, rng: random.Random, connection: socket.socket, server: Server) -> Seen:
    """More streams than there may be, that never end; streams that go backwards, even ones, and the end before them."""
    raw = _greeted(connection)
    block = header_block(INFO, *server.metadata)
    numbers = rng.choice((range(1, 2400, 2), range(2, 20, 2), range(99, 1, -2), [1, 1, 1], [2**31 - 1, 1]))
    raw.send(*(Frame(HEADERS, END_HEADERS, number, block) for number in numbers))
    raw.send(
        Frame(GOAWAY, 0, 0, struct.pack(">II", 0, 0)), Frame(PUSH_PROMISE, 4, 1, b"\0\0\0\2"), Frame(PRIORITY, 0, 1)
    )
    return _looked(kind, len(numbers), raw)


def _metrics_port(kind: str, rng: random.Random, connection: socket.socket, server: Server) -> Seen:
    """The port of the measurements, with anything."""
    host, port = server.metrics.split(":")
    with socket.create_connection((host, int(port)), timeout=ANSWER_S) as other:
        return _talk(kind, other, rng.choice((
            rng.randbytes(rng.choice((1, 300))),
            b"GET /../../etc/passwd HTTP/1.1\r\n\r\n",
            b"GET /%00 HTTP/1.1\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
            b"PUT /metrics HTTP/1.1\r\nContent-Length: 9\r\n\r\n123456789",
            b"GET /" + b"a" * 70_000,
            b"GET /metrics?" + MARK.encode() + b" HTTP/1.1\r\nAccept: nothing\r\n\r\n",
            PREFACE,
        )))  # fmt: skip


Attack = Callable[[str, random.Random, socket.socket, Server], Seen]
_KINDS: dict[str, tuple[float, Attack]] = {
    "random bytes on the port": (20, _noise),
    "other protocols": (10, _other_protocol),
    "bent greetings and calls": (15, _bent_greeting),
    "broken frames": (20, _broken_frames),
    "calls by hand": (20, _calls),
    "settings floods": (2, _settings_flood),
    "rapid resets": (1.5, _rapid_reset),
    "continuation floods": (2, _continuations),
    "window games": (2, _windows),
    "ping floods": (2, _pings),
    "header bombs": (3, _headers_bomb),
    "stream numbers": (1.5, _streams),
    "the port of metrics": (1, _metrics_port),
}
_IN_PLAIN_TEXT = {"random bytes on the port", "other protocols"}
"""Said to the bare port, encrypted or not."""


def _greeted(connection: socket.socket) -> RawConnection:
    raw = RawConnection(connection)
    raw.send_bytes(PREFACE + Frame(SETTINGS, 0, 0, HEADER_TABLE).encode())
    raw.send(Frame(SETTINGS, ACK, 0))
    return raw


def _looked(kind: str, sent: int, raw: RawConnection) -> Seen:
    return _seen(kind, sent, raw.read(wait_s=LOOK_S))


def _seen(kind: str, sent: int, frames: list[Frame]) -> Seen:
    headers = b"".join(frame.payload for frame in frames if frame.kind == HEADERS)
    text = b"".join(frame.payload for frame in frames if frame.kind in (HEADERS, GOAWAY))
    return Seen(kind, sent, tuple(int(code) for code in _STATUS.findall(headers)), text)


def _ends(frame: Frame) -> bool:
    return frame.kind == RST_STREAM or (frame.kind == HEADERS and bool(frame.flags & END_STREAM))

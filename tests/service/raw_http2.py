"""A client of HTTP/2 that keeps no rules: frames by hand over a socket, to see what a server allows."""

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
ACK, END_STREAM, END_HEADERS = 1, 1, 4
MAX_CONCURRENT_STREAMS, MAX_HEADER_LIST_SIZE = 3, 6
FRAME_BYTES_MAX = 16_000
EMPTY_MESSAGE = b"\0\0\0\0\0"


@dataclass(frozen=True)
class Frame:
    """One frame as it travels."""

    kind: int
    flags: int
    stream: int
    payload: bytes = b""

    def encode(self) -> bytes:
        size = struct.pack(">I", len(self.payload))[1:]
        return size + bytes([self.kind, self.flags]) + struct.pack(">I", self.stream) + self.payload


class RawConnection:
    """One connection. `closed` says whether the server has ended it."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._unread = b""
        self.closed = False

    @property
    def port(self) -> int:
        """Of our end."""
        return int(self._socket.getsockname()[1])

    def send(self, *frames: Frame) -> None:
        """Send frames; what a closed connection says to that is not looked at."""
        try:
            self._socket.sendall(b"".join(frame.encode() for frame in frames))
        except OSError:
            self.closed = True

    def close(self) -> None:
        """Leave, without a goodbye."""
        self._socket.close()
        self.closed = True

    def greet(self, *, accept_settings: bool = True) -> dict[int, int]:
        """Begin as a client does; gives the server's settings."""
        self._socket.sendall(PREFACE + Frame(SETTINGS, 0, 0).encode())
        (first,) = self.read(lambda frames: frames[-1].kind == SETTINGS)[:1]
        if accept_settings:
            self.send(Frame(SETTINGS, ACK, 0))
        pairs = [first.payload[at : at + 6] for at in range(0, len(first.payload), 6)]
        return dict(struct.unpack(">HI", pair) for pair in pairs)

    def read(self, until=lambda frames: False, *, wait_s: float = 5.0) -> list[Frame]:
        """Read frames until they are what is waited for, the server closes, or time is up."""
        frames: list[Frame] = []
        deadline = time.monotonic() + wait_s
        while not (frames and until(frames)) and time.monotonic() < deadline and not self.closed:
            frames += self._some()
        return frames

    def call(self, path: str, stream: int, *extra: tuple[str, str], body: bytes = EMPTY_MESSAGE) -> None:
        """Begin a call of gRPC and send one message."""
        names = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "here")]
        names += [("content-type", "application/grpc"), ("te", "trailers"), *extra]
        block = b"".join(b"\0" + _text(name) + _text(value) for name, value in names)
        pieces = [block[at : at + FRAME_BYTES_MAX] for at in range(0, len(block), FRAME_BYTES_MAX)]
        frames = [Frame(CONTINUATION if at else HEADERS, 0, stream, piece) for at, piece in enumerate(pieces)]
        frames[-1] = Frame(frames[-1].kind, END_HEADERS, stream, pieces[-1])
        self.send(*frames, Frame(DATA, END_STREAM, stream, body))

    def open_window(self, *streams: int, size: int) -> None:
        """Let the server send so many more bytes on the connection, and on each of these streams."""
        self.send(*(Frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", size)) for stream in (0, *streams)))

    def _some(self) -> list[Frame]:
        self._socket.settimeout(0.05)
        try:
            data = self._socket.recv(1 << 16)
            self.closed = not data
        except TimeoutError:
            data = b""
        except OSError:
            data, self.closed = b"", True
        self._unread += data
        frames = []
        while len(self._unread) >= 9 and len(self._unread) >= 9 + (size := int.from_bytes(self._unread[:3], "big")):
            kind, flags = self._unread[3:5]
            stream = int.from_bytes(self._unread[5:9], "big")
            frames.append(Frame(kind, flags, stream, self._unread[9 : 9 + size]))
            self._unread = self._unread[9 + size :]
        return frames


@contextmanager
def raw_connection(address: str) -> Iterator[RawConnection]:
    """A connection to `host:port`, closed at the end."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port))) as connection:
        yield RawConnection(connection)


def _text(text: str) -> bytes:
    """A text as HPACK has it, not compressed: its length in 7 bits and more, and its bytes."""
    data = text.encode()
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, length = len(data) - 127, bytearray([127])
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    return bytes(length) + bytes([rest]) + data

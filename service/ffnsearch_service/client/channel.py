"""How a client reaches a server: channel options, retries, TLS, and the token that identifies the caller."""

import importlib.resources
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import grpc

from ffnsearch_service.client.credentials import channel_credentials, load_token, token_metadata
from ffnsearch_service.config import Limits
from ffnsearch_service.errors import AddressError, CredentialsError

RECONNECT_MS_MIN, RECONNECT_MS_MAX = 200, 5_000
"""Pause between two attempts to connect: gRPC's own grows to 2 minutes, after which a server has long been back."""

KEEPALIVE_MS, PING_TIMEOUT_MS = 15_000, 5_000
"""A call that hears nothing for the first time pings the server, and gives the connection up if no answer comes within
the second: a router or a frozen machine that dropped it does not say so. Servers allow a ping every 10 s."""

_HOST_PORT = r"(\[[^\s\[\]]+\]|[^\s\[\]:/,]+):[0-9]{1,9}"
"""gRPC also takes a host alone, and would call its port 443."""

_ADDRESS = re.compile(
    rf"{_HOST_PORT}|dns:(//[^/\s]*/)?{_HOST_PORT}|ipv[46]:{_HOST_PORT}(,{_HOST_PORT})*|(unix|unix-abstract|vsock|xds):\S+"
)
"""With a scheme, what gRPC resolves in ways of its own, to several servers if need be."""


class AccessOptions(TypedDict, total=False):
    """How a server is reached, and as whom.

    tls: encrypt, and trust the certificate authorities that gRPC brings along. ca_file: encrypt, and trust those of
    this PEM file instead. certificate_file, key_file: what this client identifies itself with (mutual TLS), both PEM;
    they encrypt too. token: bearer token. token_file: a file with one, read again for every call, so that it can be
    replaced. insecure_token: send the token although nothing is encrypted and the server is on another machine. A key
    or token file that others may read is refused.
    """

    tls: bool
    ca_file: Path | None
    certificate_file: Path | None
    key_file: Path | None
    token: str | None
    token_file: Path | None
    insecure_token: bool


class Bearer:
    """The metadata that identifies the caller. Safe to share between threads."""

    def __init__(self, address: str, access: AccessOptions) -> None:
        """Raises CredentialsError for a token that cannot be sent, or must not be sent to `address` in plain text."""
        self._address = address
        self._encrypted = _encrypted(access)
        self._insecure_token = access.get("insecure_token", False)
        self._token, self._file = access.get("token"), access.get("token_file")
        if self._token is not None and self._file is not None:
            raise CredentialsError("a token is given, and a token file too: choose one", reason="TWO_TOKENS")
        self.metadata()

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What to send with a call. Raises CredentialsError where the file cannot be read or holds no token."""
        token = self._token if self._file is None else load_token(self._file)
        if token is None:
            return ()
        return token_metadata(token, self._address, encrypted=self._encrypted, insecure_token=self._insecure_token)


def open_channel(address: str, access: AccessOptions, *, retries: bool = True) -> grpc.Channel:
    """A channel to `host:port`, or to a target of gRPC's with a scheme; nothing is connected yet.

    Raises AddressError for what is no such address, or a port that does not exist, and CredentialsError for files that
    cannot be used.
    """
    _require_address(address)
    credentials, options = _credentials(access), _options(retries=retries)
    if credentials is None:
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, credentials, options)


def open_async_channel(address: str, access: AccessOptions, *, retries: bool = True) -> grpc.aio.Channel:
    """`open_channel` for asyncio; the channel belongs to the running event loop."""
    _require_address(address)
    credentials, options = _credentials(access), _options(retries=retries)
    if credentials is None:
        return grpc.aio.insecure_channel(address, options)
    return grpc.aio.secure_channel(address, credentials, options)


def is_address(text: str) -> bool:
    """Whether a text is `host:port`, with brackets around a literal IPv6 host, or a target of gRPC's with a scheme."""
    return _ADDRESS.fullmatch(text) is not None


def service_config() -> str:
    """How gRPC retries calls, as JSON: the file beside the .proto file, for clients in every language."""
    return importlib.resources.files("ffnsearch.v1").joinpath("service_config.json").read_text()


def _require_address(address: str) -> None:
    if not is_address(address):
        raise AddressError(
            f"{address!r} is no address: give HOST:PORT of a server, [HOST]:PORT for a literal IPv6, "
            "or a target of gRPC's, such as dns:///HOST:PORT"
        )
    for one in address.split(","):
        port = one.rpartition(":")[2]
        if port.isdecimal() and not 1 <= int(port) <= 65535:  # gRPC would take the remainder of a division as the port
            raise AddressError(f"port {port} of {address} does not exist: choose one of 1 to 65535", port=port)


def _options(*, retries: bool) -> Sequence[tuple[str, Any]]:
    return [
        ("grpc.max_send_message_length", -1),  # the server's limits hold, both ways, and its refusals name them
        ("grpc.max_receive_message_length", -1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),  # a connection of its own for each client
        ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS_MIN),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_MS_MAX),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),  # without it, the line above is not honoured
        ("grpc.enable_retries", int(retries)),
        ("grpc.service_config", service_config()),
        ("grpc.service_config_disable_resolution", 1),  # ours alone, whatever DNS says
        ("grpc.per_rpc_retry_buffer_size", 2 * Limits().request_bytes_max),  # a larger request would not be retried
    ]


def _credentials(access: AccessOptions) -> grpc.ChannelCredentials | None:
    """What encrypts a channel, None for plain text."""
    if not _encrypted(access):
        return None
    return channel_credentials(access.get("ca_file"), access.get("certificate_file"), access.get("key_file"))


def _encrypted(access: AccessOptions) -> bool:
    return bool(access.get("tls") or access.get("ca_file") or access.get("certificate_file") or access.get("key_file"))

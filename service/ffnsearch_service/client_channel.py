"""How a client reaches a server: channel options, retries, TLS, and the token that says who calls."""

import importlib.resources
import re
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

import grpc

from ffnsearch_service.address import is_loopback
from ffnsearch_service.config import Limits
from ffnsearch_service.errors import CredentialsError

TOKEN_CHARACTERS_MAX = 4096
"""Longest token: gRPC allows 8 KiB for all metadata of a call together."""

RECONNECT_MS_MIN, RECONNECT_MS_MAX = 200, 5_000
"""Pause between two attempts to connect: gRPC's own grows to 2 minutes, after which a server has long been back."""

_TOKEN = re.compile("[!-~]+")


class AccessOptions(TypedDict, total=False):
    """How a server is reached, and who says to be calling.

    tls: encrypt, and trust the certificate authorities that gRPC brings along. ca_file: encrypt, and trust those of
    this PEM file instead. certificate_file, key_file: what this client shows of itself (mutual TLS), both PEM; encrypts
    too. token: bearer token. token_file: a file with one, read again for every call, so that it can be replaced.
    insecure_token: send the token although nothing is encrypted and the server is on another machine.
    """

    tls: bool
    ca_file: Path | None
    certificate_file: Path | None
    key_file: Path | None
    token: str | None
    token_file: Path | None
    insecure_token: bool


class Bearer:
    """The metadata that says who calls. Safe to share between threads."""

    def __init__(self, address: str, access: AccessOptions) -> None:
        """Raises CredentialsError for a token that cannot be sent, or must not be sent to `address` in plain text."""
        self._token, self._file = access.get("token"), access.get("token_file")
        if self._token is not None and self._file is not None:
            raise CredentialsError("a token is given, and a token file too: choose one", reason="TWO_TOKENS")
        if not self.metadata():
            return
        if not (_encrypted(access) or access.get("insecure_token") or is_loopback(_host(address))):
            raise CredentialsError(
                f"a token for {address} would travel unencrypted, and whoever sees it can use it: give a CA file or "
                "ask for TLS, or accept that with --insecure-token (insecure_token=True)",
                reason="PLAINTEXT_TOKEN",
                address=address,
            )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What to send with a call. Raises CredentialsError where the file cannot be read or holds no token."""
        token = self._token if self._file is None else _read_token(self._file)
        if token is None:
            return ()
        if not (_TOKEN.fullmatch(token) and len(token) <= TOKEN_CHARACTERS_MAX):
            raise CredentialsError(
                f"{self._file or 'the token'} holds no token: one is 1 to {TOKEN_CHARACTERS_MAX} printable ASCII "
                "characters without a space",
                reason="INVALID_TOKEN",
            )
        return (("authorization", f"Bearer {token}"),)


def open_channel(address: str, access: AccessOptions, *, retries: bool = True) -> grpc.Channel:
    """A channel to `host:port`; nothing is connected yet. Raises CredentialsError for files that cannot be used."""
    credentials, options = _credentials(access), _options(retries=retries)
    if credentials is None:
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, credentials, options)


def open_async_channel(address: str, access: AccessOptions, *, retries: bool = True) -> grpc.aio.Channel:
    """`open_channel` for asyncio; the channel belongs to the running event loop."""
    credentials, options = _credentials(access), _options(retries=retries)
    if credentials is None:
        return grpc.aio.insecure_channel(address, options)
    return grpc.aio.secure_channel(address, credentials, options)


def service_config() -> str:
    """How gRPC retries calls, as JSON: the file beside the .proto file, for clients in every language."""
    return importlib.resources.files("ffnsearch.v1").joinpath("service_config.json").read_text()


def _options(*, retries: bool) -> Sequence[tuple[str, Any]]:
    limits = Limits()
    return [
        ("grpc.max_send_message_length", -1),  # the server's limit counts, and its refusal says so
        ("grpc.max_receive_message_length", limits.response_bytes_max),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),  # a connection of its own for each client
        ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS_MIN),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_MS_MAX),
        ("grpc.enable_retries", int(retries)),
        ("grpc.service_config", service_config()),
        ("grpc.service_config_disable_resolution", 1),  # ours alone, whatever the DNS says
        ("grpc.per_rpc_retry_buffer_size", 2 * limits.request_bytes_max),  # a larger request would not be retried
    ]


def _credentials(access: AccessOptions) -> grpc.ChannelCredentials | None:
    """What encrypts a channel, None for plain text. The files are tried here: gRPC fails later, and says less."""
    if not _encrypted(access):
        return None
    ca, certificate, key = access.get("ca_file"), access.get("certificate_file"), access.get("key_file")
    if (certificate is None) != (key is None):
        raise CredentialsError(
            "a client certificate needs its key, and a key its certificate: give both", reason="KEY_WITHOUT_CERTIFICATE"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is not None:
        with _refusing(f"{ca} holds no certificate of an authority in PEM"):
            context.load_verify_locations(ca)
    if certificate is not None:
        with _refusing(f"{certificate} and {key} are no certificate and its key in PEM, without a password"):
            context.load_cert_chain(certificate, key, password="")
    with _refusing("a certificate or key cannot be read"):
        authorities, own_key, own = (path.read_bytes() if path else None for path in (ca, key, certificate))
    return grpc.ssl_channel_credentials(authorities, own_key, own)


@contextmanager
def _refusing(problem: str) -> Iterator[None]:
    """Tell what the operating system or OpenSSL has against a file."""
    try:
        yield
    except OSError as error:
        raise CredentialsError(f"{problem}: {error.strerror or error}") from None


def _encrypted(access: AccessOptions) -> bool:
    return bool(access.get("tls") or access.get("ca_file") or access.get("certificate_file") or access.get("key_file"))


def _host(address: str) -> str:
    """The host of `host:port`; of anything else something that is no loopback address."""
    return address.rpartition(":")[0].removeprefix("[").removesuffix("]")


def _read_token(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(TOKEN_CHARACTERS_MAX + 2).decode("ascii", "replace").strip()
    except OSError as error:
        raise CredentialsError(f"{file} cannot be read: {error.strerror}; give a file with a token") from None

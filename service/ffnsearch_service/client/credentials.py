"""Files and a token -> credentials and metadata: how does a client know the server, and show who it is?"""

import re
from pathlib import Path

import grpc

from ffnsearch_service.address import host_of, is_loopback
from ffnsearch_service.errors import CredentialsError
from ffnsearch_service.security.certificates import check_ca, check_pair, naming
from ffnsearch_service.security.private_files import read_file

TOKEN_CHARACTERS_MAX = 4096
"""Longest token: gRPC allows 8 KiB for all metadata of a call together."""

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # what a bearer token may be made of, RFC 6750


def channel_credentials(
    ca_file: Path | None = None, certificate_file: Path | None = None, key_file: Path | None = None
) -> grpc.ChannelCredentials:
    """Credentials for an encrypted channel, `grpc.secure_channel` or `grpc.aio.secure_channel`.

    ca_file: PEM, the authority that signed the server's certificate; without one, those that gRPC comes with.
    certificate_file and key_file: PEM, both or neither, for a server that asks its clients for a certificate.
    All are read once and tried here. Raises CredentialsError, also for a key that others may read.
    """
    if (certificate_file is None) != (key_file is None):
        raise CredentialsError(
            "a client's certificate and its key go together: give both, or neither", reason="KEY_WITHOUT_CERTIFICATE"
        )
    ca = None if ca_file is None else read_file(ca_file, "CA file", private=False)
    if ca is not None:
        with naming(str(ca_file)):
            check_ca(ca)
    if certificate_file is None or key_file is None:
        return grpc.ssl_channel_credentials(ca)
    certificate = read_file(certificate_file, "certificate", private=False)
    key = read_file(key_file, "key", private=True)
    with naming(f"{certificate_file} with {key_file}"):
        check_pair(certificate, key, of_client=True)
    return grpc.ssl_channel_credentials(ca, key, certificate)


def token_metadata(
    token: str, address: str, *, encrypted: bool, insecure_token: bool = False
) -> tuple[tuple[str, str], ...]:
    """The metadata that goes with every call to `address`, `host:port`, to show a token.

    Raises CredentialsError for what is no token, and for a token that would travel in the clear: the channel is not
    `encrypted`, the address is not this machine's own (a target with a scheme counts as none), and `insecure_token`
    does not accept that.
    """
    _require_token(token, "what was given is no token")
    if not (encrypted or insecure_token or is_loopback(host_of(address))):
        raise CredentialsError(
            f"a token for {address} would travel unencrypted, and whoever sees it could use it: give a CA file or ask "
            "for TLS, or accept that with --insecure-token (insecure_token=True)",
            reason="PLAINTEXT_TOKEN",
            address=address,
        )
    return (("authorization", f"Bearer {token}"),)


def load_token(path: Path) -> str:
    """Read a token from a file that holds nothing else. Raises CredentialsError, also where others may read it."""
    token = read_file(path, "token file", private=True).decode("ascii", "replace").strip()
    _require_token(token, f"the token file {path} holds no token")
    return token


def _require_token(token: str, complaint: str) -> None:
    """Raises CredentialsError, which does not repeat what may be half of a token."""
    if len(token) > TOKEN_CHARACTERS_MAX or not _TOKEN.fullmatch(token):
        raise CredentialsError(
            f"{complaint}: one is a word of 1 to {TOKEN_CHARACTERS_MAX} letters, digits and ._~+/- as "
            "`ffnsearch token create` prints it",
            reason="INVALID_TOKEN",
        )

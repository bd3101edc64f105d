"""Does this certificate work? It is tried in a handshake in memory, so that no client is the first to find out."""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from ffnsearch_service.errors import CredentialsError

_KINDS = (
    bytes.fromhex("300d06092a864886f70d0101010500"),  # RSA
    bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107"),  # P-256
    bytes.fromhex("301006072a8648ce3d020106052b81040022"),  # P-384
)
"""How a certificate names the kinds of key that gRPC, which has its own TLS library, can serve with (RFC 5280)."""

_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"


def check_pair(certificate_pem: bytes, key_pem: bytes, *, of_client: bool = False) -> datetime:
    """Try a certificate, with the chain after it, and its private key; returns when the certificate expires.

    Raises CredentialsError where either is not PEM; where the key is encrypted, belongs to another certificate or is of
    a kind that gRPC cannot serve with; and where the certificate has expired, is not valid yet or is not for servers
    (`of_client`: for clients). Its names are not checked: whoever is shown the certificate does that.
    """
    _require_pem(certificate_pem, key_pem)
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    _load(server, certificate_pem, key_pem)
    _load(client, certificate_pem, key_pem)
    judge = server if of_client else client
    judge.verify_mode = ssl.CERT_REQUIRED
    judge.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself is the anchor, whoever signed it
    try:
        judge.load_verify_locations(cadata=_first(certificate_pem))
        ends = _handshake(server, client)
    except ssl.SSLCertVerificationError as error:
        raise _invalid(f"the certificate cannot be used: {error.verify_message}; renew it") from None
    except ssl.SSLError as error:
        raise _invalid(f"the certificate cannot be used: {error.reason}; renew it") from None
    found = ends[0 if of_client else 1].getpeercert()
    assert found, "the handshake is over, and the judge has seen the certificate"
    _require_kind(ssl.PEM_cert_to_DER_cert(_first(certificate_pem)))
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(found["notAfter"])), UTC)


def check_ca(pem: bytes) -> None:
    """Try certificates of authorities. Raises CredentialsError where there is none, or one cannot be read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with suppress(ssl.SSLError), _in_memory(pem) as path:  # `cadata` would not take a comment beyond ASCII
        context.load_verify_locations(path)
    if not context.cert_store_stats()["x509"]:
        raise _invalid("it holds no certificate in PEM form: give the authority's certificate")


@contextmanager
def naming(files: str) -> Iterator[None]:
    """Put the names of files before what is wrong with them."""
    try:
        yield
    except CredentialsError as error:
        raise CredentialsError(f"{files}: {error.message}", reason=error.reason) from None


def _require_pem(certificate_pem: bytes, key_pem: bytes) -> None:
    if _BEGIN not in certificate_pem or _END not in certificate_pem:
        raise _invalid("the certificate is not in PEM form: it has no whole -----BEGIN CERTIFICATE----- block")
    if b"PRIVATE KEY-----" not in key_pem:
        raise _invalid("the key is not in PEM form: it has no PRIVATE KEY block")
    if b"ENCRYPTED" in key_pem:
        raise _invalid("the key is encrypted, and nobody is there to type its password: store it decrypted")


def _require_kind(certificate: bytes) -> None:
    """Refuse a key that works in the trial, which is OpenSSL's, but not in gRPC."""
    if not any(kind in certificate for kind in _KINDS):
        raise _invalid("the key is of a kind that gRPC does not serve with: make one of RSA, or of the curve P-256")


def _load(context: ssl.SSLContext, certificate_pem: bytes, key_pem: bytes) -> None:
    try:
        with _in_memory(certificate_pem) as certificate, _in_memory(key_pem) as key:
            context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise _invalid("the key is not the certificate's: give the two that were made together") from None
        raise _invalid(f"certificate or key are broken: {error.reason or 'not PEM'}; write them again") from None


@contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """A path to bytes that are on no disk: OpenSSL takes only paths."""
    descriptor = os.memfd_create("ffnsearch")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Connect the two in memory; returns the server's end and the client's. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = server.wrap_bio(to_server, to_client, server_side=True), client.wrap_bio(to_client, to_server)
    for _ in range(4):  # flights of messages: no version of TLS takes more in one direction
        for end in reversed(ends):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return ends


def _first(certificate_pem: bytes) -> str:
    begin = certificate_pem.index(_BEGIN)
    return certificate_pem[begin : certificate_pem.index(_END, begin) + len(_END)].decode("ascii")


def _invalid(message: str) -> CredentialsError:
    return CredentialsError(message, reason="INVALID_CERTIFICATE")

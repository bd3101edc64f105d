"""How a test makes certificates, valid for a day where nothing else is said, and sees which one a server shows."""

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from looping import WAIT_S

from ffnsearch_service.security.tls import TlsFiles

DAY = timedelta(days=1)
USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in PEM."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path, client_ca: bytes | None = None) -> TlsFiles:
        """Put them into a folder as an operator would."""
        certificate, key, authority = folder / "server.crt", folder / "server.key", folder / "clients.crt"
        certificate.write_bytes(self.certificate)
        write_key(key, self.key)
        if client_ca is None:
            return TlsFiles(certificate, key)
        authority.write_bytes(client_ca)
        return TlsFiles(certificate, key, authority)


class Authority:
    """Signs certificates."""

    def __init__(self, name: str = "a test's authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signs = {**dict.fromkeys(USAGES, False), "key_cert_sign": True, "crl_sign": True}
        is_authority = [x509.BasicConstraints(ca=True, path_length=None), x509.KeyUsage(**signs)]
        self.certificate = self._sign(self._key, self._name, is_authority)

    def make(self, *, for_client=False, begins=-DAY, ends=DAY, key=None) -> Pair:
        """A pair for 127.0.0.1, valid from and to so long from now; of a new key where none is given."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if for_client else ExtendedKeyUsageOID.SERVER_AUTH
        here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test")])
        return Pair(self._sign(key, name, [here, x509.ExtendedKeyUsage([usage])], begins, ends), _pem(key))

    def _sign(self, key, name, extensions, begins=-DAY, ends=DAY) -> bytes:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
        )
        identifiers = (
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
        )
        for extension in (*extensions, *identifiers):  # with all that Python 3.13 wants of a certificate
            is_critical = isinstance(extension, x509.BasicConstraints | x509.KeyUsage)
            builder = builder.add_extension(extension, critical=is_critical)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def write_key(path: Path, key: bytes) -> Path:
    """Put a key where nobody else reads it."""
    path.write_bytes(key)
    path.chmod(0o600)
    return path


def encrypted(key: bytes) -> bytes:
    """The same key, with a password."""
    loaded = serialization.load_pem_private_key(key, None)
    return loaded.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"word")
    )


def shown(address: str) -> bytes:
    """The certificate that a new connection is shown, as DER."""
    host, port = address.split(":")
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((host, int(port)), timeout=WAIT_S))


def der(pair: Pair) -> bytes:
    """Its certificate as DER."""
    return ssl.PEM_cert_to_DER_cert(pair.certificate.decode())


def _pem(key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

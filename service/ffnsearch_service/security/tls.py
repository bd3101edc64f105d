"""Which certificate does a new connection get? The files as they are now, as long as they can be used."""

import logging
import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import grpc

from ffnsearch_service.errors import CredentialsError
from ffnsearch_service.security.certificates import check_ca, check_pair, naming
from ffnsearch_service.security.private_files import Stamp, read_file, stamp

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TlsFiles:
    """Where certificate (with the chain after it), key and, for mutual TLS, the clients' authority are. All PEM."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return (self.certificate, self.key, *([] if self.client_ca is None else [self.client_ca]))


@dataclass(frozen=True)
class Identity:
    """The contents of the files, tried. expires: when the certificate does."""

    certificate_pem: bytes
    key_pem: bytes
    client_ca_pem: bytes | None
    expires: datetime

    @classmethod
    def load(cls, files: TlsFiles) -> "Identity":
        """Read and try the files. Raises CredentialsError, also where others may read the key."""
        certificate = read_file(files.certificate, "certificate", private=False)
        key = read_file(files.key, "key", private=True)
        ca = None if files.client_ca is None else read_file(files.client_ca, "client CA", private=False)
        with naming(f"{files.certificate} with {files.key}"):
            expires = check_pair(certificate, key)
        if ca is not None:
            with naming(str(files.client_ca)):
                check_ca(ca)
        return cls(certificate, key, ca, expires)

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """The same for gRPC."""
        return grpc.ssl_server_certificate_configuration(
            [(self.key_pem, self.certificate_pem)], root_certificates=self.client_ca_pem
        )


class ServerTls:
    """The identity that a server shows. Any thread may use it: gRPC asks from its own, at every new connection.

    Files that were replaced and cannot be used, or are gone, leave the identity as it was; the log says so, once for
    each state of the files, and names no path. So does a certificate replaced before its key, until the key follows.
    """

    def __init__(self, files: TlsFiles, identity: Identity, seen: tuple[Stamp | None, ...]) -> None:
        self._files = files
        self._identity = identity
        self._seen = seen
        self._lock = threading.Lock()

    @classmethod
    def open(cls, files: TlsFiles) -> "ServerTls":
        """Read and try the files. Raises CredentialsError: a server does not start with bad ones."""
        seen = _stamps(files)  # before reading: a change in between is seen at the next connection
        return cls(files, Identity.load(files), seen)

    @property
    def identity(self) -> Identity:
        """What new connections get, as of the last one."""
        return self._identity

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials for `add_secure_port` that follow the files. With a client CA, clients need a certificate."""
        return grpc.dynamic_ssl_server_credentials(
            self._identity.configuration(),
            self._fetch,  # type: ignore[arg-type]  # None is allowed, whatever the stubs say
            require_client_authentication=self._files.client_ca is not None,
        )

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """What gRPC asks at every new connection: another configuration, or None where it stays the same."""
        with self._lock:
            seen = _stamps(self._files)
            if seen == self._seen:
                return None
            self._seen = seen
            try:
                self._identity = Identity.load(self._files)
            except CredentialsError as error:
                _log.error("the certificate in use stays: %s; `ffnsearch serve --check` says more", error.reason)
                return None
            _log.info("the certificate has changed; the new one expires %s", self._identity.expires.isoformat())
            return self._identity.configuration()


def _stamps(files: TlsFiles) -> tuple[Stamp | None, ...]:
    return tuple(map(stamp, files.paths))

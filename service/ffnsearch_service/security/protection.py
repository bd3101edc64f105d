"""How is a server protected? Tokens, TLS and the limits of a connection, opened and tried together."""

from dataclasses import dataclass
from pathlib import Path

import grpc

from ffnsearch_service.config import Limits
from ffnsearch_service.security.guard import TokenGuard
from ffnsearch_service.security.server_options import server_options
from ffnsearch_service.security.tls import ServerTls, TlsFiles
from ffnsearch_service.security.token_store import TokenStore


@dataclass(frozen=True)
class Protection:
    """What a gRPC server is made with. guard: belongs to one server and its event loop; None where all may call."""

    options: list[tuple[str, int]]
    guard: TokenGuard | None = None
    tls: ServerTls | None = None

    @classmethod
    def open(
        cls, limits: Limits, *, tokens_file: Path | None = None, tls_files: TlsFiles | None = None
    ) -> "Protection":
        """Read and try all the files. Raises CredentialsError, which names the file at fault."""
        guard = None
        if tokens_file is not None:
            store = TokenStore.open(tokens_file, check_ms_max=limits.tokens_check_ms_max)
            guard = TokenGuard(store, stream_check_s=limits.tokens_check_ms_max / 1000)
        tls = None if tls_files is None else ServerTls.open(tls_files)
        return cls(server_options(limits), guard, tls)

    def add_port(self, server: grpc.aio.Server, address: str) -> int:
        """Let a server listen on `host:port`, encrypted if there is TLS; returns the port. Raises RuntimeError."""
        if self.tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, self.tls.credentials())

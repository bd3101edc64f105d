"""Which addresses a server may listen on: this machine's own, unless more is asked for in so many words."""

import ipaddress
import socket

from ffnsearch_service.errors import AddressError


def listening_address(host: str, port: int, *, insecure_public: bool) -> str:
    """The address `host:port` to listen on, once it is known to be allowed and free.

    Raises AddressError for a port in use, a host that is not this machine's, or one that others can reach while
    `insecure_public` is not set: calls are neither encrypted nor authenticated.
    """
    if not 0 <= port <= 65535:
        raise AddressError(f"port {port} does not exist: choose one of 1 to 65535, or 0 for a free one", port=port)
    if not (insecure_public or is_loopback(host)):
        raise AddressError(
            f"{host} can be reached from other machines, and calls are neither encrypted nor authenticated: "
            "listen on 127.0.0.1, or accept that with --insecure-public",
            reason="PUBLIC_ADDRESS",
            host=host,
        )
    return require_free(host, port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can call `host`, a name or a literal address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def join(host: str, port: int) -> str:
    """Write an address as gRPC reads it; a literal IPv6 host goes in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def require_free(host: str, port: int) -> str:
    """The address `host:port`, bound once and let go: the operating system says why not, gRPC only that it failed.

    Raises AddressError where nothing can listen there.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # gRPC sets it too: a closing socket is no use
            probe.bind(place)
            probe.listen(1)
    except OSError as error:
        raise AddressError(
            f"cannot listen on {join(host, port)}: {error.strerror}; choose another --port or --host",
            reason="ADDRESS_UNAVAILABLE",
            host=host,
            port=port,
        ) from None
    return join(host, port)

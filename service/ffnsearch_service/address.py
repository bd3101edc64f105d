"""Which addresses may a server listen on? Only this machine's own, unless the settings explicitly ask for more."""

import ipaddress
import socket

from ffnsearch_service.errors import AddressError

_SETTING = {"TLS": "[tls] certificate_file and key_file", "tokens": "[auth] tokens_file"}


def listening_address(
    host: str, port: int, *, insecure_public: bool, encrypted: bool = False, authenticated: bool = False
) -> str:
    """The address `host:port` to listen on, once it is known to be allowed and free.

    encrypted, authenticated: whether calls go through TLS and take a token. Raises AddressError for a port in use, a
    host that is not this machine's, or one that others can reach without both, while `insecure_public` is not set.
    """
    missing = missing_protection(host, encrypted=encrypted, authenticated=authenticated)
    if missing and not insecure_public:
        raise AddressError(
            f"{host or 'every address'} can be reached from other machines, and the server has no "
            f"{' and no '.join(missing)}: set {' and '.join(_SETTING[what] for what in missing)}, listen on 127.0.0.1, "
            "or accept it with --insecure-public",
            reason="PUBLIC_ADDRESS",
            host=host,
        )
    return require_free(host, port)


def missing_protection(host: str, *, encrypted: bool, authenticated: bool) -> list[str]:
    """What a server lacks, of "TLS" and "tokens", to listen on a host; nothing where only this machine can reach it."""
    if is_loopback(host):
        return []
    return [what for what, is_there in (("TLS", encrypted), ("tokens", authenticated)) if not is_there]


def is_loopback(host: str) -> bool:
    """Whether only this machine can call `host`, a name or a literal address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(address: str) -> str:
    """The host of `host:port`, without the brackets of a literal IPv6 host; "" where it is no such address."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]") if port.isdecimal() else ""


def join(host: str, port: int) -> str:
    """Write an address as gRPC reads it; a literal IPv6 host goes in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def require_free(host: str, port: int) -> str:
    """Return the address `host:port` once nothing else listens there. Raises AddressError.

    It is bound and released here: the operating system says why an address cannot be had, gRPC only that it failed.
    """
    if not 0 <= port <= 65535:
        raise AddressError(f"port {port} does not exist: choose one of 1 to 65535, or 0 for a free one", port=port)
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gRPC does: closing sockets do not count
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

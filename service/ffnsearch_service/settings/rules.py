"""Do the settings fit together? (a configuration -> what contradicts, what is unwise)."""

from collections.abc import Callable, Collection, Iterator
from urllib.parse import urlsplit

from ffnsearch_service.address import is_loopback, join, missing_protection
from ffnsearch_service.config import ServerConfig
from ffnsearch_service.settings.values import shown

Origin = Callable[[str], str]
"""Where the value of a key comes from, for a message."""

_NOT_ABOVE = (
    ("page_size_default", "page_size_max"),
    ("context_tokens_default", "context_tokens_max"),
    ("places_default", "places_max"),
    ("classes_default", "classes_max"),
    ("page_bytes_max", "response_bytes_max"),
    ("prompts_max", "queue_prompts_max"),
)
"""Limits of which the first must not be above the second."""

_PROTECTIONS = {"TLS": "tls.certificate_file, tls.key_file", "tokens": "auth.tokens_file"}
"""The settings that give a server what it lacks."""


def problems(config: ServerConfig, origin: Origin, doubtful: Collection[str] = ()) -> Iterator[str]:
    """What no server can run with, each in one line with the key at fault, its origin and the next step.

    doubtful: sections with values that could not be read; what a rule would say of those could mislead.
    """
    for rule, concerned in _RULES:
        if not concerned.intersection(doubtful):
            yield from rule(config, origin)


def warnings(config: ServerConfig) -> Iterator[str]:
    """What a server can run with, though it may not be intended."""
    if config.insecure_public and not is_loopback(config.host):
        yield f"{config.host} can be reached from other machines, and server.insecure_public lets anyone call"
    if config.insecure_public and config.metrics.port is not None and not is_loopback(config.metrics.host):
        yield f"metrics at {config.metrics.host} can be read from other machines, by anyone"
    if config.auth.tokens_file and not config.tls.certificate_file:
        yield "tokens travel unencrypted: set tls.certificate_file and tls.key_file"
    if config.admin.enabled and not config.auth.tokens_file:
        yield "administrative calls are open to everyone who reaches the address: set auth.tokens_file"
    if config.admin.enabled and not config.state_folder:
        yield "aliases and loaded snapshots are forgotten at the end: set server.state_folder"
    if config.verify == "sizes":
        yield "server.verify is sizes: a damaged snapshot is noticed late, or never"
    if config.metrics.port is None:
        yield "metrics are off, and with them readiness over HTTP: set metrics.port"


def _snapshots(config: ServerConfig, origin: Origin) -> Iterator[str]:
    if not config.snapshots and not config.admin.enabled:
        yield "no snapshot is given: name one as an argument, or in the section snapshots of a file"
    known = ", ".join(config.snapshots) or "none"
    for alias, name in config.aliases.items():
        key = f"aliases.{alias}"
        if alias in config.snapshots:
            yield f"{key} ({origin(key)}): a snapshot has this name too: rename one of the two"
        if name not in config.snapshots:
            yield f"{key} ({origin(key)}): there is no snapshot {shown(name)}: choose one of those given, {known}"


def _encryption(config: ServerConfig, origin: Origin) -> Iterator[str]:
    tls = config.tls
    pairs = (
        ("certificate_file", "key_file", "the private key of the certificate"),
        ("key_file", "certificate_file", "the certificate of the key"),
        ("client_ca_file", "certificate_file", "the server's own certificate"),
    )
    for one, other, what in pairs:
        if getattr(tls, one) and not getattr(tls, other):
            yield f"tls.{one} ({origin(f'tls.{one}')}) is set without tls.{other}, {what}: set both, or neither"


def _public_calls(config: ServerConfig, origin: Origin) -> Iterator[str]:
    encrypted, authenticated = bool(config.tls.certificate_file), bool(config.auth.tokens_file)
    missing = missing_protection(config.host, encrypted=encrypted, authenticated=authenticated)
    if missing and not config.insecure_public:
        yield (
            f"server.host ({origin('server.host')}): {shown(config.host)} can be reached from other machines: set "
            f"{' and '.join(_PROTECTIONS[what] for what in missing)}, listen on 127.0.0.1, or accept with "
            "--insecure-public that anyone may call"
        )


def _metrics(config: ServerConfig, origin: Origin) -> Iterator[str]:
    metrics = config.metrics
    if metrics.port is None:
        return
    if not (is_loopback(metrics.host) or config.insecure_public):
        yield (
            f"metrics.host ({origin('metrics.host')}): {shown(metrics.host)} can be reached from other machines, "
            "and metrics are neither encrypted nor authenticated: listen on 127.0.0.1, or accept that with "
            "--insecure-public"
        )
    if metrics.port == config.port != 0 and metrics.host == config.host:
        address = join(config.host, config.port)
        yield f"metrics.port ({origin('metrics.port')}): {address} is where calls are taken: choose another port"


def _limits(config: ServerConfig, origin: Origin) -> Iterator[str]:
    for smaller, larger in _NOT_ABOVE:
        value, bound = getattr(config.limits, smaller), getattr(config.limits, larger)
        if value > bound:
            key, above = f"limits.{smaller}", f"limits.{larger}"
            yield (
                f"{key} ({origin(key)}): {value} is above {above} ({origin(above)}), {bound}: lower the one or raise "
                "the other"
            )


def _tracing(config: ServerConfig, origin: Origin) -> Iterator[str]:
    endpoint = config.tracing.endpoint
    if endpoint is None:
        return
    try:
        parts = urlsplit(endpoint)
        is_fit = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port is not None
    except ValueError:
        is_fit = False
    if not is_fit:
        where = f"tracing.endpoint ({origin('tracing.endpoint')})"
        yield f"{where}: {shown(endpoint)} is no address of a collector: write http://HOST:PORT, or https://"


_RULES: tuple[tuple[Callable[[ServerConfig, Origin], Iterator[str]], frozenset[str]], ...] = (
    (_snapshots, frozenset({"snapshots", "aliases", "server"})),
    (_encryption, frozenset({"tls"})),
    (_public_calls, frozenset({"server", "tls", "auth"})),
    (_metrics, frozenset({"server", "metrics"})),
    (_limits, frozenset({"limits"})),
    (_tracing, frozenset({"tracing"})),
)
"""Each rule with the sections that it looks at."""

"""What watches a server from its start to its end? (settings -> metrics, log lines, spans and health, together)."""

from ffnsearch_service.address import is_loopback, require_free
from ffnsearch_service.closing import Closing
from ffnsearch_service.config import ServerConfig
from ffnsearch_service.errors import AddressError
from ffnsearch_service.operations.calls import CallWatch
from ffnsearch_service.operations.endpoint import METRICS_TYPE, Endpoint, Page
from ffnsearch_service.operations.health import Health
from ffnsearch_service.operations.logs import log_call
from ffnsearch_service.operations.metrics import Metrics
from ffnsearch_service.operations.record import CallRecord
from ffnsearch_service.operations.seen import CatalogSeen
from ffnsearch_service.operations.tracing import Tracer


class Operations(Closing):
    """Everything that watches one server. Made before snapshots are read, closed after they are.

    calls: what each call of the server passes. metrics: what counts the engine's batches. health: the servicer of
    grpc.health.v1. Where the settings name no port, nobody can read the metrics.
    """

    def __init__(self, config: ServerConfig, health: Health, version: str) -> None:
        """Begin to watch; with a port for it, measurements and probes can be read at once.

        Raises SettingsError for a missing extra, AddressError for a port that cannot be had.
        """
        self.health = health
        self.metrics = Metrics(version)
        self.calls = CallWatch(self.metrics.begun, self._ended)
        self._tracer = Tracer.open(config.tracing, version)
        self._endpoint = self._listen(config)

    @property
    def address(self) -> str | None:
        """Where measurements and probes are read, `host:port`, or None."""
        return self._endpoint.address if self._endpoint else None

    def see(self, catalog: CatalogSeen) -> None:
        """Let measurements and health report these snapshots and aliases from now on."""
        self.metrics.see(catalog)
        self.health.see(catalog)

    def close(self) -> None:
        """Send the spans that wait, at most some seconds long, and stop listening."""
        if self._tracer:
            self._tracer.close()
        if self._endpoint:
            self._endpoint.close()

    def _ended(self, record: CallRecord, is_unary: bool) -> None:
        self.metrics.ended(record, is_unary=is_unary)
        log_call(record)
        if self._tracer:
            self._tracer.ended(record)

    def _listen(self, config: ServerConfig) -> Endpoint | None:
        settings = config.metrics
        if settings.port is None:
            return None
        if not (is_loopback(settings.host) or config.insecure_public):
            raise AddressError(
                f"metrics at {settings.host} could be read from other machines, by anyone: set metrics.host to "
                "127.0.0.1, or accept it with --insecure-public",
                reason="PUBLIC_ADDRESS",
                host=settings.host,
            )
        require_free(settings.host, settings.port)
        pages = {
            "/metrics": lambda: Page(200, METRICS_TYPE, self.metrics.text()),
            "/livez": lambda: Page(200, "text/plain", b"alive\n"),
            "/readyz": lambda: (
                Page(200, "text/plain", b"ready\n") if self.health.is_ready else Page(503, "text/plain", b"not ready\n")
            ),
        }
        return Endpoint(settings.host, settings.port, pages)

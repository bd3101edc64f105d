"""How are measurements, liveness and readiness read over HTTP? (GET /metrics, /livez, /readyz)."""

import logging
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SHUT_RDWR, SOCK_STREAM, getaddrinfo, socket
from typing import Any, NamedTuple

from ffnsearch_service.address import join

REQUESTS_MAX = 8
"""Requests answered at a time: scrapers and probes come one by one, and each costs a thread."""

CONNECTION_S_MAX = 5.0
"""How long a connection may take for its request and its response together, even byte by byte."""

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_log = logging.getLogger(__name__)


class Page(NamedTuple):
    """An answer: status, media type, content."""

    status: int
    media_type: str
    content: bytes


class Endpoint:
    """Serves pages on a port of its own, from threads of its own. Listens once made; close it."""

    def __init__(self, host: str, port: int, pages: Mapping[str, Callable[[], Page]]) -> None:
        """Listen at `host:port`, for the pages by path. Raises OSError."""
        self._server = _Server((host, port), _handler(pages))
        self.address = join(host, self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="ffnsearch-endpoint", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening; does not wait for whoever reads slowly."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """A thread a connection, and never more than `REQUESTS_MAX` of them: one too many is closed at once."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._places = threading.BoundedSemaphore(REQUESTS_MAX)
        self.address_family = getaddrinfo(*address, type=SOCK_STREAM)[0][0]  # IPv6 too
        super().__init__(address, handler)

    def process_request(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._places.release()
            raise

    def process_request_thread(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        end = threading.Timer(CONNECTION_S_MAX, _cut, (request,))
        end.daemon = True
        try:
            end.start()
            super().process_request_thread(request, client_address)
        finally:
            end.cancel()
            self._places.release()

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """Log a page that cannot be made, but not a peer that has gone."""
        if not isinstance(sys.exception(), OSError):
            _log.exception("a page could not be made")


def _cut(connection: socket) -> None:
    """End a connection, whoever reads or writes there."""
    with suppress(OSError):
        connection.shutdown(SHUT_RDWR)


def _handler(pages: Mapping[str, Callable[[], Page]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version = "ffnsearch"
        sys_version = ""

        def do_GET(self) -> None:
            make = pages.get(self.path.partition("?")[0])
            page = make() if make else Page(404, "text/plain", f"try {', '.join(pages)}\n".encode())
            self.send_response(page.status)
            self.send_header("Content-Type", page.media_type)
            self.send_header("Content-Length", str(len(page.content)))
            self.end_headers()
            self.wfile.write(page.content)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Log nothing: a scrape comes every few seconds."""

    return Handler

"""Prometheus figures and the health answer, on a listener of their own.

``GET /metrics`` is the exposition format of prometheus-client; ``GET /health``
answers 200 ``ok`` or 503 with the reason, for load balancers and for whoever
waits until a daemon is up.  It runs in a thread, so that a scrape never waits
for the event loop, and still answers when the loop is busy.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.types import StartResponse

from prometheus_client import REGISTRY, CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from lj_services.daemon.config import HostPort

_LOOKS_UP_S = 60.0
"""How often the thread looks whether it is to end, in seconds; `MetricsServer.close` wakes it."""


class _QuietHandler(WSGIRequestHandler):
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are no events."""


class MetricsServer:
    """Serves ``/metrics`` and ``/health`` from a daemon thread."""

    def __init__(
        self,
        listen: HostPort,
        health: Callable[[], str | None],
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        """
        Args:
            listen: where to listen.
            health: called per request; None is healthy, a text says what is wrong.
            registry: whose figures are shown.

        Raises:
            OSError: the address can't be bound.
        """
        metrics = make_wsgi_app(registry)

        def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
            path = environ["PATH_INFO"]
            if path == "/metrics":
                answer: Iterable[bytes] = metrics(environ, start_response)
                return answer
            if path == "/health":
                wrong = health()
                status = "200 OK" if wrong is None else "503 Service Unavailable"
                body = "ok\n" if wrong is None else f"{wrong}\n"
            else:
                status, body = "404 Not Found", "try /metrics or /health\n"
            start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
            return [body.encode()]

        self._server = make_server(
            listen.host, listen.port, app, ThreadingWSGIServer, _QuietHandler
        )
        self.port: int = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_LOOKS_UP_S,), daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the address."""
        # Wakes the thread, which then finds that it is to end.
        self._server.socket.shutdown(socket.SHUT_RDWR)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

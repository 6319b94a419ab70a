"""Clients that ask over and over while something happens to the server, and count what is lost."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.process import wait_for

LONGEST_WAIT_S = 60.0


class HttpLoad:
    """Clients with connections that are kept; each asks as soon as it has its answer.

    Attributes:
        answered: responses with 200.
        lost: what became of the other requests.
        slowest_s: the longest that one took.
        longest_gap_s: the longest time in which nobody got a response with 200.

    Args:
        port: of the server.
        target: what is asked for.
        clients: how many ask.
        host: of the server.
        keep: whether a client's connection is kept for its next request.
        patience_s: how long one waits.
        pause_s: how long a client does nothing between its requests.
    """

    def __init__(
        self,
        port: int,
        target: str,
        clients: int,
        host: str = "127.0.0.1",
        *,
        keep: bool = True,
        patience_s: float = LONGEST_WAIT_S,
        pause_s: float = 0.0,
    ) -> None:
        self.answered = 0
        self.lost: list[str] = []
        self.slowest_s = 0.0
        self.longest_gap_s = 0.0
        self._last = time.monotonic()
        self._port = port
        self._target = target
        self._host = host
        self._keep = keep
        self._patience_s = patience_s
        self._pause_s = pause_s
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._patience_s)
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                connection.request("GET", self._target)
                response = connection.getresponse()
                response.read()
                problem = "" if response.status == 200 else f"status {response.status}"
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                problem = repr(error)
            if not self._keep:
                connection.close()
            with self._lock:
                now = time.monotonic()
                self.slowest_s = max(self.slowest_s, now - started)
                if problem:
                    self.lost.append(problem)
                else:
                    self.answered += 1
                    self.longest_gap_s = max(self.longest_gap_s, now - self._last)
                    self._last = now
            if self._pause_s:
                self._stop.wait(self._pause_s)
        connection.close()

    def go_on(self, requests: int) -> None:
        """Return when so many more requests have been answered."""
        wanted = self.answered + requests
        wait_for(lambda: self.answered >= wanted, f"{requests} more answers")

    def stop(self) -> None:
        """End all clients, each with the answer that it waits for."""
        self._stop.set()
        for thread in self._threads:
            thread.join(LONGEST_WAIT_S)


@contextmanager
def http_load(
    port: int, target: str = "/", clients: int = 8, pause_s: float = 0.0
) -> Iterator[HttpLoad]:
    """Clients that ask for the length of the block, and have all their answers behind it."""
    load = HttpLoad(port, target, clients, pause_s=pause_s)
    try:
        load.go_on(clients)
        yield load
    finally:
        load.stop()

"""The site as a daemon: uvicorn inside the manners that all daemons share.

uvicorn speaks HTTP; signals, drain and exit codes are `run_service`'s.  `Connection` adds
what uvicorn leaves open: how many clients there may be, how long one may be silent, how long
the head of a request may get, and how long a request may take to arrive.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from typing import Any

import uvicorn
from prometheus_client import Counter
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lj_services.daemon import ConnectionLimits
from lj_services.database import Databases
from lj_services.gearman.client import Client as JobClient
from lj_services.journal.app import make_app
from lj_services.journal.config import JournalSettings
from lj_services.memcached.client import Client
from lj_services.usercluster import Users

MOST_HEAD = 64 << 10
"""Bytes that may arrive without the head of a request being complete."""
BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 17\r\n\r\nToo many clients\n"
)
HEAD_TOO_LONG = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 33\r\n\r\nThe head of the request is large\n"
)
TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 33\r\n\r\nThe request took long to arrive.\n"
)
SLOW = Counter("lj_journal_slow_requests_total", "clients cut off after request_timeout_s")


class Connection(HttpToolsProtocol):
    """One client's connection, within the daemon's limits.

    Args:
        limits: how many there may be, and how long they may be silent.
        request_timeout_s: seconds that a request may take to arrive.  They are looked at when
            a piece of it comes, which needs no timer; who sends nothing is silent.
    """

    def __init__(
        self, limits: ConnectionLimits, request_timeout_s: float, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._request_timeout_s = request_timeout_s
        self._began: float | None = None
        self._head = 0
        self._in_head = True
        self._ended = False
        self.last_input = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.last_input = self.loop.time()
        if not self._limits.admit(self):
            transport.write(BUSY)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._limits.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self.last_input = self.loop.time()
        if self._began is None:
            self._began = self.last_input
        elif self.last_input - self._began > self._request_timeout_s:
            self._cut_off_slow()
            return
        self._ended = False
        super().data_received(data)
        # What ends a request belongs to its body, and is no head of the next one.
        if self._in_head and not self._ended:
            self._head += len(data)
            if self._head > MOST_HEAD and not self.transport.is_closing():
                self.transport.write(HEAD_TOO_LONG)
                self.transport.close()

    def on_message_begin(self) -> None:
        self._in_head, self._head = True, 0
        self._began = self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head, self._head, self._ended = True, 0, True
        self._began = None
        super().on_message_complete()

    def close(self) -> None:
        """Cut the client off."""
        self.transport.close()

    def _cut_off_slow(self) -> None:
        SLOW.inc()
        if self._in_head:
            can_answer = self.cycle is None or self.cycle.response_complete
        else:
            can_answer = not self.pipeline and not self.cycle.response_started
        if can_answer:  # else it would land in the middle of another answer
            self.transport.write(TOO_SLOW)
        self.transport.close()


class JournalService:
    """The site, as `run_service` wants it.

    Args:
        settings: the daemon's settings.
        databases: migrated; closed by whoever made them.
        users: the site's users.
        cache: None for none.
        url: where the front page is reached from outside.
        jobs: the job servers; None for none.

    Raises:
        ConfigError: the secret can't be used.
    """

    def __init__(
        self,
        settings: JournalSettings,
        databases: Databases,
        users: Users,
        cache: Client | None,
        url: str,
        jobs: JobClient | None = None,
    ) -> None:
        self._settings = settings
        self._app = make_app(databases, users, cache, settings, jobs=jobs, url=url)
        self._limits = ConnectionLimits(
            "journal", settings.max_connections, settings.idle_timeout_s
        )
        config = uvicorn.Config(
            self._app,
            http=functools.partial(  # type: ignore[arg-type]
                Connection, self._limits, settings.request_timeout_s
            ),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=list(settings.trusted_proxies),
            timeout_keep_alive=max(1, int(settings.idle_timeout_s)) or 3600,
        )
        config.load()
        self._server = uvicorn.Server(config)
        self._server.lifespan = config.lifespan_class(config)
        self._ticking: asyncio.Task[None] | None = None
        self._sockets: list[socket.socket] = []

    async def start(self) -> None:
        listen = self._settings.listen
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in found[:1]:
            opened = socket.socket(family, kind, protocol)
            self._sockets.append(opened)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.setblocking(False)
            opened.bind(address)
        await self._server.startup(sockets=self._sockets)
        self._ticking = asyncio.create_task(self._server.main_loop())

    async def drain(self) -> None:
        self._server.should_exit = True
        if self._ticking is not None:
            await self._ticking
        await self._server.shutdown(sockets=self._sockets)

    async def close(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
        for server in getattr(self._server, "servers", ()):
            server.close()
        for opened in self._sockets:
            opened.close()
        self._limits.close_all()
        self._app.state.kit.recents.close()

    def reload(self, settings: JournalSettings) -> None:
        """Log format and level change in a running site; everything else needs a restart."""

"""The console: commands as lines of text, and a status page for browsers, on one port.

A line is a command of the configuration language; the answer's lines end in CRLF.  What
begins like a request of HTTP is one: ``/`` lists services, ``/service?NAME``, ``/socks``,
``/nodes``, ``/queues``, ``/states`` and ``/obj`` show what the commands of these names do.
Pages only show; nothing can be changed by HTTP, so no page of another site can.

Source: Perlbal::Manual::Management, and Perlbal 1.80's answers.
"""

from __future__ import annotations

import asyncio
import html
import logging
import re
from typing import TYPE_CHECKING, Any, Final, Protocol

from lj_services.perlbal.answering import Waiting
from lj_services.perlbal.connected import Connected
from lj_services.perlbal.http.answers import connection_field, head
from lj_services.perlbal.http.errors import BadMessage
from lj_services.perlbal.http.parse import parse_request
from lj_services.perlbal.language import Context
from lj_services.perlbal.service import BaseRole

if TYPE_CHECKING:
    from lj_services.perlbal.frontend import ClientConnection

MAX_LINE: Final = 8 << 10
"""Bytes of a command beyond which its sender is cut off."""
_HTTP_STARTS = (b"GET ", b"HEAD ", b"POST ")
_SERVICE_LINK = re.compile(r"service(=|&#x27;| &#x27;)(\w+)")
_PAGES: Final = {
    "/socks": ("socks summary", "socks"),
    "/obj": ("obj",),
    "/nodes": ("nodes", "backends", "noverify"),
    "/queues": ("queues", "pending"),
    "/states": ("states",),
}


log = logging.getLogger(__name__)


class Host(Protocol):
    """What a console is the console of: a balancer, or several that work as one."""

    connections: set[Any]

    @property
    def now(self) -> float:
        """The loop's time, in seconds."""

    async def answer(self, line: str, context: Context) -> list[str]:
        """Carry out a line; returns what is answered."""


class ManagementRole(BaseRole):
    """A service that is the console."""

    def connection(self) -> asyncio.BaseProtocol:
        """A protocol for an operator, or an operator's browser."""
        return Console(self.service.balancer, self.service.name)

    def start(self, client: ClientConnection) -> None:
        """A selector has sent a browser here."""
        client.exchange = waiting = Waiting("console")
        target = client.request.target.decode("latin-1")
        task = asyncio.get_running_loop().create_task(page(self.service.balancer, target))

        def done(task: asyncio.Task[tuple[int, bytes]]) -> None:
            if client.exchange is waiting and not task.cancelled():
                status, body = task.result()
                client.answer(status, (("Content-Type", "text/html; charset=utf-8"),), body)

        task.add_done_callback(done)


class Console(Connected):
    """One connection to the console."""

    kind = "Perlbal::ClientManage"
    state = "console"

    def __init__(self, host: Host, service_name: str) -> None:
        super().__init__(host.now)
        self.service_name = service_name
        """The service that it has connected to."""
        self.peer = ""
        self._host = host
        self._context = Context(verbose=True)
        self._buffer = b""
        self._working: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody has come."""
        super().connection_made(transport)
        name = transport.get_extra_info("peername")
        self.peer = name[0] if name else ""
        self._host.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """And is gone."""
        self._host.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        """Lines, or a request."""
        self._buffer += data
        if self._working is None:
            self._working = asyncio.get_running_loop().create_task(self._work())
            self._working.add_done_callback(self._worked)
        elif len(self._buffer) > MAX_LINE:
            self.transport.pause_reading()

    async def _work(self) -> None:
        """Answer what has come, one line after the other."""
        if self._buffer.startswith(_HTTP_STARTS):
            await self._request()
            return
        while not self.transport.is_closing():
            line, newline, rest = self._buffer.partition(b"\n")
            if not newline:
                break
            self._buffer = rest
            await self._line(line.rstrip(b"\r").decode("utf-8", "replace"))
        if len(self._buffer) > MAX_LINE:
            self.transport.write(b"ERROR: the line is too long\r\n")
            self.transport.close()

    def _worked(self, task: asyncio.Task[None]) -> None:
        self._working = None
        if not task.cancelled() and task.exception() is not None:
            log.error("console: %r", task.exception())
            self.transport.abort()
        elif not self.transport.is_closing():
            self.transport.resume_reading()
            if b"\n" in self._buffer and not self._buffer.startswith(_HTTP_STARTS):
                self.data_received(b"")

    def pause_writing(self) -> None:
        """The operator does not read: take no more commands."""
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """The operator has read."""
        self.transport.resume_reading()

    async def _line(self, line: str) -> None:
        if line.strip().lower() in ("quit", "exit"):
            self.transport.close()
            return
        answer = await self._host.answer(line, self._context)
        if answer:
            text = "".join(f"{each}\r\n" for each in answer)
            self.transport.write(text.encode("utf-8", "replace"))

    async def _request(self) -> None:
        try:
            parsed = parse_request(self._buffer)
        except BadMessage as error:
            status, body = error.status, str(error).encode()
            method = b"GET"
        else:
            if parsed is None:
                return
            request = parsed[0]
            method = request.method
            if method == b"POST":
                status, body = 405, b"Nothing can be changed by HTTP; use the console."
            else:
                status, body = await page(self._host, request.target.decode("latin-1"))
        fields = (
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("X-Frame-Options", "DENY"),
        )
        answer = head(status, fields) + connection_field(False, 0)
        self.transport.write(answer + (b"" if method == b"HEAD" else body))
        self.transport.close()

    # -- for the console ----------------------------------------------------------

    def describe(self) -> str:
        """One line about it."""
        return f"({self.peer}): service={self.service_name}"


async def page(host: Host, target: str) -> tuple[int, bytes]:
    """The status and the body of a page of the console."""
    path, _, query = target.partition("?")
    status = 200
    if path == "/":
        body = await _front(host)
    elif path in _PAGES:
        body = "".join([await _box(host, command) for command in _PAGES[path]])
    elif path == "/service" and _known(query, await host.answer("show service", Context())):
        body = await _box(host, f"show service {query}")
    else:
        status, body = 404, "<h1>404 Not found</h1>\n"
    links = " · ".join(f'<a href="{each}">{each[1:]}</a>' for each in _PAGES)
    return status, (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<title>perlbal management interface</title>\n"
        "<style>body{font:15px sans-serif;margin:2em}pre{background:#f4f4f4;padding:.7em}"
        "h2{font-size:1em;margin-bottom:0}</style></head><body>\n"
        f'{body}<hr><p><a href="/">Perlbal management</a> · {links}</p></body></html>\n'
    ).encode()


def _known(name: str, services: list[str]) -> bool:
    return bool(name) and any(line.partition(" ")[0] == name for line in services)


async def _front(host: Host) -> str:
    items = []
    for line in await host.answer("show service", Context()):
        name, _, where = line.partition(" ")
        if not where:
            continue
        block = await host.answer(f"show service {name}", Context())
        role = next((row.partition(":")[2].strip() for row in block if "  role:" in row), "")
        address, _, state = where.rpartition(" ")
        shown = html.escape(f"{role} ({address}){'' if state == 'ENABLED' else ', disabled'}")
        items.append(f'<li><a href="/service?{name}">{name}</a> - {shown}</li>\n')
    figures = "".join([await _box(host, each) for each in ("proc", "uptime", "show pool")])
    return (
        "<h1>perlbal management interface</h1>\n"
        f"<h2>Services</h2><ul>\n{''.join(items)}</ul>\n{figures}"
    )


async def _box(host: Host, command: str) -> str:
    answer = await host.answer(command, Context())
    text = html.escape("\n".join(line for line in answer if line != "."))
    text = _SERVICE_LINK.sub(r'service\1<a href="/service?\2">\2</a>', text)
    return f"<h2>{command}</h2><pre>{text}</pre>\n"

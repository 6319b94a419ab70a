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
import re
from typing import TYPE_CHECKING, Any, Final

from lj_services.perlbal.http.answers import connection_field, head
from lj_services.perlbal.http.errors import BadMessage
from lj_services.perlbal.http.parse import parse_request
from lj_services.perlbal.language import Context
from lj_services.perlbal.service import BaseRole, Service

if TYPE_CHECKING:
    from lj_services.perlbal.balancer import Balancer
    from lj_services.perlbal.frontend import ClientConnection

MAX_LINE: Final = 8 << 10
"""Bytes of a command beyond which its sender is cut off."""
_HTTP = re.compile(rb"(?:GET|HEAD|POST) ")
_HTTP_STARTS = (b"GET ", b"HEAD ", b"POST ")
_SERVICE_LINK = re.compile(r"service(=|&#x27;| &#x27;)(\w+)")
_PAGES: Final = {
    "/socks": ("socks summary", "socks"),
    "/obj": ("obj",),
    "/nodes": ("nodes", "backends", "noverify"),
    "/queues": ("queues", "pending"),
    "/states": ("states",),
}


class ManagementRole(BaseRole):
    """A service that is the console."""

    def connection(self) -> asyncio.BaseProtocol:
        """A protocol for an operator, or an operator's browser."""
        return Console(self.service)

    def start(self, client: ClientConnection) -> None:
        """A selector has sent a browser here."""
        status, body = page(self.service.balancer, client.request.target.decode("latin-1"))
        client.answer(status, (("Content-Type", "text/html; charset=utf-8"),), body)


class Console(asyncio.Protocol):
    """One connection to the console."""

    kind = "Perlbal::ClientManage"
    has_file = False
    state = "console"

    def __init__(self, service: Service) -> None:
        self.service = service
        self.balancer = service.balancer
        self.created = self.balancer.now
        self.peer = ""
        self._context = Context(verbose=True)
        self._buffer = b""
        self._http = False
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody has come."""
        self._transport = transport
        name = transport.get_extra_info("peername")
        self.peer = name[0] if name else ""
        self.balancer.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """And is gone."""
        self.balancer.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        """Lines, or a request."""
        self._buffer += data
        if self._http or self._buffer.startswith(_HTTP_STARTS):
            self._http = True
            self._request()
            return
        while not self._transport.is_closing():
            line, newline, rest = self._buffer.partition(b"\n")
            if not newline:
                break
            self._buffer = rest
            self._line(line.rstrip(b"\r").decode("utf-8", "replace"))
        if len(self._buffer) > MAX_LINE:
            self._transport.write(b"ERROR: the line is too long\r\n")
            self._transport.close()

    def pause_writing(self) -> None:
        """The operator does not read: take no more commands."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The operator has read."""
        self._transport.resume_reading()

    def _line(self, line: str) -> None:
        if line.strip().lower() in ("quit", "exit"):
            self._transport.close()
            return
        answer, _well = self.balancer.run(line, self._context)
        if answer:
            text = "".join(f"{each}\r\n" for each in answer)
            self._transport.write(text.encode("utf-8", "replace"))

    def _request(self) -> None:
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
                status, body = page(self.balancer, request.target.decode("latin-1"))
        fields = (
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("X-Frame-Options", "DENY"),
        )
        answer = head(status, fields) + connection_field(False, 0)
        self._transport.write(answer + (b"" if method == b"HEAD" else body))
        self._transport.close()

    # -- for the console ----------------------------------------------------------

    @property
    def service_name(self) -> str:
        """The service that it has connected to."""
        return self.service.name

    @property
    def unsent(self) -> int:
        """Bytes that wait for the operator to read."""
        return int(self._transport.get_write_buffer_size())

    @property
    def fd(self) -> int:
        """The socket's number."""
        connected = self._transport.get_extra_info("socket")
        return int(connected.fileno()) if connected is not None else -1

    def describe(self) -> str:
        """One line about it."""
        return f"({self.peer}): service={self.service.name}"


def page(balancer: Balancer, target: str) -> tuple[int, bytes]:
    """The status and the body of a page of the console."""
    path, _, query = target.partition("?")
    status = 200
    if path == "/":
        body = _front(balancer)
    elif path in _PAGES:
        body = "".join(_box(balancer, command) for command in _PAGES[path])
    elif path == "/service" and query in balancer.services:
        body = _box(balancer, f"show service {query}")
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


def _front(balancer: Balancer) -> str:
    items = []
    for name, service in sorted(balancer.services.items()):
        state = "" if service.enabled else ", disabled"
        where = html.escape(f"{service.parameters.role} ({service.where}){state}")
        items.append(f'<li><a href="/service?{name}">{name}</a> - {where}</li>\n')
    figures = "".join(_box(balancer, command) for command in ("proc", "uptime", "show pool"))
    return (
        "<h1>perlbal management interface</h1>\n"
        f"<h2>Services</h2><ul>\n{''.join(items)}</ul>\n{figures}"
    )


def _box(balancer: Balancer, command: str) -> str:
    answer, _well = balancer.run(command, Context())
    text = html.escape("\n".join(line for line in answer if line != "."))
    text = _SERVICE_LINK.sub(r'service\1<a href="/service?\2">\2</a>', text)
    return f"<h2>{command}</h2><pre>{text}</pre>\n"

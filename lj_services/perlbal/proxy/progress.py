"""How far uploads are: told over UDP to trackers, which tell browsers.

A browser adds ``client_up_sess=WORD`` (5 to 50 letters, digits, ``_``) to the address that it posts
to.  While the body comes, everybody in ``upload_status_listeners`` is sent::

    UPLOAD:WORD:bytes that have come:bytes of all:when it began:when this was sent

once a second at most, and when it is whole; times are seconds since 1970.  A service with the
role ``upload_tracker`` listens to that.  Reverse proxies of its balancer that have listeners
answer ``/__upload_status?client_up_sess=WORD`` with what it has heard last::

    {done:300000,total:1000000,starttime:1234567890,nowtime:1234567895}

or ``{}``.  Bodies that come in chunks are of unknown size, and not told of.

Source: Perlbal 1.80, upload_status_listeners (Perlbal::Manual::ReverseProxy).
"""

from __future__ import annotations

import logging
import re
import socket
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from lj_services.perlbal.frontend import ClientConnection
    from lj_services.perlbal.nodes import Address
    from lj_services.perlbal.proxy.exchange import Exchange

_SESSION = re.compile(rb"[?&]client_up_sess=(\w{5,50})\b", re.ASCII)
_QUESTION: Final = b"/__upload_status?"
TOLD: Final = re.compile(rb"UPLOAD:(\w{5,50}):(\d{1,18}):(\d{1,18}):(\d{1,18}):\d{1,18}", re.ASCII)
"""A datagram."""
TOPIC: Final = "uploads"
"""On the balancer's `bus`: datagrams, as they came."""
KEPT_S: Final = 30.0
"""How long a tracker remembers an upload that it hears nothing of any more."""
MOST_KEPT: Final = 10_000
"""Uploads that a tracker remembers."""

log = logging.getLogger(__name__)


class Tracker:
    """What is known of uploads, by session; the one that was heard of last is the last."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[bytes, bytes, bytes, float]] = {}

    def heard(self, datagram: bytes, now: float) -> None:
        """Somebody has told of an upload; what is no such message is not looked at.

        Args:
            datagram: as it came.
            now: loop time.
        """
        found = TOLD.fullmatch(datagram)
        if found is None:
            return
        session, done, total, began = found.groups()
        self._known.pop(session, None)
        self._known[session] = (done, total, began, now)
        while len(self._known) > MOST_KEPT:
            del self._known[next(iter(self._known))]

    def forget(self, now: float) -> None:
        """Let go of what nothing was heard of for `KEPT_S`."""
        for session, (*_, heard) in list(self._known.items()):
            if now - heard < KEPT_S:
                break
            del self._known[session]

    def status(self, session: bytes, wall: int) -> bytes:
        """What a browser is told."""
        known = self._known.get(session)
        if known is None:
            return b"{}"
        return b"{done:%b,total:%b,starttime:%b,nowtime:%d}" % (*known[:3], wall)


class Progress:
    """What one reverse proxy tells of its uploads.

    Attributes:
        listeners: whom; while there is nobody, sessions mean nothing.
    """

    def __init__(self) -> None:
        self.listeners: tuple[Address, ...] = ()
        self._sockets: dict[socket.AddressFamily, socket.socket] = {}

    def answer(self, client: ClientConnection) -> bool:
        """Answer a browser that asks for its upload's state; whether it did."""
        target = client.request.target
        if not target.startswith(_QUESTION) or (found := _SESSION.search(target)) is None:
            return False
        fields = (("Content-Type", "text/plain"), ("Cache-Control", "no-store"))
        client.answer(200, fields, client.balancer.uploads.status(found[1], int(time.time())))
        return True

    def session(self, exchange: Exchange) -> bytes:
        """What an upload is to be called; nothing, if nobody asked for that."""
        if exchange.request.length <= 0:
            return b""
        found = _SESSION.search(exchange.request.target)
        return b"" if found is None else found[1]

    def tell(self, session: bytes, done: int, total: int, began: int) -> None:
        """Tell all listeners; one that can't be told misses it."""
        data = b"UPLOAD:%b:%d:%d:%d:%d" % (session, done, total, began, int(time.time()))
        for address in self.listeners:
            family = socket.AF_INET6 if ":" in address.ip else socket.AF_INET
            try:
                if family not in self._sockets:
                    self._sockets[family] = socket.socket(family, socket.SOCK_DGRAM)
                    self._sockets[family].setblocking(False)
                self._sockets[family].sendto(data, address)
            except OSError as error:
                log.debug("upload_status_listeners: %s: %s", address, error)

    def close(self) -> None:
        """Give the sockets back."""
        for each in self._sockets.values():
            each.close()
        self._sockets.clear()

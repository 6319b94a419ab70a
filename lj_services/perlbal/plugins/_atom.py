"""AtomStream's listeners: one stream of XML to many clients, slow ones told what they missed.

Theory of operation
===================

A listener's response is one endless document: the root's start, then feeds as they are
injected and the time each second.  Nothing is kept for a listener beyond what its
connection takes; while that is full, feeds pass it by and are counted, and when it reads
again it is told the number first.  So memory does not grow with slow listeners, and nobody
waits for them.

The last feeds are kept (`KEPT`), for those who say since when they want them.

Feeds come by the balancer's `bus`, so those of other processes do, too, and in the same order.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from typing import TYPE_CHECKING, Final
from xml.parsers import expat

from lj_services.perlbal.http.answers import date_field
from lj_services.perlbal.plugin import Plugin

if TYPE_CHECKING:
    from lj_services.perlbal.balancer import Balancer
    from lj_services.perlbal.frontend import ClientConnection

TOPIC: Final = "atom"
"""On the balancer's `bus`: feeds, as XML elements."""
KEPT: Final = 60
"""Feeds that are kept for those who ask for older ones."""
BUFFER: Final = 256 << 10
"""Bytes that may wait for one listener."""
_DECLARATION = re.compile(rb"\A(?:\xef\xbb\xbf)?\s*<\?xml[^>]*\?>\s*")
_START: Final = b'<?xml version="1.0" encoding="utf-8"?>\n<atomStream>\n'


class OnTheBus(Plugin):
    """What the two plug-ins have in common."""

    def load(self, balancer: Balancer) -> None:
        """Hear what any process of the balancer takes in."""
        balancer.bus.subscribe(TOPIC, LISTENERS.hear)


class Stream:
    """One listener; its client's exchange.

    Args:
        listeners: which it is one of.
        client: who listens.
    """

    has_file = False
    responded = True

    def __init__(self, listeners: Listeners, client: ClientConnection) -> None:
        self._listeners = listeners
        self._client = client
        self._missed = 0

    def start(self, since: int | None) -> None:
        """Send the beginning, and the feeds that were kept from second `since` on."""
        client = self._client
        client.exchange = self
        client.keep_alive = False
        client.buffer_up_to(BUFFER)
        head = b"HTTP/1.1 200 OK\r\n%bContent-Type: application/xml\r\n" % date_field()
        head += b"Cache-Control: no-store\r\nConnection: close\r\n\r\n"
        client.transport.write(head + (b"" if client.request.method == b"HEAD" else _START))
        if client.request.method == b"HEAD":
            client.done()
            return
        self._listeners.streams.add(self)
        if since is not None:
            for at, feed in self._listeners.kept:
                if at >= since:
                    self.send(feed, counted=True)

    def send(self, piece: bytes, *, counted: bool) -> None:
        """Send a piece, or count it as missed while the client does not read."""
        if not self._client.full:
            self._client.transport.write(piece)
        elif counted:
            self._missed += 1

    def body(self, data: bytes) -> None:
        """Whoever listens has nothing to say."""

    def body_done(self) -> None:
        """The same."""

    def client_full(self) -> None:
        """From now on, feeds are counted."""

    def client_ready(self) -> None:
        """Say how many have passed by."""
        if self._missed:
            missed, self._missed = self._missed, 0
            self._client.transport.write(b'<sorryTooSlow youMissed="%d" />\n' % missed)

    def client_gone(self) -> None:
        """Send no more."""
        self._listeners.streams.discard(self)

    def describe(self) -> str:
        """A few words for the console."""
        return f"; atom stream, missed {self._missed}"


class Listeners:
    """All listeners of a process, and what is sent to them."""

    def __init__(self) -> None:
        self.streams: set[Stream] = set()
        self.kept: deque[tuple[int, bytes]] = deque(maxlen=KEPT)
        self._clock: asyncio.TimerHandle | None = None

    def listen(self, client: ClientConnection, since: int | None) -> None:
        """Answer a client with the stream."""
        Stream(self, client).start(since)
        if self._clock is None and self.streams:
            self._tell_time()

    def hear(self, at: int, feed: str) -> None:
        """Send a feed (an XML element) that came at second `at` to all who listen."""
        piece = feed.encode() + b"\n"
        self.kept.append((at, piece))
        for stream in self.streams:
            stream.send(piece, counted=True)

    def _tell_time(self) -> None:
        """So that listeners notice a dead connection, and know up to when they have all."""
        self._clock = None
        piece = b"<time>%d</time>\n" % int(time.time())
        for stream in self.streams:
            stream.send(piece, counted=False)
        if self.streams:
            self._clock = asyncio.get_running_loop().call_later(1.0, self._tell_time)


def element(document: bytes) -> bytes:
    """A document as an element that can be put into another document.

    Raises:
        ValueError: it is no well-formed XML in UTF-8, or has a document type, which could
            mean anything.
    """

    def refuse(*_arguments: object) -> None:
        raise ValueError("it has a DOCTYPE")

    parser = expat.ParserCreate("utf-8")
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(document, True)
    except expat.ExpatError as error:
        raise ValueError(str(error)) from None
    return _DECLARATION.sub(b"", document).strip()


LISTENERS: Final = Listeners()
"""The process's: what one service takes in, another one may give out."""

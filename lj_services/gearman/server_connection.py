"""One connection of the Gearman server: bytes in, packets to the dispatcher, answers out.

Theory of operation
===================

What a read brings is carried out packet by packet; what is to be sent, to this
connection or to others, gathers in the peers' outboxes and leaves in one write for each
peer at the end (`GearmanService.flush`).  Nothing here waits, so no two packets are ever
carried out at the same time.

Large data takes turns with everything else: while it arrives, each turn of the event loop
reads once, though more may be there, and while it leaves, each turn writes one portion.

A client that asks but doesn't read is not asked any further: while its transport is full
nothing is read from it.  What others send it, as results of its jobs, may still grow, up
to ``max_output``; then it is cut off, and its jobs are treated as those of any client that
has left.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING, Final

from lj_services.daemon.listening import TcpConnection
from lj_services.gearman.dispatch import OFTEN
from lj_services.gearman.jobs import Peer
from lj_services.gearman.protocol import (
    HEADER,
    LARGE,
    BadPacket,
    BrokenStream,
    Line,
    Magic,
    PacketParser,
)
from lj_services.gearman.rules import Refused

if TYPE_CHECKING:
    from lj_services.gearman.server import GearmanService

SMALL_REST: Final = 1 << 12
"""A packet of which less than this has arrived is put together with what comes, in bytes."""
HEADER_SIZE: Final = HEADER.size
REQUEST: Final = b"\0REQ"
OFTEN_END: Final = max(OFTEN) + 1
NO_ARGUMENTS: Final[tuple[bytes, ...]] = ()
PORTION_BYTES: Final = 1 << 18
"""How much is gathered for the connection that asks before it is written, and how much of large
data is written at a time, in bytes."""
KEEP_ALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)
"""A worker whose host has died is noticed after two minutes, and its jobs go to others."""

log = logging.getLogger(__name__)


class Connection(TcpConnection):
    """One client or worker."""

    __slots__ = ("_in_portions", "_number", "_often", "_parser", "_service", "peer")

    def __init__(self, service: GearmanService) -> None:
        super().__init__(service)
        self._service = service
        self._parser = PacketParser(
            Magic.REQUEST, max_body=service.settings.max_packet, uncopied=LARGE
        )
        self._often = service.dispatcher.often
        self.peer = Peer()
        self._in_portions = False  # whether the next portion of large data is due
        self._number = -1  # of the socket's file, for what is sent past the transport

    # -- what the event loop calls ------------------------------------------------

    def admitted(self) -> None:
        """The connection becomes a peer."""
        service = self._service
        if (connected := self._transport.get_extra_info("socket")) is not None:
            self._number = connected.fileno()
            for level, option, value in KEEP_ALIVE:
                connected.setsockopt(level, option, value)
        name = self._transport.get_extra_info("peername")
        address = str(name[0]) if name else "-"
        self.peer = Peer(next(service.numbers), address, service.unsent)
        service.connections[self.peer] = self

    def departed(self) -> None:
        """Others get its jobs."""
        service = self._service
        del service.connections[self.peer]
        service.queues.leave(self.peer)
        service.flush()

    def data_received(self, data: bytes) -> None:
        """Carry out what is complete."""
        if self._closing:
            return
        self.last_input = self._service.queues.now = self._service.now()
        parser = self._parser
        if self._writable and parser.held <= SMALL_REST:
            if parser.held:
                data = parser.give_back() + data
            done = self._quickly(data)
            if done < len(data):
                parser.feed(data[done:] if done else data)
                self._work()
        else:
            parser.feed(data)
            self._work()
            if parser.held >= LARGE:
                self._let_others_read()
        self._service.flush(asker=self.peer)
        if self.peer.outbox:  # of which something could not leave before
            self.flush(at_once=True)

    # -- the work -----------------------------------------------------------------

    def work(self) -> None:
        """Carry out packets and lines, and send what came of them."""
        self._work()
        self.flush()
        self._service.flush()

    def _quickly(self, data: bytes) -> int:
        """Carry out packets of the kinds that come often; the parser does without them.

        Returns:
            how much of `data` has been carried out: up to a packet that is not complete, of
            another kind, or wrong, or until the client doesn't read.
        """
        peer, often, start, end = self.peer, self._often, 0, len(data)
        unpack, biggest = HEADER.unpack_from, self._service.settings.max_packet
        while end - start >= HEADER_SIZE:
            magic, number, length = unpack(data, start)
            body = start + HEADER_SIZE
            after = body + length
            if after > end or magic != REQUEST or number >= OFTEN_END or length > biggest:
                break
            entry = often[number]
            if entry is None:
                break
            arguments, handler = entry
            args = data[body:after].split(b"\0", arguments - 1) if arguments else NO_ARGUMENTS
            if len(args) != arguments or (length and not arguments):
                break
            try:
                handler(peer, args)
            except Refused as refused:
                self._service.dispatcher.error(peer, refused.code, str(refused))
            start = after
            if peer.unsent_bytes > PORTION_BYTES:
                self.flush()
                if not self._writable or self._closing:
                    break
        return start

    def _work(self) -> None:
        """Carry out packets and lines until there is none, or the client doesn't read."""
        parser, peer, service = self._parser, self.peer, self._service
        while self._writable and not self._closing:
            try:
                got = parser.next()
            except BadPacket as error:
                service.dispatcher.wrong(peer, error)
            except BrokenStream as error:
                log.info("closed: %s", error, extra={"peer": peer.address})
                service.dispatcher.wrong(peer, error)
                self.end()
                return
            else:
                if got is None:
                    return
                if isinstance(got, Line):
                    peer.write(service.admin.answer(got.text))
                else:
                    service.dispatcher.packet(peer, got)
            if peer.unsent_bytes > PORTION_BYTES:
                self.flush()

    def released(self) -> None:
        """What the client waited for is stored, or some of it."""
        if self.peer.held:
            if not self._transport.is_closing():
                self._transport.write(self.peer.take_marked())
            return
        self.flush()
        if self._last:
            self.finish()

    def finish(self) -> None:
        """Close when the client has its answers; that may have to wait for jobs to be stored."""
        self._last = True
        if not self.peer.held:
            super().finish()

    def flush(self, at_once: bool = False) -> None:
        """Hand what is to be sent to the transport; cut off a client that doesn't read.

        Args:
            at_once: don't let the transport wait until the event loop has heard all others.
        """
        peer = self.peer
        if not peer.outbox or self._transport.is_closing():
            peer.take()
            return
        is_large = peer.unsent_bytes >= LARGE and any(len(data) >= LARGE for data in peer.outbox)
        if self._writable and not peer.held:
            if is_large:
                self._begin_portions()
            elif at_once:
                self._send_at_once(peer.take())
            else:
                self._transport.write(peer.take())
            return
        waiting = peer.unsent_bytes + self._transport.get_write_buffer_size()
        if waiting > self._service.settings.max_output:
            log.warning(
                "cut off: it does not read what it is sent",
                extra={"peer": peer.address, "client_id": peer.client_id, "bytes": waiting},
            )
            self._service.cut_off += 1
            self.close()
        elif not peer.held and not is_large:
            self._transport.write(peer.take())

    def _begin_portions(self) -> None:
        if not self._in_portions:
            self._send_portions()

    def _send_portions(self) -> None:
        """Send large data a portion in each turn of the loop; others have theirs between."""
        self._in_portions = False
        peer, transport = self.peer, self._transport
        if not peer.outbox or peer.held or not self._writable or transport.is_closing():
            return  # it goes on when what is in the way is gone
        # Of very much a little more, lest several who send to one client are faster than this.
        transport.write(peer.take_portion(max(PORTION_BYTES, peer.unsent_bytes >> 7)))
        if peer.outbox:
            self._in_portions = True
            self._service.soon(self._send_portions)

    def _let_others_read(self) -> None:
        """Read on in the next turn of the loop, and not as long as there is something."""
        self._transport.pause_reading()
        self._service.soon(self._read_on)

    def _read_on(self) -> None:
        if self._writable and not self._last and not self._transport.is_closing():
            self._transport.resume_reading()

    def _send_at_once(self, data: bytes) -> None:
        # The peer can go on while the server looks at what others have sent; a transport that
        # gathers what is written in one turn of the loop would let it wait for that.
        transport = self._transport
        if self._number >= 0 and not transport.get_write_buffer_size():
            try:
                sent = os.write(self._number, data)
            except OSError:
                sent = 0  # there is no room, or nobody there any more: the transport finds out
            if sent == len(data):
                return
            data = data[sent:]
        transport.write(data)

    def ending(self) -> None:
        """Hand over the last answers."""
        if self.peer.outbox and not self.peer.held and not self._transport.is_closing():
            self._transport.write(self.peer.take())

"""The Gearman server's dispatcher for tests: no sockets, and a clock that they set."""

from __future__ import annotations

from lj_services.gearman.dispatch import Dispatcher
from lj_services.gearman.jobs import Peer
from lj_services.gearman.protocol import Line, Magic, Packet, PacketParser
from lj_services.gearman.protocol import PacketType as T
from lj_services.gearman.queues import Queues
from lj_services.gearman.rules import Rules


class Box:
    """A server without sockets, at a time that the test sets."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.queues = Queues("H:box", rules, now=100.0, wall=1000.0)
        self.dispatcher = Dispatcher(self.queues)

    def peer(self) -> Peer:
        return Peer()

    def send(self, peer: Peer, kind: T, *args: bytes) -> list[tuple[T, tuple[bytes, ...]]]:
        """Carry out a packet; what `peer` is sent because of it, and what waited for it."""
        self.dispatcher.packet(peer, Packet(Magic.REQUEST, kind, args))
        return got(peer)

    def worker(self, *names: bytes) -> Peer:
        worker = self.peer()
        for name in names:
            assert self.send(worker, T.CAN_DO, name) == []
        return worker

    def submit(self, peer: Peer, kind: T, *args: bytes) -> bytes:
        [(created, (handle,))] = self.send(peer, kind, *args)
        assert created is T.JOB_CREATED
        return handle

    def at(self, seconds: float) -> None:
        self.queues.advance(100.0 + seconds, 1000.0 + seconds)


def got(peer: Peer) -> list[tuple[T, tuple[bytes, ...]]]:
    parser = PacketParser(Magic.RESPONSE)
    parser.feed(peer.take())
    found = []
    while (packet := parser.next()) is not None:
        assert not isinstance(packet, Line)
        found.append((packet.type, packet.args))
    return found

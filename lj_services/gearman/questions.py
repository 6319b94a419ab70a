"""What a client asks of servers themselves, without sockets.

Each kind of question is a generator: it yields a `Question`, is sent the packet that
answers it (or thrown the error that came instead), and returns what that means.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple, TypeVar

from lj_services.daemon import HostPort
from lj_services.gearman.client_errors import (
    BadAnswer,
    ConnectionLost,
    GearmanError,
    ServerUnreachable,
)
from lj_services.gearman.placement import Placement
from lj_services.gearman.protocol import Packet, PacketType
from lj_services.gearman.tasks import JobHandle, JobStatus


class Question(NamedTuple):
    """One question to one server."""

    server: HostPort
    kind: PacketType
    args: tuple[bytes, ...]
    expect: PacketType
    """What it is answered with."""

    def answered(self, packet: Packet) -> Packet:
        """The packet, if it is such an answer.

        Raises:
            BadAnswer: it is something else.
        """
        if packet.type is not self.expect:
            said = b" ".join(packet.args).decode(errors="replace")
            raise BadAnswer(f"job server {self.server} answers {packet.type.name} {said}".rstrip())
        return packet

    def unanswered(self, timeout_s: float) -> ConnectionLost:
        """What to raise when nothing came within `timeout_s` seconds."""
        return ConnectionLost(f"job server {self.server} gave no answer within {timeout_s:g} s")


T = TypeVar("T")
Asking = Generator[Question, Packet, T]


def status(job: JobHandle) -> Asking[JobStatus]:
    """What the job's server knows of it."""
    args = (job.handle,)
    answer = yield Question(job.server, PacketType.GET_STATUS, args, PacketType.STATUS_RES)
    return _status(answer)


def status_of_unique(placement: Placement, unique: bytes | str) -> Asking[JobStatus]:
    """What is known of the job with a unique key.

    The servers are asked in the order in which a task with that key tries them, until
    one knows it.
    """
    key = unique.encode() if isinstance(unique, str) else unique
    found: JobStatus | None = None
    failure: GearmanError | None = None
    for server in placement.order(key):
        try:
            answer = yield Question(
                server, PacketType.GET_STATUS_UNIQUE, (key,), PacketType.STATUS_RES_UNIQUE
            )
        except (ServerUnreachable, ConnectionLost) as error:
            failure = error
            continue
        found = _status(answer)
        if found.known:
            return found
    if found is None:
        assert failure is not None
        raise failure
    return found


def ping(server: HostPort) -> Asking[None]:
    """Whether a server answers."""
    answer = yield Question(server, PacketType.ECHO_REQ, (b"ping",), PacketType.ECHO_RES)
    if answer.args != (b"ping",):
        raise BadAnswer(f"job server {server} echoes something else than what was sent")


def _status(packet: Packet) -> JobStatus:
    """Read STATUS_RES or STATUS_RES_UNIQUE; what is no number counts as 0."""
    figures = [int(arg) if arg.isdigit() else 0 for arg in packet.args[1:]]
    known, running, numerator, denominator, *clients = figures
    return JobStatus(
        bool(known), bool(running), numerator, denominator, clients[0] if clients else None
    )

"""A worker's conversation with one job server: what to say next, and what answers mean.

No sockets.  A link is always in one of these states::

    AWAKE --GRAB_JOB_ALL---> ASKED --NO_JOB--> EMPTY --PRE_SLEEP--> ASLEEP --NOOP--> AWAKE
                               \\--JOB_ASSIGN--> BUSY --WORK_COMPLETE/FAIL--> AWAKE

A link that may have several jobs at once (`at_once`) is BUSY only when it has that many.
One worker may have many links; how many it asks on at a time, `worker_session` decides.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from lj_services.gearman.client_errors import BadAnswer
from lj_services.gearman.protocol import Packet, PacketType


class State(Enum):
    """Where a link stands."""

    AWAKE = "awake"
    """The server may have a job."""
    ASKED = "asked"
    """The answer to a grab is due."""
    EMPTY = "empty"
    """The server had none."""
    ASLEEP = "asleep"
    """The server sends NOOP when it has one."""
    BUSY = "busy"
    """As many jobs of this server as may be are being done."""


class Assignment(NamedTuple):
    """A job that a server gave."""

    handle: bytes
    function: bytes
    unique: bytes
    payload: bytes
    reducer: bytes = b""


_GRABS = (PacketType.GRAB_JOB_ALL, PacketType.GRAB_JOB_UNIQ, PacketType.GRAB_JOB)
"""How a job may be asked for; not all servers know the first ones."""


class Link:
    """The state of the conversation with one server."""

    def __init__(self, at_once: int = 1) -> None:
        self.state = State.AWAKE
        self._at_once = at_once
        self._jobs = 0
        self._grab = 0

    def grab(self) -> PacketType:
        """Ask for a job: the packet to send."""
        assert self.state is State.AWAKE, self.state
        self.state = State.ASKED
        return _GRABS[self._grab]

    def sleep(self) -> PacketType:
        """Go to sleep: the packet to send."""
        assert self.state is State.EMPTY, self.state
        self.state = State.ASLEEP
        return PacketType.PRE_SLEEP

    def finished(self) -> None:
        """A job was done, well or badly."""
        assert self._jobs, self.state
        self._jobs -= 1
        if self.state is State.BUSY:
            self.state = State.AWAKE

    def _assigned(self) -> None:
        self._jobs += 1
        self.state = State.BUSY if self._jobs >= self._at_once else State.AWAKE

    def received(self, packet: Packet) -> Assignment | None:
        """Take in a packet; the job, if it is one.

        Raises:
            BadAnswer: it makes no sense in this state.
        """
        match packet.type:
            case PacketType.NOOP:
                # In other states it is a late one, and the next grab finds out anyway.
                if self.state in (State.ASLEEP, State.EMPTY):
                    self.state = State.AWAKE
                return None
            case PacketType.NO_JOB if self.state is State.ASKED:
                self.state = State.EMPTY
                return None
            case PacketType.JOB_ASSIGN_UNIQ if self.state is State.ASKED:
                self._assigned()
                return Assignment(*packet.args)
            case PacketType.JOB_ASSIGN_ALL if self.state is State.ASKED:
                self._assigned()
                handle, function, unique, reducer, payload = packet.args
                return Assignment(handle, function, unique, payload, reducer)
            case PacketType.JOB_ASSIGN if self.state is State.ASKED:
                self._assigned()
                handle, function, payload = packet.args
                return Assignment(handle, function, b"", payload)
            case PacketType.ERROR if packet.args[0] == b"JOB_NOT_FOUND":
                # Some servers end a job at its exception, others (and so this worker)
                # at the WORK_FAIL behind it; or the job took longer than was allowed.
                return None
            case PacketType.ERROR if self.state is State.ASKED and self._grab + 1 < len(_GRABS):
                # Perl's server does not know the newer questions.
                self._grab += 1
                self.state = State.AWAKE
                return None
        said = b" ".join(packet.args).decode(errors="replace")
        raise BadAnswer(f"{packet.type.name} {said}".rstrip() + f" while {self.state.value}")

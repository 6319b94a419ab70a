"""What is under way on one connection of a task set, and what its packets mean.

No sockets: packets go in, events for jobs come out, so that the order of things can be
tested alone.  A server answers what it is asked in the order of asking, without saying
to what: `Flight` keeps that order.  What happens to jobs later names their handles.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import NamedTuple

from lj_services.gearman.client_errors import BadAnswer
from lj_services.gearman.protocol import Packet, PacketType
from lj_services.gearman.tasks import Task


class Submission:
    """One job for the server: a task, and equal ones that wait for the same result."""

    __slots__ = (
        "ended",
        "handle",
        "lane",
        "lost",
        "refused_by",
        "same",
        "tasks",
        "unreachable",
    )

    def __init__(self, task: Task, same: tuple[object, ...] | None = None) -> None:
        self.tasks = [task]
        self.same = same
        """What equal tasks have in common; None: it is like no other."""
        self.ended = 0
        """How many of its tasks have an outcome."""
        self.handle: bytes | None = None
        self.lane: object = None
        """Where it was sent."""
        self.refused_by: set[object] = set()
        """Servers that answered with an error."""
        self.unreachable: dict[object, str] = {}
        """Servers that could not be reached for it, and why."""
        self.lost = 0
        """How often a server went away with it."""

    def again(self, tasks: list[Task]) -> None:
        """Make it new, for those of its tasks that are submitted once more."""
        self.tasks = tasks
        self.ended = 0
        self.handle = self.lane = None
        self.unreachable.clear()

    @property
    def leader(self) -> Task:
        """The task that is submitted."""
        return self.tasks[0]

    @property
    def waiting(self) -> bool:
        """Whether anybody still wants its result."""
        return self.ended < len(self.tasks)


class What(Enum):
    """What happened to a submission."""

    CREATED = "created"
    REFUSED = "refused"
    DATA = "data"
    WARNING = "warning"
    STATUS = "status"
    COMPLETE = "complete"
    FAIL = "fail"
    EXCEPTION = "exception"


class Event(NamedTuple):
    """Something that happened to a submission, with what the packet said after the handle."""

    what: What
    submission: Submission
    args: tuple[bytes, ...] = ()


_NEWS = {
    PacketType.WORK_DATA: What.DATA,
    PacketType.WORK_WARNING: What.WARNING,
    PacketType.WORK_STATUS: What.STATUS,
    PacketType.WORK_COMPLETE: What.COMPLETE,
    PacketType.WORK_FAIL: What.FAIL,
    PacketType.WORK_EXCEPTION: What.EXCEPTION,
}
_FINAL = frozenset({What.COMPLETE, What.FAIL, What.EXCEPTION})


class Flight:
    """The submissions that one connection carries."""

    def __init__(self) -> None:
        self._asked: deque[Submission | None] = deque()  # None: an option
        self._running: dict[bytes, Submission] = {}

    def __len__(self) -> int:
        return len(self._asked) + len(self._running)

    def asked_option(self) -> None:
        """Note that an option was asked for."""
        self._asked.append(None)

    def submitted(self, submission: Submission) -> None:
        """Note that a job was submitted."""
        self._asked.append(submission)

    def unwanted(self) -> int:
        """How many of them nobody waits for any more."""
        asked = sum(s is not None and not s.waiting for s in self._asked)
        return asked + sum(not s.waiting for s in self._running.values())

    def take_all(self) -> list[Submission]:
        """Everything that was under way, when the connection is lost."""
        left = [s for s in self._asked if s is not None]
        left += self._running.values()
        self._asked.clear()
        self._running.clear()
        return left

    def received(self, packet: Packet) -> Event | None:
        """What a packet means; None if it is nothing for a submission that is known.

        Raises:
            BadAnswer: it answers nothing that was asked.
        """
        if packet.type in _NEWS:
            return self._news(_NEWS[packet.type], packet)
        if packet.type is PacketType.OPTION_RES:
            self._answered(packet, option=True)
            return None
        if packet.type is PacketType.JOB_CREATED:
            submission = self._answered(packet, option=False)
            assert submission is not None
            submission.handle = packet.args[0]
            if not submission.leader.background:
                self._running[packet.args[0]] = submission
            return Event(What.CREATED, submission, packet.args)
        if packet.type is PacketType.ERROR:
            submission = self._answered(packet, option=None)
            return None if submission is None else Event(What.REFUSED, submission, packet.args)
        raise BadAnswer(f"{packet.type.name} is no answer to a client's submits")

    def _answered(self, packet: Packet, *, option: bool | None) -> Submission | None:
        if not self._asked:
            raise BadAnswer(f"{packet.type.name} without a question")
        first = self._asked[0]
        if option is not None and option != (first is None):
            raise BadAnswer(f"{packet.type.name} answers something else than what was asked")
        return self._asked.popleft()

    def _news(self, what: What, packet: Packet) -> Event | None:
        handle = packet.args[0]
        # What comes after the end is a server's second copy, or the WORK_FAIL that some
        # send after an exception.
        submission = self._running.get(handle)
        if submission is None:
            return None
        if what in _FINAL:
            del self._running[handle]
        return Event(what, submission, packet.args[1:])

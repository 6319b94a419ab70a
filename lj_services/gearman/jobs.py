"""Jobs, the queues of a function, and who is connected: the server's nouns, without sockets."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Final

from lj_services.gearman.protocol import PacketType, response

LEAST_TIMEOUT_S: Final = 1.0
"""Shortest time that a job may take.  Many workers give seconds where the protocol means
milliseconds; a floor keeps their jobs from failing at once (gearmand has the same)."""


class Priority(IntEnum):
    """In which order jobs are handed out, over all functions that a worker can do."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


class JobState(Enum):
    """Where a job is."""

    SCHEDULED = "waits for its time"
    QUEUED = "waits for a worker"
    RUNNING = "a worker has it"
    GONE = "done, failed, cancelled or dropped"


class Peer:
    """One connection: a client, a worker, or both.

    What is sent is gathered by `send`; whoever made the peer takes it (`take`).

    Args:
        number: tells connections apart, as ``workers`` shows it.
        address: the other end, as ``workers`` shows it.
        unsent: the peer puts itself into this list when it has something to be sent.
    """

    def __init__(
        self, number: int = 0, address: str = "-", unsent: list[Peer] | None = None
    ) -> None:
        self.number = number
        self.address = address
        self.client_id = b"-"
        self.exceptions = False
        """Whether it has asked to be told exceptions."""
        self.abilities: OrderedDict[bytes, tuple[Function, float]] = OrderedDict()
        """Function's name -> the function, and seconds that a job may take (0: any time);
        in the order in which they are looked at for the next job."""
        self.sleeping = False
        self.woken_for: Function | None = None
        """Why it was woken, until it asks for a job."""
        self.running: dict[bytes, Job] = {}
        """Handle -> job that it has been given."""
        self.waiting: dict[bytes, Job] = {}
        """Handle -> job whose result it waits for."""
        self.excepted: bytes | None = None
        """The job that it has ended with an exception last: it may say WORK_FAIL, too."""
        self.outbox: list[bytes] = []
        self.unsent_bytes = 0
        self.gone = False
        self._unsent = unsent

    def send(self, kind: PacketType, *args: bytes) -> None:
        """Have a packet sent."""
        self.write(response(kind, *args))

    def write(self, data: bytes) -> None:
        """Have bytes sent."""
        if self.gone or not data:
            return
        if not self.outbox and self._unsent is not None:
            self._unsent.append(self)
        self.outbox.append(data)
        self.unsent_bytes += len(data)

    def take(self) -> bytes:
        """What is to be sent; it is forgotten here."""
        data = b"".join(self.outbox)
        self.outbox.clear()
        self.unsent_bytes = 0
        return data


@dataclass(eq=False, slots=True)
class Job:
    """One call of a function."""

    handle: bytes
    function: Function
    unique: bytes
    data: bytes
    priority: Priority
    created: float
    """Time of the queues' clock at which it was submitted, in seconds."""
    key: tuple[bytes, bytes, bytes] | None
    """What a submission must have for it to share this job; None: none shares it."""
    reducer: bytes | None = None
    background: bool = False
    """Whether it is to be done although nobody waits."""
    run_at: float = 0.0
    """Wall clock time before which it must not run, in seconds of the epoch; 0: none."""
    state: JobState = JobState.GONE
    waiters: dict[Peer, int] = field(default_factory=dict)
    """Who waits -> how often it has submitted this job."""
    worker: Peer | None = None
    started: float = 0.0
    deadline: float = 0.0
    """Time at which the worker has taken too long; 0: never."""
    retries: int = 0
    """How many workers have had it and not finished it."""
    numerator: bytes = b"0"
    denominator: bytes = b"0"

    @property
    def ignored(self) -> bool:
        """Whether nobody wants it done any more."""
        return not self.background and not self.waiters

    def tell(self, kind: PacketType, *args: bytes) -> None:
        """Send everybody who waits a packet about this job, once for each submission."""
        raw = response(kind, self.handle, *args)
        for peer, times in self.waiters.items():
            for _ in range(times):
                peer.write(raw)


class Function:
    """A function's queues, its workers, its limits and what has happened.

    Args:
        name: of the function.
        max_queue: jobs, running ones included, beyond which none is accepted; 0: any number.
    """

    def __init__(self, name: bytes, max_queue: int = 0) -> None:
        self.name = name
        self.queues: tuple[OrderedDict[bytes, Job], ...] = tuple(OrderedDict() for _ in Priority)
        """Of each priority: handle -> job, first come first."""
        self.scheduled: dict[bytes, Job] = {}
        self.running: dict[bytes, Job] = {}
        self.workers: dict[Peer, None] = {}
        self.sleepers: dict[Peer, None] = {}
        """Workers that sleep and have not been woken."""
        self.woken = 0
        """Workers that were woken for a job of this function and have not asked yet."""
        self.max_queue = [max_queue] * len(Priority)
        self.submitted = 0
        self.coalesced = 0
        self.refused = 0
        self.completed = 0
        self.failed = 0
        self.dropped = 0
        self.requeued = 0
        self.timed_out = 0
        self.started = 0
        self.waited_s = 0.0
        self.ended = 0
        self.ran_s = 0.0

    @property
    def ready(self) -> int:
        """Jobs that a worker could be given now."""
        return sum(map(len, self.queues))

    @property
    def total(self) -> int:
        """All jobs: queued, scheduled and running."""
        return self.ready + len(self.scheduled) + len(self.running)

    def queued(self, priority: Priority) -> int:
        """Jobs of a priority that no worker has, scheduled ones included."""
        later = sum(job.priority is priority for job in self.scheduled.values())
        return len(self.queues[priority]) + later

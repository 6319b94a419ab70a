"""Jobs, the queues of a function, and who is connected: the server's nouns, without sockets.

There may be millions of jobs: what most of them don't have costs them nothing, and what is
done for each of them is written for speed.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from enum import Enum, IntEnum
from typing import Final, cast

from lj_services.gearman.protocol import LARGE, PacketType, answer, answer_parts

LEAST_HOLES: Final = 64
"""So many jobs that have left the middle of a queue are not worth making a new one."""


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

    __slots__ = (
        "_unsent",
        "abilities",
        "address",
        "client_id",
        "excepted",
        "exceptions",
        "gone",
        "held",
        "late",
        "mark",
        "number",
        "outbox",
        "running",
        "sleeping",
        "unsent_bytes",
        "waiting",
        "woken_for",
    )

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
        self.late: bytes | None = None
        """The job that was taken from it last because it took too long: it may not know yet."""
        self.outbox: list[bytes] = []
        self.unsent_bytes = 0
        self.gone = False
        self.held = False
        """Whether what is in the outbox waits for jobs to be stored."""
        self.mark = 0
        """How much of the outbox may leave when what is being stored now is."""
        self._unsent = unsent

    def send(self, kind: PacketType, *args: bytes) -> None:
        """Have a packet sent."""
        if not args or len(args[-1]) < LARGE:
            self.write(answer(kind, *args))
        else:
            for part in answer_parts(kind, *args):
                self.write(part)

    def write(self, data: bytes) -> None:
        """Have bytes sent."""
        if self.gone:
            return
        if not self.outbox and self._unsent is not None:
            self._unsent.append(self)
        self.outbox.append(data)
        self.unsent_bytes += len(data)

    def take_marked(self) -> bytes:
        """What is to be sent and was there when the mark was set; it is forgotten here."""
        data = b"".join(self.outbox[: self.mark])
        del self.outbox[: self.mark]
        self.mark = 0
        self.unsent_bytes -= len(data)
        return data

    def take_portion(self, most: int) -> bytes | memoryview:
        """What is to be sent next, `most` bytes at most, large data uncopied; it is forgotten
        here.  There is something."""
        outbox = self.outbox
        first = outbox[0]
        if len(first) > most:
            view = memoryview(first)
            outbox[0] = cast(bytes, view[most:])
            self.unsent_bytes -= most
            return view[:most]
        size = taken = 0
        for data in outbox:
            if size + len(data) > most:
                break
            size += len(data)
            taken += 1
        portion = b"".join(outbox[:taken])
        del outbox[:taken]
        self.unsent_bytes -= size
        return portion

    def take(self) -> bytes:
        """What is to be sent; it is forgotten here."""
        outbox = self.outbox
        data = outbox[0] if len(outbox) == 1 else b"".join(outbox)
        outbox.clear()
        self.unsent_bytes = 0
        return data


NOBODY: Final[dict[Peer, int]] = {}
"""What `Job.waiters` is while nobody waits; never changed."""
NO_PROGRESS: Final = (b"0", b"0")
"""Progress of a job whose worker has told none."""


class Job:
    """One call of a function.

    Args:
        handle: by which clients and workers name it.
        function: that is called.
        unique: key under which submissions share it; empty: they don't; ``-``: its data is.
        data: for the function.
        priority: of the job.
        created: time of the queues' clock at which it was submitted, in seconds.
    """

    __slots__ = (
        "background",
        "created",
        "data",
        "deadline",
        "function",
        "handle",
        "priority",
        "progress",
        "reducer",
        "retries",
        "run_at",
        "started",
        "state",
        "unique",
        "waiters",
        "worker",
    )

    def __init__(
        self,
        handle: bytes,
        function: Function,
        unique: bytes,
        data: bytes,
        priority: int,
        created: float,
    ) -> None:
        self.handle = handle
        self.function = function
        self.unique = unique
        self.data = data
        self.priority = priority
        self.created = created
        self.background = False
        """Whether it is to be done although nobody waits."""
        self.reducer: bytes | None = None
        self.run_at = 0.0
        """Wall clock time before which it must not run, in seconds of the epoch; 0: none."""
        self.state = GONE
        self.waiters = NOBODY
        """Who waits -> how often it has submitted this job."""
        self.worker: Peer | None = None
        self.started = 0.0
        self.deadline = 0.0
        """Time at which the worker has taken too long; 0: never."""
        self.retries = 0
        """How many workers have had it and not finished it."""
        self.progress = NO_PROGRESS
        """Numerator and denominator."""

    @property
    def key(self) -> bytes | tuple[bytes] | None:
        """What a submission of the same function must have to share this job; None: none does."""
        return shared_key(self.unique, self.data)

    @property
    def ignored(self) -> bool:
        """Whether nobody wants it done any more."""
        return not self.background and not self.waiters

    def add_waiter(self, peer: Peer) -> None:
        """A client waits for the result, once more."""
        if self.waiters is NOBODY:
            self.waiters = {peer: 1}
        else:
            self.waiters[peer] = self.waiters.get(peer, 0) + 1
        peer.waiting[self.handle] = self

    def tell(self, kind: PacketType, *args: bytes) -> None:
        """Send everybody who waits a packet about this job, once for each submission."""
        if not self.waiters:
            return
        parts = answer_parts(kind, self.handle, *args)
        for peer, times in self.waiters.items():
            for _ in range(times):
                for part in parts:
                    peer.write(part)


GONE: Final = JobState.GONE
QUEUED: Final = JobState.QUEUED


class Function:
    """A function's queues, its workers, its limits and what has happened.

    Args:
        name: of the function.
        max_queue: jobs, running ones included, beyond which none is accepted; 0: any number.
    """

    def __init__(self, name: bytes, max_queue: int = 0) -> None:
        self.name = name
        self.ready = 0
        """Jobs that a worker could be given now."""
        self._lanes: tuple[deque[Job], ...] = tuple(deque() for _ in Priority)
        # A job that leaves the middle stays in its lane, with the state GONE, until it comes
        # to the front or there are more of its kind than others.
        self._holes = [0] * len(Priority)
        self.shared: dict[bytes | tuple[bytes], Job] = {}
        """Key -> job that submissions with this key share."""
        self.scheduled: dict[bytes, Job] = {}
        self.running: dict[bytes, Job] = {}
        self.workers: dict[Peer, None] = {}
        self.sleepers: OrderedDict[Peer, None] = OrderedDict()
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

    # -- the queues -------------------------------------------------------------------

    def push(self, job: Job) -> None:
        """A job waits for a worker, behind those of its priority."""
        job.state = QUEUED
        self._lanes[job.priority].append(job)
        self.ready += 1

    def first(self, priority: int) -> Job | None:
        """Take the first job of a priority."""
        lane = self._lanes[priority]
        while lane:
            job = lane.popleft()
            if job.state is QUEUED:
                self.ready -= 1
                return job
            self._holes[priority] -= 1
        return None

    def pull(self, job: Job) -> None:
        """Take a job that waits for a worker out of its queue, for ever; its data goes."""
        job.state = GONE
        self.ready -= 1
        priority = job.priority
        holes = self._holes
        holes[priority] += 1
        lane = self._lanes[priority]
        if holes[priority] > LEAST_HOLES and 2 * holes[priority] > len(lane):
            left = [waiting for waiting in lane if waiting.state is QUEUED]
            lane.clear()
            lane.extend(left)
            holes[priority] = 0

    def queued(self, priority: Priority | None = None) -> Iterator[Job]:
        """The jobs that wait for a worker, first come first: all, or those of one priority."""
        lanes = self._lanes if priority is None else self._lanes[priority : priority + 1]
        return (job for lane in lanes for job in lane if job.state is QUEUED)

    def ready_of(self, priority: Priority) -> int:
        """Jobs of a priority that a worker could be given now."""
        return len(self._lanes[priority]) - self._holes[priority]

    @property
    def total(self) -> int:
        """All jobs: queued, scheduled and running."""
        return self.ready + len(self.scheduled) + len(self.running)

    def waiting(self, priority: Priority) -> int:
        """Jobs of a priority that no worker has, scheduled ones included."""
        later = sum(job.priority == priority for job in self.scheduled.values())
        return self.ready_of(priority) + later


def shared_key(unique: bytes, data: bytes) -> bytes | tuple[bytes] | None:
    """What submissions of a function that share a job have in common; None: they don't share."""
    if unique != b"-":
        return unique or None
    return (bytes(data),) if data else None

"""A job as the worker's function sees it, and how it is called within its time."""

from __future__ import annotations

import logging
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Generic, TypeVar

from lj_services.daemon import HostPort
from lj_services.gearman.client_errors import BadTask, GearmanError
from lj_services.gearman.protocol import MAX_BODY, MAX_HANDLE, Outgoing, PacketType
from lj_services.gearman.worker_link import Assignment

log = logging.getLogger(__name__)

_MAX_RESULT = MAX_BODY - MAX_HANDLE - 1


class JobFailed(Exception):
    """Raised by a worker's function: the job failed, and there is no more to say (WORK_FAIL).

    Any other exception is passed on to the client with its traceback.
    """


class JobTimedOut(Exception):
    """Raised inside a worker's function that takes longer than it may."""


Send = Callable[..., None]


class Call:
    """What every worker's function is told: the job, without the way to answer."""

    def __init__(self, server: HostPort, assignment: Assignment) -> None:
        self.server = server
        self.handle = assignment.handle
        self.function = assignment.function.decode(errors="replace")
        self.unique = assignment.unique
        """The key that the client gave; empty: none."""
        self.payload = assignment.payload
        """The argument."""
        self.reducer = assignment.reducer.decode(errors="replace")
        """The function that the client wants parts of the job summed up with; empty: none.
        Who calls it, and with what, is the worker's function's business."""
        self.lost = False
        """The server went away: nobody will get the result, and the job may be done again
        by another worker.  Known after sending something."""


class Job(Call):
    """What a worker's function is called with."""

    def __init__(self, server: HostPort, assignment: Assignment, send: Send) -> None:
        super().__init__(server, assignment)
        self.late: JobTimedOut | None = None
        """The job's time is over, and a packet was just being sent."""
        self.sending = False
        self._send = send

    def progress(self, numerator: int, denominator: int) -> None:
        """Tell the clients how far the job is, for instance 3 of 10."""
        self._tell(PacketType.WORK_STATUS, b"%d" % numerator, b"%d" % denominator)

    def data(self, part: bytes | str) -> None:
        """Send a part of the result at once."""
        self._tell(PacketType.WORK_DATA, as_bytes(part))

    def warning(self, text: bytes | str) -> None:
        """Send a warning; the job goes on."""
        self._tell(PacketType.WORK_WARNING, as_bytes(text))

    def _tell(self, kind: PacketType, *args: bytes) -> None:
        if self.lost:
            return
        self.sending = True  # an alarm must not cut a packet in two
        try:
            self._send(kind, self.handle, *args)
        except BadTask:
            raise
        except GearmanError as error:
            self.lost = True
            log.warning("the job's server is gone", extra={"job": self.handle, "error": error})
        finally:
            self.sending = False
        if self.late is not None:
            raise self.late


Result = bytes | str | None
WorkerFunction = Callable[[Job], Result]


F = TypeVar("F", bound=Callable[..., object])


@dataclass(frozen=True)
class Ability(Generic[F]):
    """A function that a worker offers."""

    call: F
    timeout_s: float | None


def as_bytes(value: Result) -> bytes:
    """What a function returned, as it is sent: str as UTF-8, None as nothing.

    Raises:
        TypeError: it is something else.
    """
    if value is None:
        return b""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise TypeError(f"a worker's function returns bytes, str or None, not {type(value).__name__}")


def returned(result: Result) -> list[Outgoing]:
    """How a job ends whose function returned; the handle belongs before the arguments.

    Raises:
        TypeError: that is nothing that can be sent.
        ValueError: it is too large.
    """
    data = as_bytes(result)
    if len(data) > _MAX_RESULT:
        raise ValueError(f"a result of {len(data)} bytes: the limit is {_MAX_RESULT}")
    return [(PacketType.WORK_COMPLETE, (data,))]


def raised(call: Call, error: Exception) -> list[Outgoing]:
    """How a job ends whose function raised."""
    if isinstance(error, JobFailed):
        return [(PacketType.WORK_FAIL, ())]
    log.warning("a job raised", extra={"function": call.function}, exc_info=error)
    details = "".join(traceback.format_exception(error))
    # The failure behind it is for servers (Perl's) that wait for it.
    return [
        (PacketType.WORK_EXCEPTION, (details.encode(errors="replace"),)),
        (PacketType.WORK_FAIL, ()),
    ]


def carry_out(job: Job, ability: Ability[WorkerFunction]) -> None:
    """Call the function and send what came of it.

    Raises:
        GearmanError: it could not be sent.
    """
    try:
        with _alarm(job, ability.timeout_s):
            result = ability.call(job)
        ending = returned(result)
    except Exception as error:
        ending = raised(job, error)
    for kind, args in ending:
        job._send(kind, job.handle, *args)


@contextmanager
def _alarm(job: Job, timeout_s: float | None) -> Iterator[None]:
    """Raise `JobTimedOut` in the block when it takes too long; only in the main thread."""
    if not timeout_s or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(_number: int, _frame: FrameType | None) -> None:
        late = JobTimedOut(f"the job took longer than {timeout_s:g} s")
        if not job.sending:
            raise late
        job.late = late

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

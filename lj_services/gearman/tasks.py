"""What a program asks of workers: tasks, and what becomes of them."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypedDict

from lj_services.daemon import HostPort
from lj_services.gearman.client_errors import BadTask, GearmanError
from lj_services.gearman.protocol import MAX_BODY, MAX_FUNCTION, MAX_UNIQUE, PacketType
from lj_services.gearman.schedule import next_time

ON_PAYLOAD = b"-"
"""The unique key that makes tasks with equal payloads one job."""


class Priority(enum.Enum):
    """Which of a function's queued jobs are taken first."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


_FOREGROUND = {
    Priority.HIGH: PacketType.SUBMIT_JOB_HIGH,
    Priority.NORMAL: PacketType.SUBMIT_JOB,
    Priority.LOW: PacketType.SUBMIT_JOB_LOW,
}
_BACKGROUND = {
    Priority.HIGH: PacketType.SUBMIT_JOB_HIGH_BG,
    Priority.NORMAL: PacketType.SUBMIT_JOB_BG,
    Priority.LOW: PacketType.SUBMIT_JOB_LOW_BG,
}
_REDUCED = {
    False: PacketType.SUBMIT_REDUCE_JOB,
    True: PacketType.SUBMIT_REDUCE_JOB_BACKGROUND,
}


class JobHandle(NamedTuple):
    """A job on a server: what `Client.status` asks about.  Written ``HOST:PORT//HANDLE``."""

    server: HostPort
    handle: bytes

    def __str__(self) -> str:
        return f"{self.server}//{self.handle.decode(errors='replace')}"

    @classmethod
    def parse(cls, text: str) -> JobHandle:
        """Read what `str` of one gave.

        Raises:
            ValueError: it is no such text.
        """
        address, slashes, handle = text.partition("//")
        if not slashes or not handle:
            raise ValueError(f"{text!r} is no job; write HOST:PORT//HANDLE")
        return cls(HostPort.parse(address), handle.encode())


class JobStatus(NamedTuple):
    """What a server knows of a job."""

    known: bool
    """Queued or running; False as well when it is done: servers forget such jobs."""
    running: bool
    """A worker has it."""
    numerator: int
    """How far the worker is, out of `denominator`; 0 of 0: it did not say."""
    denominator: int
    waiting_clients: int | None = None
    """How many clients wait for it; only asked by unique key."""


class SubmitOptions(TypedDict, total=False):
    """What a job that is left with a server may have beside its function and payload."""

    unique: bytes | str
    """Equal keys of one function are one job while it is queued or runs."""
    priority: Priority
    """Which of a function's queued jobs are taken first."""
    run_at_s: int | None
    """Not before this time, in seconds since 1970."""
    run_when: str | None
    """In the next minute that fits; see `Task`."""
    reducer: str
    """Function that the worker is told to sum up with; see `Task`."""


@dataclass(eq=False, kw_only=True)
class Task:
    """One call of a function, and its outcome.

    The callbacks are called in the thread that runs the task set, with the task as the
    first argument.  What they raise ends the run.
    """

    function: str
    """Name that workers registered."""
    payload: bytes = b""
    unique: bytes = b""
    """Equal keys of one function are one job while it is queued or runs; ``b"-"``: equal
    payloads are.  Empty: never."""
    priority: Priority = Priority.NORMAL
    background: bool = False
    """Return when the server has it; no result comes."""
    run_at_s: int | None = None
    """Not before this time (seconds since 1970); a background task of normal priority only."""
    run_when: str | None = None
    """Once, in the next minute that fits: minute, hour, day of the month, month and day of the week
    (0: Monday), each a number or ``*``, as ``"30 4 * * *"``; in the server's time zone.  A
    background task of normal priority only; not with gearmand, which does not know it."""
    reducer: str = ""
    """Function that the worker is told to sum up with (`Call.reducer`); a task of normal priority
    only.  Empty: none.  Not with Perl's server, which does not know it."""
    timeout_s: float | None = None
    """Longest wait for the result from the start of the run, in seconds; None: for ever."""
    retries: int = 0
    """How often it is submitted again after it failed or was lost with its server."""
    on_created: Callable[[Task], object] | None = None
    on_data: Callable[[Task, bytes], object] | None = None
    on_warning: Callable[[Task, bytes], object] | None = None
    on_status: Callable[[Task, int, int], object] | None = None
    on_complete: Callable[[Task], object] | None = None
    on_fail: Callable[[Task], object] | None = None
    """Called once, when no retry is left; the reason is in `failure`."""

    result: bytes | None = None
    """What the worker returned; None before, and for a background task."""
    parts: list[bytes] = field(default_factory=list)
    """Data that came before the result; kept unless there is an `on_data`."""
    progress: tuple[int, int] | None = None
    """The last status: numerator and denominator."""
    failure: GearmanError | None = None
    """Why there is no result."""
    job: JobHandle | None = None
    """Where it is; of the last submit if there were several."""
    submits: int = 0
    """How often it was submitted; not counting servers that refused it."""
    watchers: list[Callable[[Task], object]] = field(default_factory=list, repr=False)
    """Called once with the task when its outcome is known, before the callbacks."""

    @classmethod
    def call(cls, function: str, payload: bytes | str = b"", **options: Any) -> Task:
        """A task, with text as UTF-8.

        Args:
            function: the function's name.
            payload: its argument.
            options: the other fields.

        Raises:
            BadTask: it can't be sent.
        """
        unique = options.pop("unique", b"")
        return cls(
            function=function,
            payload=payload.encode() if isinstance(payload, str) else payload,
            unique=unique.encode() if isinstance(unique, str) else unique,
            **options,
        )

    def __post_init__(self) -> None:
        name = self.function.encode()
        if not name or b"\0" in name or len(name) > MAX_FUNCTION:
            raise BadTask(f"function {self.function!r}: 1 to {MAX_FUNCTION} bytes without NUL")
        if b"\0" in self.unique or len(self.unique) > MAX_UNIQUE:
            raise BadTask(f"unique key {self.unique!r}: at most {MAX_UNIQUE} bytes without NUL")
        if len(self.payload) > MAX_BODY - 2 * MAX_FUNCTION - 2 * MAX_UNIQUE:
            raise BadTask(f"a payload of {len(self.payload)} bytes: the limit is {MAX_BODY}")
        if self.retries < 0:
            raise BadTask(f"retries is {self.retries}; it must be 0 or more")
        if self.run_at_s is not None or self.run_when is not None:
            self._check_time()
        if self.reducer:
            self._check_reducer()

    def _check_reducer(self) -> None:
        name = self.reducer.encode()
        if b"\0" in name or len(name) > MAX_FUNCTION:
            raise BadTask(f"reducer {self.reducer!r}: at most {MAX_FUNCTION} bytes without NUL")
        if self.priority is not Priority.NORMAL:
            raise BadTask("a task with a reducer has normal priority")
        if self.run_at_s is not None or self.run_when is not None:
            raise BadTask("a task with a reducer can't be run at a later time")

    def _check_time(self) -> None:
        if not self.background:
            raise BadTask("only a background task can be run at a later time")
        if self.priority is not Priority.NORMAL:
            raise BadTask("a task that is run at a later time has normal priority")
        if self.run_when is None:
            return
        if self.run_at_s is not None:
            raise BadTask("give either run_at_s or run_when")
        try:
            next_time(self.run_when.encode().split(), 0.0)
        except ValueError as error:
            raise BadTask(f"run_when {self.run_when!r}: {error}") from None

    @property
    def key(self) -> bytes:
        """What places it, and what makes it one job with others; empty: nothing does."""
        return self.payload if self.unique == ON_PAYLOAD else self.unique

    @property
    def done(self) -> bool:
        """Whether its outcome is known: a result, a failure, or taken as background job."""
        return (
            self.result is not None
            or self.failure is not None
            or (self.background and self.job is not None)
        )

    def value(self) -> bytes:
        """All data of a task that is done: the parts, then the result.

        Raises:
            GearmanError: the reason why there is none.
        """
        if self.failure is not None:
            raise self.failure
        if self.result is None:
            raise BadTask(f"task {self.function}: there is no result yet; run its task set")
        return b"".join((*self.parts, self.result))

    def where(self) -> JobHandle:
        """Where a background task went.

        Raises:
            GearmanError: the reason why no server has it.
        """
        if self.failure is not None:
            raise self.failure
        assert self.job is not None
        return self.job

    # -- what a run tells it ---------------------------------------------------------

    def created(self, server: HostPort, handle: bytes) -> None:
        """A server took it."""
        if self.done:
            return
        self.job = JobHandle(server, handle)
        if self.background:
            self._ended()
        if self.on_created is not None:
            self.on_created(self)

    def received(self, data: bytes) -> None:
        """The worker sent data before the result."""
        if self.done:
            return
        if self.on_data is None:
            self.parts.append(data)
        else:
            self.on_data(self, data)

    def warned(self, data: bytes) -> None:
        """The worker sent a warning."""
        if not self.done and self.on_warning is not None:
            self.on_warning(self, data)

    def progressed(self, numerator: bytes, denominator: bytes) -> None:
        """The worker said how far it is; what is no number counts as 0."""
        if self.done:
            return
        self.progress = (_number(numerator), _number(denominator))
        if self.on_status is not None:
            self.on_status(self, *self.progress)

    def completed(self, result: bytes) -> None:
        """The result is there."""
        if self.done:
            return
        self.result = result
        self._ended()
        if self.on_complete is not None:
            self.on_complete(self)

    def failed(self, failure: GearmanError) -> None:
        """There will be no result."""
        if self.done:
            return
        self.failure = failure
        self._ended()
        if self.on_fail is not None:
            self.on_fail(self)

    def _ended(self) -> None:
        for watcher in self.watchers:
            watcher(self)

    def submit_packet(self) -> tuple[PacketType, tuple[bytes, ...]]:
        """The packet that asks a server for it."""
        name = self.function.encode()
        if self.run_at_s is not None:
            epoch = b"%d" % self.run_at_s
            return PacketType.SUBMIT_JOB_EPOCH, (name, self.unique, epoch, self.payload)
        if self.run_when is not None:
            words = tuple(self.run_when.encode().split())
            return PacketType.SUBMIT_JOB_SCHED, (name, self.unique, *words, self.payload)
        if self.reducer:
            # The argument before the payload means nothing to any server.
            args = (name, self.unique, self.reducer.encode(), b"", self.payload)
            return _REDUCED[self.background], args
        kinds = _BACKGROUND if self.background else _FOREGROUND
        return kinds[self.priority], (name, self.unique, self.payload)


def _number(text: bytes) -> int:
    return int(text) if text.isdigit() else 0

"""What each packet that reaches the server does.

A packet is carried out against the `Queues` at once; what is to be sent, to whoever it
is, waits in the peers' outboxes.  What is wrong is answered with an ``ERROR`` packet and
never ends the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from lj_services.gearman.jobs import Job, Peer, Priority
from lj_services.gearman.protocol import (
    LEAST_TIMEOUT_MS,
    MAX_CLIENT_ID,
    MAX_UNIQUE,
    Packet,
    ProtocolError,
    answer,
)
from lj_services.gearman.protocol import PacketType as T
from lj_services.gearman.queues import Queues
from lj_services.gearman.rules import Refused, check_function_name
from lj_services.gearman.schedule import next_time

EXCEPTIONS: Final = b"exceptions"
"""The only option that a client may ask for."""
NO_JOB: Final = answer(T.NO_JOB)
GRACE_S: Final = 1.0
"""How much longer than a worker that gives seconds the server waits: such workers keep to their
limit themselves, and may not outlive being told that the job is not theirs any more."""

Handler = Callable[[Peer, Sequence[bytes]], None]

OFTEN: Final = {
    **dict.fromkeys(
        (
            T.SUBMIT_JOB_HIGH,
            T.SUBMIT_JOB,
            T.SUBMIT_JOB_LOW,
            T.SUBMIT_JOB_HIGH_BG,
            T.SUBMIT_JOB_BG,
            T.SUBMIT_JOB_LOW_BG,
        ),
        3,
    ),
    **dict.fromkeys((T.WORK_COMPLETE, T.WORK_DATA, T.WORK_WARNING), 2),
    **dict.fromkeys((T.GRAB_JOB, T.GRAB_JOB_UNIQ, T.GRAB_JOB_ALL, T.PRE_SLEEP), 0),
}
"""What most packets are -> how many arguments each has, the last of which is data."""


class Dispatcher:
    """Carries out packets.

    Args:
        queues: the server's state.
        exceptions: whether all clients are told exceptions, not only those that ask.
    """

    def __init__(self, queues: Queues, *, exceptions: bool = False) -> None:
        self.queues = queues
        self.exceptions = exceptions
        self.closing = False
        """Whether jobs are neither taken in nor given out any more."""
        self._handlers: dict[T, Handler] = {
            T.CAN_DO: self._can_do,
            T.CAN_DO_TIMEOUT: self._can_do,
            T.CANT_DO: lambda peer, args: queues.cant_do(peer, args[0]),
            T.RESET_ABILITIES: self._reset_abilities,
            T.SET_CLIENT_ID: self._set_client_id,
            T.PRE_SLEEP: lambda peer, _: queues.sleep(peer),
            T.GRAB_JOB: self._grab,
            T.GRAB_JOB_UNIQ: self._grab_unique,
            T.GRAB_JOB_ALL: self._grab_all,
            T.WORK_STATUS: self._work_status,
            T.WORK_DATA: lambda peer, args: self._work_part(peer, T.WORK_DATA, args),
            T.WORK_WARNING: lambda peer, args: self._work_part(peer, T.WORK_WARNING, args),
            T.WORK_COMPLETE: self._work_complete,
            T.WORK_FAIL: self._work_fail,
            T.WORK_EXCEPTION: self._work_exception,
            T.SUBMIT_JOB_EPOCH: self._submit_epoch,
            T.SUBMIT_JOB_SCHED: self._submit_scheduled,
            T.SUBMIT_REDUCE_JOB: lambda peer, args: self._submit_reduce(peer, args, False),
            T.SUBMIT_REDUCE_JOB_BACKGROUND: lambda peer, args: self._submit_reduce(
                peer, args, True
            ),
            T.GET_STATUS: self._get_status,
            T.GET_STATUS_UNIQUE: self._get_status_unique,
            T.OPTION_REQ: self._option,
            T.ECHO_REQ: lambda peer, args: peer.send(T.ECHO_RES, args[0]),
        }
        for kind, priority, background in (
            (T.SUBMIT_JOB_HIGH, Priority.HIGH, False),
            (T.SUBMIT_JOB, Priority.NORMAL, False),
            (T.SUBMIT_JOB_LOW, Priority.LOW, False),
            (T.SUBMIT_JOB_HIGH_BG, Priority.HIGH, True),
            (T.SUBMIT_JOB_BG, Priority.NORMAL, True),
            (T.SUBMIT_JOB_LOW_BG, Priority.LOW, True),
        ):
            self._handlers[kind] = self._submitter(priority, background)

        self.often: list[tuple[int, Handler] | None] = [None] * (max(T) + 1)
        """For each number of a packet that comes often: its arguments, and what carries it out
        (which may raise `Refused`)."""
        for kind, arguments in OFTEN.items():
            self.often[kind] = arguments, self._handlers[kind]

    def packet(self, peer: Peer, packet: Packet) -> None:
        """Carry out a packet of `peer`."""
        handler = self._handlers.get(packet.type)
        try:
            if handler is None:
                raise Refused("INVALID_COMMAND", f"{packet.type.name} is not supported")
            handler(peer, packet.args)
        except Refused as refused:
            self.error(peer, refused.code, str(refused))

    def wrong(self, peer: Peer, error: ProtocolError) -> None:
        """Answer what could not be read."""
        self.error(peer, error.code, str(error))

    def error(self, peer: Peer, code: str, text: str) -> None:
        """Send an ``ERROR``."""
        peer.send(T.ERROR, code.encode(), text.encode())

    # -- workers ------------------------------------------------------------------

    def _can_do(self, peer: Peer, args: Sequence[bytes]) -> None:
        check_function_name(args[0])
        timeout = _number(args[1], "timeout") if len(args) > 1 else 0
        timeout_s = timeout + GRACE_S if 0 < timeout < LEAST_TIMEOUT_MS else timeout / 1000
        self.queues.can_do(peer, args[0], timeout_s)

    def _reset_abilities(self, peer: Peer, args: Sequence[bytes]) -> None:
        for name in list(peer.abilities):
            self.queues.cant_do(peer, name)

    def _set_client_id(self, peer: Peer, args: Sequence[bytes]) -> None:
        # The id stands in a line of words, and must not break it.
        clean = bytes(byte if byte > 32 and byte != 127 else 0x5F for byte in args[0])
        peer.client_id = clean[:MAX_CLIENT_ID] or b"-"

    def _next(self, peer: Peer) -> Job | None:
        job = None if self.closing else self.queues.grab(peer)
        if job is None:
            peer.write(NO_JOB)
        return job

    def _grab(self, peer: Peer, args: Sequence[bytes]) -> None:
        job = self._next(peer)
        if job is not None:
            peer.send(T.JOB_ASSIGN, job.handle, job.function.name, job.data)

    def _grab_unique(self, peer: Peer, args: Sequence[bytes]) -> None:
        job = self._next(peer)
        if job is not None:
            self._assign_unique(peer, job)

    def _grab_all(self, peer: Peer, args: Sequence[bytes]) -> None:
        job = self._next(peer)
        if job is None:
            return
        if job.reducer is None:
            self._assign_unique(peer, job)
        else:
            name = job.function.name
            peer.send(T.JOB_ASSIGN_ALL, job.handle, name, job.unique, job.reducer, job.data)

    def _assign_unique(self, peer: Peer, job: Job) -> None:
        peer.send(T.JOB_ASSIGN_UNIQ, job.handle, job.function.name, job.unique, job.data)

    def _work_status(self, peer: Peer, args: Sequence[bytes]) -> None:
        job = self.queues.running(peer, args[0])
        if job is not None:
            job.progress = args[1], args[2]
            job.tell(T.WORK_STATUS, args[1], args[2])

    def _work_part(self, peer: Peer, kind: T, args: Sequence[bytes]) -> None:
        job = self.queues.running(peer, args[0])
        if job is not None:
            job.tell(kind, args[1])

    def _work_complete(self, peer: Peer, args: Sequence[bytes]) -> None:
        job = self.queues.running(peer, args[0])
        if job is not None:
            job.tell(T.WORK_COMPLETE, args[1])
            self.queues.finish(job, failed=False)

    def _work_fail(self, peer: Peer, args: Sequence[bytes]) -> None:
        if args[0] == peer.excepted:
            return  # some workers say both; the exception has ended the job
        job = self.queues.running(peer, args[0])
        if job is not None:
            job.tell(T.WORK_FAIL)
            self.queues.finish(job, failed=True)

    def _work_exception(self, peer: Peer, args: Sequence[bytes]) -> None:
        job = self.queues.running(peer, args[0])
        if job is None:
            return
        told = answer(T.WORK_EXCEPTION, job.handle, args[1])
        untold = answer(T.WORK_FAIL, job.handle)
        for waiter, times in job.waiters.items():
            raw = told if waiter.exceptions or self.exceptions else untold
            for _ in range(times):
                waiter.write(raw)
        peer.excepted = job.handle
        self.queues.finish(job, failed=True)

    # -- clients ------------------------------------------------------------------

    def _submitter(self, priority: Priority, background: bool) -> Handler:
        submit_job = self.queues.submit

        def submit(peer: Peer, args: Sequence[bytes]) -> None:
            name, unique, data = args
            if unique or self.closing:
                self._check_submission(unique)
            submit_job(peer, name, unique, data, priority, background)

        return submit

    def _submit_epoch(self, peer: Peer, args: Sequence[bytes]) -> None:
        self._check_submission(args[1])
        run_at = float(_number(args[2], "time"))
        self.queues.submit(peer, args[0], args[1], args[3], background=True, run_at=run_at)

    def _submit_scheduled(self, peer: Peer, args: Sequence[bytes]) -> None:
        self._check_submission(args[1])
        try:
            run_at = next_time(args[2:7], self.queues.wall)
        except ValueError as error:
            raise Refused("INVALID_ARGUMENTS", str(error)) from None
        self.queues.submit(peer, args[0], args[1], args[7], background=True, run_at=run_at)

    def _submit_reduce(self, peer: Peer, args: Sequence[bytes], background: bool) -> None:
        self._check_submission(args[1])
        name, unique, reducer, _, data = args
        self.queues.submit(peer, name, unique, data, background=background, reducer=reducer)

    def _check_submission(self, unique: bytes) -> None:
        if self.closing:
            raise Refused("SHUTTING_DOWN", "The server is about to end; ask another one")
        if len(unique) > MAX_UNIQUE:
            raise Refused("ARGUMENT_TOO_LARGE", "Unique value too large")

    def _get_status(self, peer: Peer, args: Sequence[bytes]) -> None:
        peer.send(T.STATUS_RES, args[0], *_status(self.queues.jobs.get(args[0])))

    def _get_status_unique(self, peer: Peer, args: Sequence[bytes]) -> None:
        job = self.queues.by_unique(args[0])
        waiters = 0 if job is None else sum(job.waiters.values())
        peer.send(T.STATUS_RES_UNIQUE, args[0], *_status(job), b"%d" % waiters)

    def _option(self, peer: Peer, args: Sequence[bytes]) -> None:
        if args[0].lower() != EXCEPTIONS:
            raise Refused("UNKNOWN_OPTION", "Server does not recognize given option")
        peer.exceptions = True
        peer.send(T.OPTION_RES, args[0])


def _status(job: Job | None) -> tuple[bytes, bytes, bytes, bytes]:
    """Known, running, numerator, denominator."""
    if job is None:
        return b"0", b"0", b"0", b"0"
    return b"1", b"1" if job.worker is not None else b"0", *job.progress


def _number(text: bytes, what: str) -> int:
    """A number as the protocol writes it: decimal digits."""
    try:
        number = int(text.decode("ascii"))
    except ValueError:
        raise Refused("INVALID_ARGUMENTS", f"The {what} must be a number") from None
    if abs(number) >= 1 << 63:
        raise Refused("INVALID_ARGUMENTS", f"The {what} is too large")
    return number

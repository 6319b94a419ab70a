"""What workers and hosts say."""

from __future__ import annotations

import time
from typing import Final

from lj_services.usercluster.coordinator.console import Console, Session, Worker, number_from_zero
from lj_services.usercluster.coordinator.protocol import BadRequest, Reply, Request, named, whole
from lj_services.usercluster.coordinator.scheduling import Instruction
from lj_services.usercluster.disks import Disk

LONGEST_NAME: Final = 100
MOST_SLOTS: Final = 1000


async def hello(console: Console, session: Session, request: Request) -> Reply:
    """worker=NAME slots=N: a worker presents itself; takes N moves at once"""
    name = request.fields.get("worker", "")
    if not name or len(name) > LONGEST_NAME:
        raise BadRequest(f"hello: worker=NAME, 1 to {LONGEST_NAME} characters")
    slots = min(request.number("slots"), MOST_SLOTS)
    if session.worker is not None and session.worker.name != name:
        raise BadRequest(f"hello: this connection is {session.worker.name}'s already")
    earlier = console.workers.get(name)
    if earlier is not None and earlier.session is not session:
        earlier.session.end()  # it has come again, and the old connection is not closed yet
    session.worker = console.workers[name] = Worker(name, slots, session)
    console.coordinator.schedule.joined(name, slots)
    term, every = console.coordinator.desk.lock.term, console.coordinator.settings.report_s
    return Reply(named(term=term, report_s=f"{every:g}"))


async def get_job(console: Console, session: Session, _request: Request) -> Reply:
    """a worker asks for a move: JOB uid:src:dst move=N claim=N rate=R, or IDLE why=..."""
    worker = _worker(console, session)
    if console.draining:
        return Reply("IDLE " + named(why="the coordinator ends"))
    found = await console.coordinator.get_job(worker.name, lambda: session.gone)
    if isinstance(found, str):
        worker.answered = found
        return Reply("IDLE " + named(why=found))
    job, instruction = found
    worker.answered = f"move {job.move_id}"
    return Reply(
        f"JOB {job.userid}:{job.src}:{job.dst} "
        + named(move=job.move_id, claim=job.claim, state=job.state)
        + f" {told(instruction)}"
    )


async def report(console: Console, session: Session, request: Request) -> Reply:
    """move=N state=S rows=N [total=N behind=N rate=R]: how far a worker is; how to go on"""
    _worker(console, session)
    fields = request.fields
    instruction = console.coordinator.reported(
        request.number("move", at_least=1),
        fields.get("state", "")[:20],
        request.number("rows"),
        _perhaps(fields.get("total")),
        _perhaps(fields.get("behind")),
        read_rate(fields.get("rate", "any")),
    )
    return Reply(told(instruction))


async def finish(console: Console, session: Session, request: Request) -> Reply:
    """move=N: a worker has given a move back (whatever became of it: the table says)"""
    _worker(console, session)
    number = request.number("move", at_least=1)
    job = await console.coordinator.given_back(number)
    if job is None:
        raise BadRequest(f"there is no move {number}", "unknown")
    return Reply(named(state=job.state))


async def load(console: Console, _session: Session, request: Request) -> Reply:
    """cluster=N host=NAME [busy=0.25] [free=BYTES total=BYTES device=ID]: how a host's disk is"""
    cluster, fields = request.number("cluster", at_least=1), request.fields
    if cluster not in console.coordinator.desk.databases.clusters():
        raise BadRequest(f"there is no cluster {cluster}", "unknown")
    host = fields.get("host", "")
    if not host or len(host) > LONGEST_NAME:
        raise BadRequest(f"load: host=NAME, 1 to {LONGEST_NAME} characters")
    busy = None
    if "busy" in fields:
        busy = number_from_zero(fields["busy"], "load: busy")
        if not 0 <= busy <= 1:
            raise BadRequest("load: busy is a share of the time, 0 to 1")
    space = None
    if fields.keys() & {"free", "total", "device"}:
        space = Disk(
            total=request.number("total", at_least=1),
            free=request.number("free"),
            device=fields.get("device", host),
        )
        if space.free > space.total:
            raise BadRequest("load: free can't be more than total")
    if busy is None and space is None:
        raise BadRequest("load: say busy=SHARE, or free=BYTES total=BYTES, or both")
    console.coordinator.disks.heard(cluster, host, busy, time.monotonic(), space)
    return Reply()


def _worker(console: Console, session: Session) -> Worker:
    if session.worker is None or console.workers.get(session.worker.name) is not session.worker:
        raise BadRequest("say hello first: hello worker=NAME slots=N", "no_hello")
    return session.worker


def told(instruction: Instruction) -> str:
    """An instruction as it stands in a reply."""
    rate = "any" if instruction.rate is None else f"{instruction.rate:.3f}"
    words = "hand_back " if instruction.hand_back else ""
    return words + named(rate=rate, why=instruction.why)


def read_rate(text: str) -> float | None:
    """A rate as it stands in a line: ``any``, or rows a second.

    Raises:
        BadRequest: it is neither.
    """
    return None if text == "any" else number_from_zero(text, "rate")


def _perhaps(text: str | None) -> int | None:
    return None if text in (None, "-") else whole(str(text), "report: total and behind")


COMMANDS: Final = (hello, get_job, report, finish, load)

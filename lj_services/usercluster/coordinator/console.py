"""The commands: what each takes, does and answers.  For workers, hosts and operators alike.

A command is a method of `Console` whose docstring is its line in ``help``.  It gets the session
(who is asking) and the request, and returns a reply; what it raises becomes an ``ERR`` line
(`answer`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from lj_services.database import DatabaseError
from lj_services.usercluster.coordinator import listing, orders
from lj_services.usercluster.coordinator.core import Coordinator
from lj_services.usercluster.coordinator.jobs import SIDES, Side, scope
from lj_services.usercluster.coordinator.limits import Limits, changed
from lj_services.usercluster.coordinator.protocol import (
    BadRequest,
    Reply,
    Request,
    named,
    tokens,
    whole,
)
from lj_services.usercluster.coordinator.scheduling import Instruction
from lj_services.usercluster.errors import NoCluster, UnknownUser, UserClusterError
from lj_services.usercluster.mover import MoveRefused, UnknownMove
from lj_services.usercluster.mover.tables import BEFORE_COMMIT, CANCELLED, QUEUED

LONGEST_NAME: Final = 100
MOST_SLOTS: Final = 1000
LATELY_S: Final = 360.0
"""What ``move_stats`` looks back on, as LiveJournal's did."""


class Session(Protocol):
    """One client, as far as commands know it."""

    peer: str
    worker: Worker | None
    subscribed: bool
    since: float

    def end(self) -> None:
        """Cut it off once its replies are written."""

    @property
    def gone(self) -> bool:
        """Whether nobody hears the reply any more."""


@dataclass
class Worker:
    """A worker's connection: what it called itself, and how many moves it takes."""

    name: str
    slots: int
    session: Session
    answered: str = "has not asked yet"
    """What it was told when it last asked for a move."""


@dataclass
class Console:
    """Answers requests.

    Attributes:
        coordinator: what they are about.
        stop: ends the daemon.
        workers: the connected ones, by name.
        sessions: all that is connected.
    """

    coordinator: Coordinator
    stop: Callable[[], None]
    workers: dict[str, Worker] = field(default_factory=dict)
    sessions: set[Session] = field(default_factory=set)
    draining: bool = False

    async def answer(self, session: Session, request: Request) -> Reply:
        """The reply to a request."""
        command = COMMANDS.get(request.command)
        if command is None:
            return Reply(f"there is no {request.command}; try help", error="unknown_command")
        try:
            return await command(self, session, request)
        except BadRequest as error:
            return Reply(str(error), error=error.code)
        except (UnknownMove, UnknownUser, NoCluster) as error:
            return Reply(str(error), error="unknown")
        except UserClusterError as error:
            return Reply(str(error), error="refused")
        except DatabaseError as error:
            return Reply(str(error), error="unreachable")

    def left(self, session: Session) -> None:
        """A client is gone."""
        self.sessions.discard(session)
        worker = session.worker
        if worker is not None and self.workers.get(worker.name) is worker:
            del self.workers[worker.name]
            self.coordinator.schedule.left(worker.name)

    # --- Workers ---

    async def hello(self, session: Session, request: Request) -> Reply:
        """worker=NAME slots=N: a worker presents itself; takes N moves at once"""
        name = request.fields.get("worker", "")
        if not name or len(name) > LONGEST_NAME:
            raise BadRequest(f"hello: worker=NAME, 1 to {LONGEST_NAME} characters")
        slots = min(request.number("slots"), MOST_SLOTS)
        if session.worker is not None and session.worker.name != name:
            raise BadRequest(f"hello: this connection is {session.worker.name}'s already")
        earlier = self.workers.get(name)
        if earlier is not None and earlier.session is not session:
            earlier.session.end()  # it has come again, and the old connection is not closed yet
        session.worker = self.workers[name] = Worker(name, slots, session)
        self.coordinator.schedule.joined(name, slots)
        term, every = self.coordinator.desk.lock.term, self.coordinator.settings.report_s
        return Reply(named(term=term, report_s=f"{every:g}"))

    async def get_job(self, session: Session, _request: Request) -> Reply:
        """a worker asks for a move: JOB uid:src:dst move=N claim=N rate=R, or IDLE why=..."""
        worker = self._worker(session)
        if self.draining:
            return Reply("IDLE " + named(why="the coordinator ends"))
        found = await self.coordinator.get_job(worker.name, lambda: session.gone)
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

    async def report(self, session: Session, request: Request) -> Reply:
        """move=N state=S rows=N [total=N behind=N rate=R]: how far a worker is; how to go on"""
        self._worker(session)
        fields = request.fields
        instruction = self.coordinator.reported(
            request.number("move", at_least=1),
            fields.get("state", "")[:20],
            request.number("rows"),
            _perhaps(fields.get("total")),
            _perhaps(fields.get("behind")),
            read_rate(fields.get("rate", "any")),
        )
        return Reply(told(instruction))

    async def finish(self, session: Session, request: Request) -> Reply:
        """move=N: a worker has given a move back (whatever became of it: the table says)"""
        self._worker(session)
        number = request.number("move", at_least=1)
        job = await self.coordinator.given_back(number)
        if job is None:
            raise BadRequest(f"there is no move {number}", "unknown")
        return Reply(named(state=job.state))

    async def load(self, _session: Session, request: Request) -> Reply:
        """cluster=N host=NAME busy=0.25: a cluster's host says how busy its disk is"""
        cluster = request.number("cluster", at_least=1)
        if cluster not in self.coordinator.desk.databases.clusters():
            raise BadRequest(f"there is no cluster {cluster}", "unknown")
        host = request.fields.get("host", "")
        if not host or len(host) > LONGEST_NAME:
            raise BadRequest(f"load: host=NAME, 1 to {LONGEST_NAME} characters")
        busy = _float(request.fields.get("busy", ""), "load: busy")
        if not 0 <= busy <= 1:
            raise BadRequest("load: busy is a share of the time, 0 to 1")
        self.coordinator.disks.heard(cluster, host, busy, time.monotonic())
        return Reply()

    def _worker(self, session: Session) -> Worker:
        if session.worker is None or self.workers.get(session.worker.name) is not session.worker:
            raise BadRequest("say hello first: hello worker=NAME slots=N", "no_hello")
        return session.worker

    # --- Moves ---

    async def add_jobs(self, _session: Session, request: Request) -> Reply:
        """UID:SRC:DST [priority=N] [, ...]: ask for moves; a line for each"""
        asked = []
        for piece in request.rest.split(","):
            words, fields = tokens(piece)
            if len(words) != 1 or set(fields) - {"priority"}:
                raise BadRequest(f"add_jobs: {piece.strip()[:60]!r} is no UID:SRC:DST [priority=N]")
            numbers = words[0].split(":")
            if len(numbers) != 3:
                raise BadRequest(f"add_jobs: {words[0][:60]!r} is no UID:SRC:DST")
            userid, src, dst = (whole(text, "add_jobs: each", 1) for text in numbers)
            asked.append((userid, src, dst, _priority(fields.get("priority", "0"))))
        lines = []
        for userid, src, dst, priority in asked:
            try:
                move = await self.coordinator.thread(self._add, userid, src, dst, priority)
                lines.append(f"Added job {move} for userid {userid}")
            except UserClusterError as error:
                lines.append(f"Refused userid {userid}: {error}")
        await self.coordinator.refresh()
        return Reply(lines=tuple(lines))

    def _add(self, userid: int, src: int, dst: int, priority: int) -> int:
        moves = self.coordinator.desk.moves
        home = moves.home(userid)
        if home is not None and home[0] != src:
            raise MoveRefused(f"lives on cluster {home[0]}, not {src}")
        return moves.enqueue(userid, dst, priority=priority).move_id

    async def list_jobs(self, _session: Session, request: Request) -> Reply:
        """[running|waiting] [limit=N]: the moves, and why each is where it is"""
        limit = whole(request.fields.get("limit", "1000"), "list_jobs: limit", 1)
        which = request.words[0] if request.words else "all"
        if which not in ("all", "running", "waiting"):
            raise BadRequest("list_jobs: running, waiting, or nothing")
        return Reply(lines=tuple(listing.moves(self.coordinator, which, limit)))

    async def show(self, _session: Session, request: Request) -> Reply:
        """MOVE: one move, and why it is where it is"""
        number = whole(request.word(0, "MOVE"), "show: MOVE", 1)
        job = await self.coordinator.refresh_one(number)
        if job is None:
            raise BadRequest(f"there is no move {number}", "unknown")
        return Reply(listing.line(self.coordinator, job))

    async def is_moving(self, _session: Session, request: Request) -> Reply:
        """UID: 1 if the user is being moved, else 0"""
        userid = whole(request.word(0, "UID"), "is_moving: UID", 1)
        found = await self.coordinator.thread(
            self.coordinator.desk.moves.list, userid=userid, states=BEFORE_COMMIT
        )
        return Reply(str(int(bool(found))))

    async def source_counts(self, _session: Session, _request: Request) -> Reply:
        """for each source: how many moves wait and run, and what holds them up"""
        return Reply(lines=tuple(listing.sources(self.coordinator)))

    async def recent_moves(self, _session: Session, request: Request) -> Reply:
        """[N]: the last cut-overs, and how long each user was held"""
        limit = whole(request.words[0] if request.words else "20", "recent_moves: N", 1)
        lines = await self.coordinator.thread(
            listing.recent, self.coordinator.desk.databases, min(limit, 1000)
        )
        return Reply(lines=tuple(lines))

    async def move_stats(self, _session: Session, _request: Request) -> Reply:
        """what became of the moves of the last 360 s"""
        since = time.monotonic() - LATELY_S
        states = Counter(state for at, state in self.coordinator.finished if at >= since)
        rows = sum(progress.speed for progress in self.coordinator.progress.values())
        held = await self.coordinator.thread(
            listing.held, self.coordinator.desk.databases, round(LATELY_S * 1000)
        )
        lines = [
            named(given_back=sum(states.values()), per_minute=f"{sum(states.values()) / 6:.1f}"),
            *(named(state=state, count=count) for state, count in sorted(states.items())),
            named(rows_s_now=round(rows)),
            held,
        ]
        return Reply(lines=tuple(lines))

    async def cancel(self, _session: Session, request: Request) -> Reply:
        """MOVE: undo a move that is before its cut-over"""
        number = whole(request.word(0, "MOVE"), "cancel: MOVE", 1)
        why = request.fields.get("why", "by an operator")
        move = await self.coordinator.thread(
            self.coordinator.desk.moves.end, number, CANCELLED, why
        )
        await self.coordinator.refresh_one(number)
        return Reply(named(move=number, state=move.state, ending=move.ending))

    async def retry(self, _session: Session, request: Request) -> Reply:
        """MOVE: take up a waiting move now; ask again for one that failed"""
        number = whole(request.word(0, "MOVE"), "retry: MOVE", 1)
        move = await self.coordinator.thread(self.coordinator.desk.moves.retry, number)
        await self.coordinator.refresh_one(move.move_id)
        return Reply(named(move=move.move_id, state=move.state))

    async def priority(self, _session: Session, request: Request) -> Reply:
        """MOVE N: higher goes first"""
        number = whole(request.word(0, "MOVE"), "priority: MOVE", 1)
        value = _priority(request.word(1, "N"))
        databases = self.coordinator.desk.databases
        await self.coordinator.thread(orders.set_priority, databases, number, value)
        await self.coordinator.refresh_one(number)
        return Reply(named(move=number, priority=value))

    async def stop_moves(self, _session: Session, request: Request) -> Reply:
        """[all]: cancel what waits (all: also what runs, as far as it is before its cut-over)"""
        everything = request.words == ("all",)
        if request.words and not everything:
            raise BadRequest("stop_moves: all, or nothing")
        count = 0
        for job in list(self.coordinator.schedule.jobs.values()):
            runs = job.move_id in self.coordinator.schedule.running
            if job.state in BEFORE_COMMIT and (everything or (job.state == QUEUED and not runs)):
                try:
                    await self.coordinator.thread(
                        self.coordinator.desk.moves.end, job.move_id, CANCELLED, "stop_moves"
                    )
                    count += 1
                except MoveRefused:
                    continue  # it was quicker
        await self.coordinator.refresh()
        return Reply(f"{count} moves to be cancelled")

    # --- Orders ---

    async def pause(self, _session: Session, request: Request) -> Reply:
        """[all|src:N|dst:N|MOVE] [why=...]: begin nothing there, hand back what runs"""
        what = _scope(request)
        why = request.fields.get("why", "by an operator")
        await self.coordinator.thread(orders.pause, self.coordinator.desk.databases, what, why)
        await self.coordinator.refresh()
        return Reply(f"{what} is paused")

    async def resume(self, _session: Session, request: Request) -> Reply:
        """[all|src:N|dst:N|MOVE]: go on there"""
        what = _scope(request)
        was = await self.coordinator.thread(orders.resume, self.coordinator.desk.databases, what)
        await self.coordinator.refresh()
        return Reply(f"{what} goes on" if was else f"{what} was not paused")

    async def pauses(self, _session: Session, _request: Request) -> Reply:
        """what is paused, and why"""
        found = sorted(self.coordinator.orders.pauses.items())
        return Reply(lines=tuple(named(scope=what, why=why) for what, why in found))

    async def set_rate(self, _session: Session, request: Request) -> Reply:
        """src:N|dst:N moves=N purges=N rows_s=R lag_s=S busy=B, or N:MOVES for a source"""
        what = request.word(0, "src:N or dst:N")
        values = {name: _float(text, f"set_rate: {name}") for name, text in request.fields.items()}
        if what.replace(":", "").isdecimal():  # as moveuclusterd has it
            source, _, moves = what.partition(":")
            what, values = f"src:{source}", {"moves": _float(moves, "set_rate: N:MOVES")}
        side, cluster = self._side(what)
        if not values:
            raise BadRequest(f"set_rate: give one of {', '.join(Limits.model_fields)}")
        try:
            changed(self.coordinator.limits(side, cluster), values)
        except ValueError as error:
            raise BadRequest(f"set_rate: {error}") from None
        await self.coordinator.thread(
            orders.set_limits, self.coordinator.desk.databases, what, values
        )
        await self.coordinator.refresh()
        return Reply(f"{what} " + _limits(self.coordinator.limits(side, cluster)))

    async def reset_rate(self, _session: Session, request: Request) -> Reply:
        """src:N|dst:N: the settings hold again"""
        what = request.word(0, "src:N or dst:N")
        side, cluster = self._side(what)
        await self.coordinator.thread(orders.reset_limits, self.coordinator.desk.databases, what)
        await self.coordinator.refresh()
        return Reply(f"{what} " + _limits(self.coordinator.limits(side, cluster)))

    async def show_rates(self, _session: Session, _request: Request) -> Reply:
        """limits of each side of each cluster, and how loaded it is"""
        return Reply(
            lines=tuple(
                f"{side}:{cluster} "
                + named(running=self.coordinator.schedule.running_on(side, cluster))
                + f" {_limits(self.coordinator.limits(side, cluster))} "
                + listing.condition(self.coordinator, cluster)
                for cluster in self.coordinator.desk.databases.clusters()
                for side in SIDES
            )
        )

    def _side(self, text: str) -> tuple[Side, int]:
        side, _, number = text.partition(":")
        if side not in SIDES or not number.isdecimal():
            raise BadRequest(f"{text[:40]!r} is no src:N or dst:N")
        cluster = int(number)
        if cluster not in self.coordinator.desk.databases.clusters():
            raise BadRequest(f"there is no cluster {cluster}", "unknown")
        return ("src" if side == "src" else "dst"), cluster

    # --- Around it ---

    async def clients(self, _session: Session, _request: Request) -> Reply:
        """who is connected"""
        now = time.monotonic()
        lines = []
        for one in sorted(self.sessions, key=lambda session: session.peer):
            worker = one.worker
            facts: dict[str, object] = {"peer": one.peer, "seconds": round(now - one.since)}
            if worker is not None:
                running = self.coordinator.schedule.running.values()
                facts.update(
                    worker=worker.name,
                    slots=worker.slots,
                    moves=sum(name == worker.name for name in running),
                    answered=worker.answered,
                )
            lines.append(named(**facts))
        return Reply(lines=tuple(lines))

    async def subscribe(self, session: Session, _request: Request) -> Reply:
        """be told what happens, as EVENT lines"""
        session.subscribed = True
        return Reply("subscribed")

    async def unsubscribe(self, session: Session, _request: Request) -> Reply:
        """be told no more"""
        session.subscribed = False
        return Reply("unsubscribed")

    async def refresh(self, _session: Session, _request: Request) -> Reply:
        """look at the tables now: something was changed there"""
        await self.coordinator.refresh()
        return Reply()

    async def help(self, _session: Session, _request: Request) -> Reply:
        """this list"""
        return Reply(
            lines=tuple(
                f"{name} {(command.__doc__ or '').strip()}"
                for name, command in sorted(COMMANDS.items())
            )
        )

    async def quit(self, session: Session, _request: Request) -> Reply:
        """end this connection"""
        session.end()
        return Reply("bye")

    async def shutdown(self, session: Session, _request: Request) -> Reply:
        """end the coordinator; moves under way go on, and nothing is lost"""
        self.stop()
        return Reply("the coordinator ends")


Command = Callable[[Console, Session, Request], Awaitable[Reply]]
COMMANDS: Final[dict[str, Command]] = {
    command.__name__: command
    for command in (
        Console.hello,
        Console.get_job,
        Console.report,
        Console.finish,
        Console.load,
        Console.add_jobs,
        Console.list_jobs,
        Console.show,
        Console.is_moving,
        Console.source_counts,
        Console.recent_moves,
        Console.move_stats,
        Console.cancel,
        Console.retry,
        Console.priority,
        Console.stop_moves,
        Console.pause,
        Console.resume,
        Console.pauses,
        Console.set_rate,
        Console.reset_rate,
        Console.show_rates,
        Console.clients,
        Console.subscribe,
        Console.unsubscribe,
        Console.refresh,
        Console.help,
        Console.quit,
        Console.shutdown,
    )
}


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
    return None if text == "any" else _float(text, "rate")


def _limits(limits: Limits) -> str:
    return named(**{name: f"{value:g}" for name, value in limits.model_dump().items()})


def _perhaps(text: str | None) -> int | None:
    return None if text in (None, "-") else whole(str(text), "report: total and behind")


def _priority(text: str) -> int:
    value = whole(text, "priority", -1_000_000)
    if value > 1_000_000:
        raise BadRequest("priority: -1000000 to 1000000")
    return value


def _float(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < 1e12:
        raise BadRequest(f"{what} must be a number from 0 on, not {text[:40]!r}")
    return value


def _scope(request: Request) -> str:
    try:
        return scope(request.words[0] if request.words else "all")
    except ValueError as error:
        raise BadRequest(f"{request.command}: {error}") from None

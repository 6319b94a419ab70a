"""A worker under the coordinator: asks it for moves, and goes on as it says.

One connection, several moves at once.  A thread for each place asks (``get_job``), one at a time,
and runs what it gets with `lj_services.usercluster.mover.Worker`; one more thread reports
(``report``), and hands what is told on to the gates of the moves (`Gate`).

The coordinator is no part of what makes a move safe.  When it is gone the moves go on by what was
told last, their leases are renewed in the table, and the worker connects again; a new coordinator
finds its moves there.

On `stop` nothing is asked for any more.  Moves under way have so many seconds to come to an end;
then they are handed back where they are, for other workers to go on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from lj_services.daemon import HostPort
from lj_services.database import DatabaseError
from lj_services.usercluster.coordinator.client import Client
from lj_services.usercluster.coordinator.errors import Away, CoordinatorError, OrderRefused
from lj_services.usercluster.coordinator.protocol import BadRequest, Reply, tokens, whole
from lj_services.usercluster.mover import Move, UnknownMove, Worker
from lj_services.usercluster.mover.errors import HandBack
from lj_services.usercluster.mover.tables import VERIFYING
from lj_services.usercluster.mover.work import COMMIT_EVERY_S, Work

log = logging.getLogger(__name__)

IDLE_S = 0.25
"""How long after there was nothing to do the worker asks again."""
LONGEST_AWAY_S = 2.0
SIGN_EVERY_S = 2.0
NAP_S = 0.1


class Gate:
    """Lets a move through as fast as was told; called between its transactions.

    Args:
        rate: rows a second; None: any.
    """

    def __init__(self, rate: float | None) -> None:
        self._changed = threading.Condition()
        self._rate = rate
        self._hand_back: str | None = None
        self._began = time.monotonic()
        self._done: int | None = None

    @property
    def rate(self) -> float | None:
        """What was told last."""
        return self._rate

    def told(self, rate: float | None, hand_back: str | None) -> None:
        """Go by this from now on.

        Args:
            rate: rows a second; None: any; 0: wait.
            hand_back: why the move is to be given up; None: it is not.
        """
        with self._changed:
            if hand_back is not None:
                self._hand_back = hand_back
            if rate != self._rate:
                self._rate = rate
                self._done = None  # counted anew
            self._changed.notify_all()

    def __call__(self, work: Work) -> None:
        """Wait for as long as it takes.

        Raises:
            HandBack: the move is to be given up.
        """
        rows = worked_off(work)
        work.between_checks_s = COMMIT_EVERY_S if self._rate is None else 0.0
        with self._changed:
            while True:
                if self._hand_back is not None:
                    raise HandBack(self._hand_back)
                if self._rate is None:
                    return
                now = time.monotonic()
                if self._done is None or rows < self._done:
                    self._began, self._done = now, rows
                if self._rate > 0:
                    ahead_s = (rows - self._done) / self._rate - (now - self._began)
                    if ahead_s <= 0:
                        if now - self._began > 1.0:
                            # Time that was not used is not saved up for a burst.
                            self._began, self._done = now, rows
                        return
                else:
                    ahead_s = NAP_S
                if work.move.ending is not None:
                    return
                self._changed.wait(min(ahead_s, NAP_S))


def worked_off(work: Work) -> int:
    """Rows that a move has read or written in all its phases."""
    progress = work.progress
    return int(progress.get("rows", 0)) + int(progress.get("verified", 0))


@dataclass
class Running:
    """A move under way here."""

    move: Move
    gate: Gate
    work: Work | None = None
    since: float = field(default_factory=time.monotonic)

    def facts(self) -> dict[str, object]:
        """What ``report`` says of it."""
        progress = self.work.progress if self.work is not None else self.move.progress
        state = self.work.state if self.work is not None else self.move.state
        rate = self.gate.rate
        return {
            "move": self.move.move_id,
            "state": state,
            "rows": int(progress.get("verified" if state == VERIFYING else "rows", 0)),
            "total": progress.get("total"),
            "behind": progress.get("behind"),
            "rate": "any" if rate is None else f"{rate:.3f}",
        }


class CoordinatedWorker:
    """Runs what a coordinator gives.

    Args:
        worker: does the work; its name is used.
        locate: where the coordinator is; None: nobody knows at the moment.
        slots: moves at once.
        drain_s: seconds that moves may take to come to an end after `stop`.
    """

    def __init__(
        self,
        worker: Worker,
        locate: Callable[[], HostPort | None],
        slots: int,
        drain_s: float = 30.0,
    ) -> None:
        self._worker = worker
        self._locate = locate
        self._slots = slots
        self._drain_s = drain_s
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._running: dict[int, Running] = {}
        self._turn = threading.Lock()
        self._place_free = threading.Event()
        self._report_s = 1.0
        self._state_changed = threading.Event()

    def stop(self) -> None:
        """Take no more moves; `run` returns when those under way are done or given back."""
        self._stop.set()
        self._place_free.set()
        self._state_changed.set()

    def run(self) -> None:
        """Work until `stop`."""
        places = [
            threading.Thread(target=self._serve, name=f"mover {number}")
            for number in range(self._slots)
        ]
        reporter = threading.Thread(target=self._report_on, name="reports")
        reporter.start()
        for place in places:
            place.start()
        try:
            while not self._stop.is_set():
                try:
                    self._worker.presence.sign_of_life()
                except DatabaseError as error:
                    log.warning("no sign of life could be given: %s", error)
                self._worker.feeds.record_rates()
                self._stop.wait(SIGN_EVERY_S)
            self._drain(places)
        finally:
            self._ended.set()
            self._state_changed.set()
            for place in places:
                place.join()
            reporter.join()
            self._worker.feeds.close()
            self._worker.presence.sign_off()
            if self._client is not None:
                self._client.close()

    def _drain(self, places: list[threading.Thread]) -> None:
        until = time.monotonic() + self._drain_s
        for place in places:
            place.join(max(0.0, until - time.monotonic()))
        for running in list(self._running.values()):
            running.gate.told(0.0, "the worker ends")

    # --- Moves ---

    def _serve(self) -> None:
        while not self._stop.is_set():
            with self._turn:
                found = self._wait_for_one()
            if found is None:
                return
            try:
                self._carry_out(found)
            except Exception:
                log.exception("%s: an error that nobody foresaw", found.move)

    def _wait_for_one(self) -> Running | None:
        """A move to work on; None: the worker ends."""
        away_s = 0.1
        while not self._stop.is_set():
            self._place_free.clear()
            try:
                if (found := self._ask()) is not None:
                    return found
                away_s = 0.1
            except CoordinatorError as error:
                log.info("%s; tried again in %.1f s", error, away_s)
                self._stop.wait(away_s)
                away_s = min(away_s * 2, LONGEST_AWAY_S)
                continue
            if not self._stop.is_set():
                self._place_free.wait(IDLE_S)
        return None

    def _ask(self) -> Running | None:
        """A move to work on; None: there is none.

        Raises:
            CoordinatorError: the coordinator is away, or says something that is no answer.
        """
        client = self._connected()
        reply = client.call("get_job")
        try:
            words, fields = tokens(reply.text)
            if words[:1] == ("IDLE",):
                return None
            if words[:1] != ("JOB",):
                raise BadRequest(f"this is no answer: {reply.text[:80]!r}")
            move_id = whole(fields.get("move", ""), "move", 1)
            claim = whole(fields.get("claim", ""), "claim", 1)
            rate = _rate(fields)
        except BadRequest as error:
            raise OrderRefused("protocol", f"{self._at(client)}: {error}") from None
        try:
            move = self._worker.moves.get(move_id)
        except (UnknownMove, DatabaseError) as error:
            log.warning("move %s was given, but can't be read: %s", move_id, error)
            return None  # its lease runs out
        if (move.owner, move.claim) != (self._worker.name, claim):
            log.warning("%s was given, but is %s's", move, move.owner)
            return None
        return Running(move, Gate(rate))

    def _carry_out(self, running: Running) -> None:
        move = running.move
        with self._lock:
            self._running[move.move_id] = running

        def gate(work: Work) -> None:
            running.work = work
            running.gate(work)

        def tick(now: Move) -> None:
            if now.state != running.move.state:
                running.move = now
                self._state_changed.set()
            running.move = now

        try:
            done = self._worker.run(move, tick, gate)
            log.info("%s: %s", done, done.state)
        finally:
            with self._lock:
                # A claim that was lost may have come back here as another one of the same move.
                if self._running.get(move.move_id) is running:
                    del self._running[move.move_id]
            self._tell("finish", move=move.move_id)
            self._place_free.set()

    # --- Reports ---

    def _report_on(self) -> None:
        """Report on every move, and go by the answers, until the end."""
        while not self._ended.is_set():
            self._state_changed.wait(self._report_s if self._running else IDLE_S)
            self._state_changed.clear()
            with self._lock:
                running = list(self._running.values())
            for one in running:
                try:
                    self._report(one)
                except Exception:  # the next report must still come
                    log.exception("%s could not be reported", one.move)

    def _report(self, one: Running) -> None:
        reply = self._tell("report", **one.facts())
        if reply is None:
            return
        try:
            words, fields = tokens(reply.text)
            hand_back = fields.get("why", "") if "hand_back" in words else None
            one.gate.told(_rate(fields), hand_back)
        except BadRequest as error:
            log.warning("this is no instruction: %s", error)

    def _tell(self, command: str, **facts: object) -> Reply | None:
        """Tell the coordinator, if it is there; it reads the tables otherwise."""
        try:
            return self._connected().call(command, **facts)
        except CoordinatorError as error:
            log.debug("%s", error)
            return None

    def _connected(self) -> Client:
        """The connection; made, if there is none.

        Raises:
            CoordinatorError: the coordinator is away, or does not take this worker.
        """
        with self._lock:
            client = self._client
            if client is not None and client.open:
                return client
            try:
                address = self._locate()
            except DatabaseError as error:
                raise Away(f"nobody tells where the coordinator is: {error}") from None
            if address is None:
                raise Away("there is no coordinator; start one with lj mover coordinator")
            client = Client(address)
            try:
                _, fields = tokens(
                    client.call("hello", worker=self._worker.name, slots=self._slots).text
                )
                self._report_s = float(fields.get("report_s", "1"))
            except (CoordinatorError, BadRequest, ValueError) as error:
                client.close()
                raise OrderRefused("hello", f"{self._at(client)}: {error}") from None
            self._client = client
            log.info("connected to the coordinator at %s", address)
            return client

    def _at(self, client: Client) -> str:
        return f"coordinator {client.address}"


def _rate(fields: dict[str, str]) -> float | None:
    text = fields.get("rate", "any")
    if text == "any":
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        raise BadRequest(f"rate={text[:20]!r}") from None

"""Writers who keep a ledger of what was acknowledged, and the proof that all of it is there."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import Connection, delete, insert, update

from lj_services.database import CommitUnknown, DatabaseError, Databases
from lj_services.usercluster import UserBusy, Users
from lj_services.usercluster.numberspaces import allocate
from tests.support.moving import content, note, tag, tally


@dataclass
class Ledger:
    """What a user's writers were told was written: noteid -> (version, body)."""

    rows: dict[int, tuple[int, str]] = field(default_factory=dict)
    unsure: dict[int, tuple[tuple[int, str] | None, tuple[int, str] | None]] = field(
        default_factory=dict
    )
    """Notes whose last write got no answer: how they were before it, and would be after."""
    unanswered: int = 0
    gaps: list[float] = field(default_factory=list)
    """How long each write took, in seconds."""
    acknowledged: int = 0
    busy: int = 0
    errors: list[BaseException] = field(default_factory=list)
    history: list[tuple[int, int, str]] = field(default_factory=list)
    """When (milliseconds since 1970), which note, and what came of it."""

    def tell(self, noteid: int, what: str) -> None:
        """Add to the history."""
        self.history.append((time.time_ns() // 1_000_000, noteid, what))


class Writer(threading.Thread):
    """Posts, edits and deletes for one user, and keeps the ledger."""

    def __init__(self, users: Users, userid: int, pause_s: float = 0.0) -> None:
        super().__init__(name=f"writer of {userid}", daemon=True)
        self.ledger = Ledger()
        self._users = users
        self._userid = userid
        self._pause_s = pause_s
        self._stop_asked = threading.Event()
        self._doing: tuple[int, tuple[int, str] | None] = (0, None)

    def stop(self) -> Ledger:
        """End; returns the ledger."""
        self._stop_asked.set()
        self.join(30)
        assert not self.is_alive(), "the writer hangs"
        if self.ledger.errors:
            raise AssertionError("a writer failed") from self.ledger.errors[0]
        return self.ledger

    def run(self) -> None:
        turn = 0
        while not self._stop_asked.is_set():
            turn += 1
            began = time.monotonic()
            try:
                self._write(turn)
                self.ledger.acknowledged += 1
                self.ledger.tell(self._doing[0], f"acknowledged {self._doing[1]}")
            except CommitUnknown:
                self._unanswered()
                self.ledger.tell(self._doing[0], "unanswered")
            except (UserBusy, DatabaseError) as error:
                self.ledger.busy += 1
                self.ledger.tell(self._doing[0], f"not written, after this one: {error}")
            except BaseException as error:
                self.ledger.errors.append(error)
                return
            self.ledger.gaps.append(time.monotonic() - began)
            if self._pause_s:
                self._stop_asked.wait(self._pause_s)

    def _unanswered(self) -> None:
        """The connection broke during the commit: from now on leave that note alone."""
        ledger, (noteid, result) = self.ledger, self._doing
        ledger.unanswered += 1
        ledger.unsure[noteid] = (ledger.rows.pop(noteid, None), result)

    def _write(self, turn: int) -> None:
        ledger, userid = self.ledger, self._userid
        known = list(ledger.rows)
        what = turn % 5
        chosen = known[(turn * 7919) % len(known)] if known and what >= 3 else None
        with self._users.writing(userid) as connection:
            self._tally(connection)
            if chosen is None:
                noteid = allocate(connection, userid, "note")
                values = {"version": 0, "body": f"note {noteid}"}
                connection.execute(insert(note).values(userid=userid, noteid=noteid, **values))
                connection.execute(
                    insert(tag).values(userid=userid, noteid=noteid, word=f"w{noteid % 3}")
                )
                result: tuple[int, str] | None = (0, f"note {noteid}")
            else:
                noteid = chosen
                mine = (note.c.userid == userid, note.c.noteid == noteid)
                if what == 3:
                    version = ledger.rows[noteid][0] + 1
                    result = (version, f"edit {version}")
                    changed = connection.execute(
                        update(note).where(*mine).values(version=version, body=result[1])
                    ).rowcount
                else:
                    result = None
                    changed = connection.execute(delete(note).where(*mine)).rowcount
                    connection.execute(
                        delete(tag).where(tag.c.userid == userid, tag.c.noteid == noteid)
                    )
                assert changed == 1, f"note {noteid} is not there to be changed"
            self._doing = (noteid, result)
        if result is None:
            del ledger.rows[noteid]
        else:
            ledger.rows[noteid] = result
            # An unanswered write of that number was rolled back, which gave the number back.
            ledger.unsure.pop(noteid, None)

    def _tally(self, connection: Connection) -> None:
        mine = tally.c.userid == self._userid
        if not connection.execute(
            update(tally).where(mine).values(writes=tally.c.writes + 1)
        ).rowcount:
            connection.execute(insert(tally).values(userid=self._userid, writes=1))


@contextmanager
def writing(users: Users, userid: int, pause_s: float = 0.0) -> Iterator[Writer]:
    """A writer for the length of the block, which has written something before it."""
    writer = Writer(users, userid, pause_s)
    writer.start()
    while not writer.ledger.acknowledged and writer.is_alive():
        time.sleep(0.005)
    try:
        yield writer
    finally:
        writer._stop_asked.set()
        writer.join(30)


def assert_kept(databases: Databases, clusterid: int, userid: int, ledger: Ledger) -> None:
    """Every acknowledged write is on the cluster, exactly once, and nothing else is."""
    found = content(databases, clusterid, userid)
    notes = {row[1]: (row[2], row[3]) for row in found["note"]}
    for noteid, outcomes in ledger.unsure.items():
        assert notes.pop(noteid, None) in outcomes
    wrong = {
        noteid: (notes.get(noteid), ledger.rows.get(noteid))
        for noteid in notes.keys() | ledger.rows.keys()
        if notes.get(noteid) != ledger.rows.get(noteid)
    }
    around = {number for noteid in wrong for number in (noteid - 1, noteid, noteid + 1)}
    history = "\n".join(str(entry) for entry in ledger.history if entry[1] in around)
    assert not wrong, f"userid {userid}: found, and acknowledged: {wrong}\n{history}"
    tagged = {row[2] for row in found["tag"]} - set(ledger.unsure)
    assert tagged == set(ledger.rows), f"tags, not notes: {tagged ^ set(ledger.rows)}"
    (writes,) = (row[1] for row in found["tally"])
    most = ledger.acknowledged + ledger.unanswered
    assert ledger.acknowledged <= writes <= most, (ledger.acknowledged, writes, most)
    (counter,) = (row[2] for row in found["usercounter"])
    assert counter >= max(ledger.rows, default=0)

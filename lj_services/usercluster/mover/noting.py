"""Dirty keys of an SQLite cluster: triggers note them, for as long as a move lasts.

Theory of operation.  SQLite has no log of changes that could be read, but its triggers run within
the transaction of the change.  So before the first row is read the mover gives the source a table
``move_dirty_N`` (N: the move's number) and triggers on every table of the users', which note there
the keys of this user's rows that are inserted, changed or deleted.  From then on a move goes as it
does with a `feed`, by the same steps and the same code; `Noted` takes the place of a subscription.

- *Nothing is missed.*  A change and its note are one transaction: whoever sees the one sees the
  other.  There is nothing to wait for, and no marker to look out for.
- *Replaced rows* show in no trigger when another row takes their place (``INSERT OR REPLACE``, and
  a unique index beside the primary key).  Such tables are given triggers that run before the change
  and note the rows that may be in its way.  An index of expressions can't be asked so: then the
  move goes by `passes`, and `why_not` says so.
- *Triggers that are gone* (somebody rebuilt a table, or dropped them) are found, since they are
  counted in the very read that takes the keys: `FeedLost`, and the move starts again.
- *Notes are kept* until the move's end, so that a worker who takes it over goes on from the last
  one that was worked off.  Both belong to one move by their names, and go with it (`forget`).

The price is one more row for each write of this user, and a comparison for each write of others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from lj_services.database import Databases, cluster_role
from lj_services.usercluster.mover import fences
from lj_services.usercluster.mover.binlog import Place
from lj_services.usercluster.mover.discovery import Schema, Table
from lj_services.usercluster.mover.errors import FeedLost
from lj_services.usercluster.mover.rows import Key
from lj_services.usercluster.mover.rows_sqlite import NOTES, name_of, pragma
from lj_services.usercluster.mover.states import Move

if TYPE_CHECKING:
    from lj_services.usercluster.mover.work import Work


def why_not(connection: Connection, schema: Schema) -> str | None:
    """What keeps triggers from noting all changes of a cluster; None: nothing does."""
    for table in schema.tables:
        generated = {column.name for column in table.columns if column.generated}
        for index in _unique(connection, table):
            if any(name is None or name in generated for name, _ in index):
                return f"table {table} has a unique index of computed values"
    return None


class Noted:
    """The keys that triggers have noted for one move, as `Subscription` has those of a feed.

    Args:
        databases: the site's.
        move: whose.
        triggers: how many there must be.
        place: the note up to which all is worked off.
    """

    def __init__(self, databases: Databases, move: Move, triggers: int, place: int = 0) -> None:
        self._databases = databases
        self._role = cluster_role(move.src)
        self._move = move
        self._triggers = triggers
        self._place = place
        self._back: dict[str, set[Key]] = defaultdict(set)

    @property
    def pending(self) -> int:
        """How many notes wait; a key may have several."""
        with self._databases.read(self._role, definitive=True) as connection:
            self._check(connection)
            last = connection.exec_driver_sql(
                f"SELECT MAX(seq) FROM {notes_of(self._move)}"  # noqa: S608
            ).scalar()
        return max(0, int(last or 0) - self._place) + sum(map(len, self._back.values()))

    def take(self) -> tuple[dict[str, set[Key]], Place]:
        """The dirty keys by table, and the place that is reached once they are worked off.

        Raises:
            FeedLost: triggers are gone.
        """
        with self._databases.read(self._role, definitive=True) as connection:
            self._check(connection)
            notes = connection.exec_driver_sql(
                f"SELECT * FROM {notes_of(self._move)} WHERE seq > ? ORDER BY seq",  # noqa: S608
                (self._place,),
            ).all()
        taken, self._back = self._back, defaultdict(set)
        for self._place, table, length, *parts in notes:
            taken[table].add(tuple(parts[:length]))
        return dict(taken), Place(0, notes_of(self._move), self._place)

    def give_back(self, dirty: dict[str, set[Key]]) -> None:
        """Put keys back that were taken and could not be worked off."""
        for name, keys in dirty.items():
            self._back[name] |= keys

    def wait(self, marker: int, timeout_s: float) -> bool:
        """True at once: what is committed is noted, the marker's transaction too."""
        return True

    def close(self) -> None:
        """Nothing: the triggers outlive a worker (`forget`)."""

    def _check(self, connection: Connection) -> None:
        if _count(connection, self._move) != self._triggers:
            raise FeedLost(
                f"{self._move}: triggers of {notes_of(self._move)} are gone from {self._role}"
            )


def begin(work: Work) -> tuple[Noted, Place]:
    """Put up table and triggers on the source; what an earlier attempt left there goes first.

    Raises:
        ClaimLost: another worker has the move.
    """
    move = work.move
    with work.databases.write(work.src) as connection:
        fences.guard(connection, move)
        _drop(connection, move)
        length = max((len(table.key) for table in work.found.tables), default=0)
        columns = ", ".join(["seq INTEGER PRIMARY KEY", "tbl", "length", *_columns(length)])
        # Without types, so that every value is kept as it is.
        connection.exec_driver_sql(f"CREATE TABLE {notes_of(move)} ({columns})")
        statements = [
            statement
            for table in work.found.tables
            for statement in _triggers(connection, move, table)
        ]
        for statement in statements:
            connection.exec_driver_sql(statement)
    return Noted(work.databases, move, len(statements)), Place(0, notes_of(move), 0)


def resume(work: Work, place: Place) -> Noted | None:
    """Go on from where an earlier worker was; None: there is nothing to go on from."""
    move = work.move
    with work.reading(work.src) as connection:
        wanted = sum(len(list(_triggers(connection, move, t))) for t in work.found.tables)
        if place.file != notes_of(move) or _count(connection, move) != wanted:
            return None
    return Noted(work.databases, move, wanted, place.pos)


def forget(work: Work) -> None:
    """Take table and triggers down, if they are there."""
    if work.databases.writer(work.src).is_sqlite:
        with work.databases.write(work.src) as connection:
            _drop(connection, work.move)


def notes_of(move: Move) -> str:
    """The name of a move's table of notes; its triggers' names begin with it."""
    return f"{NOTES}{move.move_id}"


def _columns(length: int) -> list[str]:
    return [f"k{number}" for number in range(length)]


def _names(connection: Connection, move: Move) -> list[str]:
    return [
        str(name)
        for (name,) in connection.exec_driver_sql(
            "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND name GLOB ?",
            (f"{notes_of(move)}_*",),
        )
    ]


def _count(connection: Connection, move: Move) -> int:
    return len(_names(connection, move))


def _drop(connection: Connection, move: Move) -> None:
    for name in _names(connection, move):
        connection.exec_driver_sql(f"DROP TRIGGER {name_of(name)}")
    connection.exec_driver_sql(f"DROP TABLE IF EXISTS {notes_of(move)}")


def _unique(connection: Connection, table: Table) -> list[list[tuple[str | None, str]]]:
    """Column and collation of each part, of the indexes that may make a row replace another's."""
    found = []
    for _, index, unique, origin, _ in pragma(connection, "index_list", table.name):
        parts = [
            (None if row[2] is None else str(row[2]), str(row[4]))
            for row in pragma(connection, "index_xinfo", index)
            if row[5]
        ]
        plain = origin == "pk" and all(collation == "BINARY" for _, collation in parts)
        if unique and not plain:
            found.append(parts)
    return found


def _triggers(connection: Connection, move: Move, table: Table) -> Iterator[str]:
    """The statements that make a table's triggers."""
    notes, userid, place = notes_of(move), move.userid, name_of(table.name)
    columns = ", ".join(["tbl", "length", *_columns(len(table.key))])
    literal = "'" + table.name.replace("'", "''") + "'"

    def note(of: str, rest: str) -> str:
        key = [f"{of}.{name_of(column.name)}" for column in table.key]
        values = ", ".join([literal, str(len(key)), *key])
        return f"INSERT INTO {notes} ({columns}) SELECT {values} {rest};"

    def trigger(when: str, what: str, body: str) -> str:
        name = name_of(f"{notes}_{table.name}_{when}_{what}")
        return f"CREATE TRIGGER {name} {when} {what} ON {place} {body} END"

    new, old = f"NEW.userid = {userid}", f"OLD.userid = {userid}"
    yield trigger("AFTER", "INSERT", f"WHEN {new} BEGIN {note('NEW', '')}")
    yield trigger("AFTER", "DELETE", f"WHEN {old} BEGIN {note('OLD', '')}")
    both = note("OLD", f"WHERE {old}") + note("NEW", f"WHERE {new}")
    yield trigger("AFTER", "UPDATE", f"WHEN {new} OR {old} BEGIN {both}")
    in_the_way = ""
    for index in _unique(connection, table):
        same: list[Any] = [
            f"{place}.{name_of(name or '')} = NEW.{name_of(name or '')} COLLATE {collation}"
            for name, collation in index
        ]
        where = " AND ".join([f"{place}.userid = {userid}", *same])
        in_the_way += note(place, f"FROM {place} WHERE {where}")
    if in_the_way:
        yield trigger("BEFORE", "INSERT", f"BEGIN {in_the_way}")
        yield trigger("BEFORE", "UPDATE", f"BEGIN {in_the_way}")

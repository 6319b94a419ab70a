"""Which tables a user has on a cluster, found by looking: none is listed by hand.

Rules.  Every table of a cluster's database is one of these, or the move is refused
before anything has changed (`Unclassified`):

- *the users'*: has a column ``userid``, first in its primary key.  It moves.
- *the cluster's own*: named by `stays`, next to where the table is defined: the fence, the
  mover's marker, the record of migrations.  It stays.

A table of the users' must be one that can be followed and compared: InnoDB (its locks make
the copy exact), no foreign keys (a server's cascades do not show in its binary log), no
triggers (they would run twice), a primary key of whole columns with an exact order, and
columns of types that the mover can read without loss.

Source and destination must have the same tables, columns, types, collations and indexes;
what differs is named (`SchemaDiffers`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lj_services.usercluster.mover.errors import SchemaDiffers, Unclassified

_STAYS: dict[str, str] = {
    "schema_version": "which migrations this database has had",
    "user_home": "the fence of this cluster",
    "move_marker": "the mover's claim on this cluster",
    "gofer_call": "the gofer's calls that were done on this cluster",
}


def stays(table: str, why: str) -> None:
    """Tell that a table belongs to the cluster, not to its users; next to its definition.

    Args:
        table: its name.
        why: what it holds, for people.
    """
    _STAYS[table] = why


def staying() -> dict[str, str]:
    """The tables that never move, and why."""
    return dict(_STAYS)


@dataclass(frozen=True, slots=True)
class Column:
    """A column, as far as moving it goes."""

    name: str
    kind: str
    """The type's bare name, in lower case: ``int``, ``varchar``; SQLite: as declared."""
    type: str
    """The type in full, as the server tells it."""
    unsigned: bool = False
    charset: str | None = None
    length: int | None = None
    """Bytes of a fixed-length binary."""
    nullable: bool = True
    """Whether it may be NULL, or nobody has asked."""
    generated: bool = False
    """The server computes it: it is compared, but not written."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the users'."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[Column, ...]
    """The primary key without ``userid``."""
    row_bytes: int = 100
    """What a row takes, roughly; for estimates."""

    def __str__(self) -> str:
        return self.name

    @property
    def written(self) -> tuple[Column, ...]:
        """The columns that a copy writes."""
        return tuple(column for column in self.columns if not column.generated)


@dataclass(frozen=True, slots=True)
class Schema:
    """What a cluster's database has."""

    engine: str
    """``sqlite``, ``mariadb`` or ``mysql``."""
    tables: tuple[Table, ...]
    """The users' tables, in order of name."""
    signature: tuple[str, ...]
    """A line for each thing that must be the same on both sides."""

    def table(self, name: str) -> Table | None:
        """A table of the users' by name."""
        return next((table for table in self.tables if table.name == name), None)


def classify(
    place: str, tables: Iterable[tuple[str, list[str], list[str], list[str]]]
) -> list[str]:
    """Which tables move.

    Args:
        place: the cluster, for messages.
        tables: name, columns, columns of the primary key, and what stands against moving it.

    Returns:
        the names of those that move.

    Raises:
        Unclassified: a table is neither the users' nor known to stay; all of them are named.
    """
    moving, wrong = [], []
    for name, columns, key, against in tables:
        if name in _STAYS:
            continue
        if "userid" not in columns:
            wrong.append(
                f"table {name} has no column userid: give it one, first in its primary key, or "
                "declare with mover.stays() that it belongs to the cluster"
            )
        elif not key or key[0] != "userid":
            wrong.append(f"table {name}: userid must come first in its primary key")
        elif against:
            wrong.extend(f"table {name}: {reason}" for reason in against)
        else:
            moving.append(name)
    if wrong:
        raise Unclassified(f"{place} has tables that can't be moved: " + "; ".join(wrong))
    return moving


def compare(source: tuple[str, Schema], destination: tuple[str, Schema]) -> None:
    """Refuse two sides that are not alike.

    Args:
        source: its name for messages, and what it has.
        destination: likewise.

    Raises:
        SchemaDiffers: names what only one of them has.
    """
    here, there = source[1], destination[1]
    if here.engine != there.engine:
        raise SchemaDiffers(
            f"{source[0]} is {here.engine}, {destination[0]} is {there.engine}: "
            "users move between clusters of one engine"
        )
    only_here = sorted(set(here.signature) - set(there.signature))
    only_there = sorted(set(there.signature) - set(here.signature))
    if only_here or only_there:
        lines = [f"only {source[0]}: {line}" for line in only_here]
        lines += [f"only {destination[0]}: {line}" for line in only_there]
        shown = "; ".join(lines[:8]) + (f"; and {len(lines) - 8} more" if len(lines) > 8 else "")
        raise SchemaDiffers(f"the schemas differ ({shown}): run lj db migrate on both")

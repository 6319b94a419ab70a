"""``schema_ver``: the version that a user's rows are in, and the steps from one to the next.

Tables change for a whole database at once (`lj_services.database.migrations`); what is *in*
them changes user by user, in steps that an application declares next to its tables.  Version
1 is where every user of the beginning is.  A step brings one user from the version before to
its own, in one transaction, while everybody else reads and writes.

The rules for an application:

- A write asks `of` for the version that the rows are in and keeps the form of that version.
- A read asks `read` on the connection with which it reads the rows, so that both are of one
  moment.  The version in a route may be older than the rows: it is for lists, not for deciding.
- A step depends on nothing but the user's rows, and does no harm when its version is there
  already: a program of an older release may have written in between.
- Code for a version stays until nobody is in it.

Source: LiveJournal's ``user.dversion``, and code that branched by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, select

from lj_services.usercluster.errors import UnknownVersion
from lj_services.usercluster.tables import user_home

FIRST = 1
"""The version without any step."""
VERSION_OPTION = "lj_schema_ver"
"""Execution option of a write connection: the version of the user whose fence it holds."""


@dataclass(frozen=True, slots=True)
class Step:
    """What brings a user to a version from the one before."""

    version: int
    what: str
    """For people: what is different afterwards."""
    run: Callable[[Connection, int], None]
    """Given a write connection to the user's cluster, and the userid."""


_declared: dict[int, Step] = {}


def declare(version: int, what: str, run: Callable[[Connection, int], None]) -> None:
    """Tell how a user gets to `version`; next to the tables' definitions, in order.

    Args:
        version: the next one after the newest.
        what: for people: what is different afterwards.
        run: called with a connection inside a write transaction on the user's cluster, where
            nobody else can write for this user, and the userid.

    Raises:
        ValueError: there is a gap, or another step to that version.
    """
    known = _declared.get(version)
    if known is not None and known.run is run:
        return
    if version != newest() + 1:
        raise ValueError(f"the next step is to version {newest() + 1}, not {version}")
    _declared[version] = Step(version, what, run)


def newest() -> int:
    """The newest version that this program knows."""
    return max(_declared, default=FIRST)


def step(version: int) -> Step:
    """The step that leads to a version.

    Raises:
        UnknownVersion: none does.
    """
    try:
        return _declared[version]
    except KeyError:
        raise UnknownVersion(
            f"there is no step to schema_ver {version}; this program knows {FIRST}..{newest()}"
        ) from None


def check(version: int) -> None:
    """Refuse a version that this program does not know.

    Raises:
        UnknownVersion: as its name says.
    """
    if version != FIRST:
        step(version)


def too_new(version: int) -> bool:
    """Whether this program must not write rows of a version.

    A program that declares no steps at all has no application in it whose rows could be
    written in a wrong form.
    """
    return bool(_declared) and version > newest()


def of(connection: Connection) -> int:
    """The version of the rows that a connection of `Users.writing` writes.

    Raises:
        ValueError: it is another kind of connection.
    """
    version = connection.get_execution_options().get(VERSION_OPTION)
    if not isinstance(version, int):
        raise ValueError("the version is known to connections of Users.writing; see read()")
    return version


def read(connection: Connection, userids: Iterable[int]) -> dict[int, int]:
    """The versions of users' rows on the cluster that a connection reads.

    Args:
        connection: the one with which the rows are read too.
        userids: up to some hundreds.

    Returns:
        userid -> version, of those whom the cluster knows.
    """
    rows = connection.execute(
        select(user_home.c.userid, user_home.c.schema_ver).where(
            user_home.c.userid.in_(list(userids))
        )
    )
    return {int(userid): int(version) for userid, version in rows}

"""Making a user in two databases, so that a crash at any point leaves nothing half usable.

Steps, each one transaction::

    reserve   global   a row with the name and state ``creating``: nobody sees it yet
    plant     cluster  the fence row: active, with the epoch that was reserved
    enliven   global   state ``live``: from here on the user exists

A crash before the last commit leaves a reserved name without a user.  Whoever
creates that name again finds the row and carries on from it; nothing else knows of
it.  Two who create one name at once work on the same row, and the one whose
`enliven` changes the state has made the user; the other is told `NameTaken`.

When the chosen cluster can't be reached, the row is given another cluster and a
higher epoch.  Should the first cluster have planted a fence row after all, its
epoch is one that no route will ever have.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from lj_services.database import Databases, cluster_role
from lj_services.usercluster import versions
from lj_services.usercluster.errors import BadName, HomeMissing, NameTaken
from lj_services.usercluster.fence import read_home
from lj_services.usercluster.numberspaces import HINTS_OPTION, allocate_userid
from lj_services.usercluster.routes import COLUMNS, Cache, User, user_from_row
from lj_services.usercluster.tables import ACTIVE, CREATING, LIVE, user, user_home

_NAME = re.compile(r"[a-z0-9_]{1,25}")


@dataclass(frozen=True, slots=True)
class Claim:
    """A reserved name: who it will be, and where."""

    userid: int
    clusterid: int
    epoch: int


def check_name(name: str) -> None:
    """Refuse what is no user's name.

    Raises:
        BadName: it is not 1 to 25 of a-z, 0-9 and ``_``.
    """
    if not _NAME.fullmatch(name):
        shown = name if len(name) <= 40 else name[:40] + "..."
        raise BadName(f"{shown!r} can't be a name: 1 to 25 of the letters a-z, digits and _")


def reserve(
    databases: Databases, name: str, cluster: Callable[[int | None], int], hints: Cache | None
) -> Claim:
    """Reserve a name, or take up a reservation that was left behind.

    Args:
        databases: has ``global``.
        name: a checked name.
        cluster: given the cluster of an earlier reservation (None: there is none), says
            which one it is to be.
        hints: see `numberspaces`.

    Raises:
        NameTaken: a user has it.
    """
    while True:
        try:
            with databases.write("global") as connection:
                row = connection.execute(
                    select(user.c.userid, user.c.state, user.c.clusterid, user.c.epoch)
                    .where(user.c.name == name)
                    .with_for_update()
                ).first()
                if row is None:
                    connection.execution_options(**{HINTS_OPTION: hints})
                    claim = Claim(allocate_userid(connection), cluster(None), 1)
                    connection.execute(
                        insert(user).values(
                            userid=claim.userid,
                            name=name,
                            state=CREATING,
                            clusterid=claim.clusterid,
                            epoch=claim.epoch,
                            readonly=False,
                            schema_ver=versions.FIRST,
                            rev=1,
                            created_at=datetime.now(UTC).replace(tzinfo=None, microsecond=0),
                        )
                    )
                    return claim
                if row.state != CREATING:
                    raise NameTaken(f"the name {name!r} is taken")
                where = cluster(int(row.clusterid))
                if where == row.clusterid:
                    return Claim(int(row.userid), where, int(row.epoch))
                claim = Claim(int(row.userid), where, int(row.epoch) + 1)
                connection.execute(
                    update(user)
                    .where(user.c.userid == claim.userid)
                    .values(clusterid=where, epoch=claim.epoch)
                )
                return claim
        except IntegrityError:
            continue  # another one reserved the name in between: now there is a row


def plant(databases: Databases, claim: Claim, schema_ver: int) -> int:
    """Put up the fence row on the claimed cluster, if it is not there yet.

    Args:
        databases: has the cluster.
        claim: reserved.
        schema_ver: the version that the user starts with.

    Returns:
        the version that they have: that of an earlier attempt, if it planted the row.

    Raises:
        HomeMissing: the cluster knows the userid with a later home: `global` forgot users.
    """
    values = {
        "state": ACTIVE,
        "epoch": claim.epoch,
        "readonly": False,
        "move_id": None,
        "schema_ver": schema_ver,
    }
    while True:
        try:
            with databases.write(cluster_role(claim.clusterid)) as connection:
                home = read_home(connection, claim.userid, exclusive=True)
                if home is None:
                    connection.execute(insert(user_home).values(userid=claim.userid, **values))
                elif home.epoch < claim.epoch:
                    connection.execute(
                        update(user_home).where(user_home.c.userid == claim.userid).values(**values)
                    )
                elif home.epoch == claim.epoch:
                    return home.schema_ver
                else:
                    raise HomeMissing(
                        f"cluster {claim.clusterid} knows userid {claim.userid} with epoch "
                        f"{home.epoch}:"
                        " was global restored from an old copy? No user was created"
                    )
            return schema_ver
        except IntegrityError:
            continue  # another one planted the same claim in between


def enliven(
    databases: Databases,
    claim: Claim,
    schema_ver: int,
    within: Callable[[Connection, User], None] | None,
) -> User | None:
    """Let the user exist.

    Args:
        databases: has ``global``.
        claim: planted.
        schema_ver: as `plant` said.
        within: more to write in the same transaction.

    Returns:
        the user, or None if the reservation is not this claim's any more.
    """
    with databases.write("global") as connection:
        changed = connection.execute(
            update(user)
            .where(
                user.c.userid == claim.userid,
                user.c.state == CREATING,
                user.c.clusterid == claim.clusterid,
                user.c.epoch == claim.epoch,
            )
            .values(state=LIVE, schema_ver=schema_ver, rev=user.c.rev + 1)
        ).rowcount
        if not changed:
            return None
        row = connection.execute(select(*COLUMNS).where(user.c.userid == claim.userid)).one()
        made = user_from_row(row)
        if within is not None:
            within(connection, made)
    return made

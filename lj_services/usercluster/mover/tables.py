"""The mover's tables, as SQLAlchemy sees them; the migrations make them."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

metadata = MetaData()

QUEUED: Final = "queued"
PREPARING: Final = "preparing"
COPYING: Final = "copying"
CATCHING_UP: Final = "catching_up"
VERIFYING: Final = "verifying"
FROZEN: Final = "frozen"
SWITCHED: Final = "switched"
PURGING: Final = "purging"
DONE: Final = "done"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
ROLLED_BACK: Final = "rolled_back"

BEFORE_COMMIT: Final = (QUEUED, PREPARING, COPYING, CATCHING_UP, VERIFYING, FROZEN)
"""States in which the source is the user's home."""
AFTER_COMMIT: Final = (SWITCHED, PURGING)
"""States in which the destination is, and the source's rows are still there."""
ACTIVE: Final = (*BEFORE_COMMIT, *AFTER_COMMIT)
"""States that do not last."""
FINAL: Final = (DONE, FAILED, CANCELLED, ROLLED_BACK)
"""States that nothing leaves."""

user_move = Table(
    "user_move",
    metadata,
    Column("move_id", Integer, primary_key=True),
    Column("userid", Integer, nullable=False),
    Column("active_userid", Integer),
    Column("src", Integer, nullable=False),
    Column("dst", Integer, nullable=False),
    Column("home_epoch", Integer, nullable=False),
    Column("state", String(12), nullable=False),
    Column("ending", String(12)),
    Column("error", String(1000)),
    Column("owner", String(100)),
    Column("claim", Integer, nullable=False),
    Column("lease_until", BigInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("back_of", Integer),
    Column("options", String(2000), nullable=False),
    Column("progress", String(4000), nullable=False),
    Column("freeze_us", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("switched_at", BigInteger),
    Column("finished_at", BigInteger),
)
"""The moves (`global`).

``active_userid`` is the userid until the commit point or the end, and unique: one move at
a time.  ``home_epoch`` is the user's epoch on the source.  ``ending`` says that the move is to
be undone, and which final state it then gets.  ``claim`` counts the leases; a worker's is
valid while it is the newest.  ``due_at``: nobody need look at it before.
"""

user_move_event = Table(
    "user_move_event",
    metadata,
    Column("event_id", Integer, primary_key=True),
    Column("move_id", Integer, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("state", String(12), nullable=False),
    Column("message", String(1000), nullable=False),
)
"""What happened in each move, in order (`global`)."""

mover_worker = Table(
    "mover_worker",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("seen_at", BigInteger, nullable=False),
)
"""The workers, and when each was last heard of (`global`)."""

move_marker = Table(
    "move_marker",
    metadata,
    Column("userid", Integer, primary_key=True, autoincrement=False),
    Column("move_id", BigInteger, nullable=False),
    Column("claim", Integer, nullable=False),
    Column("n", Integer, nullable=False),
)
"""The newest claim that may change a user's fence on this cluster (see `fences`)."""


class now_ms(FunctionElement[int]):  # noqa: N801  an SQL function
    """The database's own clock: milliseconds since 1970, UTC."""

    type = BigInteger()
    inherit_cache = True


@compiles(now_ms, "sqlite")
def _sqlite_now(_element: now_ms, _compiler: Any, **_options: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"


@compiles(now_ms)
def _server_now(_element: now_ms, _compiler: Any, **_options: Any) -> str:
    return "CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)"

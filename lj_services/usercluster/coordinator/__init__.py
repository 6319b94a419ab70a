"""The coordinator: a job server that tells workers which user to move next, and how fast.

Where things are, along the way of one move::

    server.py      connections and lines; `lj mover coordinator` is this daemon
    protocol.py    bytes <-> requests, replies, events (the protocol is described there)
    console.py     the commands, which are in worker_commands.py, move_commands.py,
                   order_commands.py and console_commands.py
    core.py        schedule and tables kept in step: a pick becomes a claim, then a reply
    picture.py     what is known of the moves: which wait, rest, run, and where
    scheduling.py  which move goes next and why one waits: the rules, without sockets or SQL
    jobs.py        a move as the schedule sees it; what a scope is
    limits.py      what moves may do to a cluster, and how loaded it is
    conditions.py  what hosts say of their disks, how far replicas are behind
    desk.py        the SQL: what is read, how a claim is made, how a held user is freed
    lock.py        one coordinator at a time, by a lock in the database and by terms
    orders.py      pauses, limits and priorities, kept in `global`
    listing.py     moves as lines for people

and at the other end: ``client.py`` (a blocking client), ``worker.py`` (`lj mover worker`),
``host.py`` (`lj mover host`).

Nothing durable is here: moves, claims and leases are the mover's tables, orders are in tables of
their own.  So the coordinator may be killed at any moment; and a worker that lost it goes on with
what it has.
"""

from lj_services.database import Component
from lj_services.usercluster.coordinator.errors import (
    AnotherRules,
    Away,
    CoordinatorError,
    OrderRefused,
)

COMPONENT = Component("coordinator", "lj_services.usercluster.coordinator")
"""The tables of this package, for ``lj db migrate``."""

__all__ = ["COMPONENT", "AnotherRules", "Away", "CoordinatorError", "OrderRefused"]

"""Databases by role: ``global``, ``cluster1`` ... ``clusterN``, and more by name.

Where things are, along the way of one read::

    config.py      the site file's [database] table: roles, URLs, pools, readers
    roles.py       Databases.read("cluster1"): a reader that is up, else the writer
    readers.py     which readers are up: weights, back-off, lag, a thread that looks
    engines.py     a URL becomes two pools (write, read) with the kit's manners
    slots.py       whose turn it is when a pool is full
    driver.py      the driver without its ping before every statement
    position.py    read-your-writes: has this reader replayed what I wrote?
    errors.py      what can go wrong, and what to do about it
    metrics.py     pools, readers and reads for Prometheus

and of a schema::

    migrations.py  numbered migrations per component and role, applied once

A program asks for a role and says what it is about to do::

    with databases.write("cluster1") as connection:     # one transaction on the writer
        connection.execute(insert(posts).values(...))
    seen = databases.position("cluster1")
    with databases.read("cluster1", after=seen) as connection:
        connection.execute(select(posts)...)

Embedded sites put every role into an SQLite file of its own, production gives
each a pair of MariaDB or MySQL servers; the program can't tell.
"""

from lj_services.database.config import DatabaseSettings, ReaderSettings, RoleSettings
from lj_services.database.errors import (
    CommitUnknown,
    DatabaseBusy,
    DatabaseError,
    DatabaseUnreachable,
    DiskFull,
    MigrationError,
    PoolExhausted,
    ReadOnlyConnection,
    SchemaMismatch,
    SchemaTooNew,
    SchemaTooOld,
    UnknownRole,
    WriterReadOnly,
)
from lj_services.database.migrations import (
    Component,
    Migration,
    SchemaState,
    check_schema,
    migrate,
    status,
)
from lj_services.database.position import Position
from lj_services.database.roles import Databases, ReaderState, cluster_role

__all__ = [
    "CommitUnknown",
    "Component",
    "DatabaseBusy",
    "DatabaseError",
    "DatabaseSettings",
    "DatabaseUnreachable",
    "Databases",
    "DiskFull",
    "Migration",
    "MigrationError",
    "PoolExhausted",
    "Position",
    "ReadOnlyConnection",
    "ReaderSettings",
    "ReaderState",
    "RoleSettings",
    "SchemaMismatch",
    "SchemaState",
    "SchemaTooNew",
    "SchemaTooOld",
    "UnknownRole",
    "WriterReadOnly",
    "check_schema",
    "cluster_role",
    "migrate",
    "status",
]

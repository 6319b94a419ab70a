"""Numbered migrations per component, applied once to each database of a role.

Rules.  A component (``usercluster``, ``journal``) ships a folder of migrations in
its package for each kind of role: ``migrations/globaldb/`` for ``global``,
``migrations/cluster/`` for every cluster, ``migrations/theschwartz/`` for
``theschwartz1`` ... and so on.  Files are ``NNNN_what_it_does.sql`` or ``.py``, numbered
from 0001 without gaps, and never changed once they were released.

- ``.sql``: statements that end with ``;`` at the end of a line.  Both engines run the
  same text; what only a server understands stands in its executable comments:
  ``CREATE TABLE IF NOT EXISTS t (...) /*! ENGINE=InnoDB */;``
- ``.py``: a function ``upgrade(connection)``.

What is applied is recorded in the table ``schema_version`` of the same database.
On SQLite a migration and its record are one transaction.  On a server every DDL
statement commits by itself, so the record is written *after* the migration, and a
crash between runs the migration again: migrations are therefore written so that a
second run does no harm (``IF NOT EXISTS``, ``INSERT ... WHERE NOT EXISTS``).

Two runs at once: a server's ``GET_LOCK`` per database lets one wait for the other;
on SQLite the write lock does; whoever comes second finds the record and does nothing.

A database with a migration that this code does not have belongs to newer code:
`SchemaTooNew`, and nothing is touched.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

from sqlalchemy import (
    Column,
    Connection,
    DateTime,
    Integer,
    MetaData,
    String,
    Table,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError

from lj_services.database.engines import Server
from lj_services.database.errors import MigrationError, SchemaTooNew, SchemaTooOld
from lj_services.database.roles import Databases

LOCK_WAIT_S = 60
_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.(sql|py)")
_STATEMENT_END = re.compile(r";[ \t]*(?:\n|\Z)")

schema_version = Table(
    "schema_version",
    MetaData(),
    Column("component", String(32), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("name", String(100), nullable=False),
    Column("applied_at", DateTime, nullable=False),
    mysql_engine="InnoDB",
    mysql_charset="utf8mb4",
    mysql_collate="utf8mb4_bin",
    mariadb_engine="InnoDB",
    mariadb_charset="utf8mb4",
    mariadb_collate="utf8mb4_bin",
)
"""Which migrations a database has had, and when (UTC)."""


@dataclass(frozen=True)
class Component:
    """A part of the kit that keeps tables: its name, and the package with its migrations."""

    name: str
    package: str

    def migrations(self, role: str) -> list[Migration]:
        """The migrations of this component for databases of `role`, in order.

        Raises:
            MigrationError: a file's name or number is wrong.
        """
        folder = Path(str(resources.files(self.package))) / "migrations" / _kind(role)
        if not folder.is_dir():
            return []
        found = []
        for file in sorted(folder.iterdir()):
            if file.name.startswith("__") or file.suffix not in {".sql", ".py"}:
                continue
            match = _FILE_NAME.fullmatch(file.name)
            if match is None:
                raise MigrationError(f"{file}: name it NNNN_what_it_does.sql or .py")
            found.append(Migration(self.name, int(match[1]), match[2], file))
        if [m.version for m in found] != list(range(1, len(found) + 1)):
            raise MigrationError(f"{folder}: numbers must run from 0001 without gaps or doubles")
        return found


@dataclass(frozen=True)
class Migration:
    """One step of a component's schema."""

    component: str
    version: int
    name: str
    file: Path

    def __str__(self) -> str:
        return f"{self.component} {self.version:04d} {self.name}"

    def apply(self, connection: Connection) -> None:
        """Run it, without recording it."""
        if self.file.suffix == ".sql":
            for statement in _statements(self.file.read_text(encoding="utf-8")):
                connection.exec_driver_sql(statement)
            return
        spec = importlib.util.spec_from_file_location(
            f"{self.component}_migration_{self.version:04d}", self.file
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.upgrade(connection)


@dataclass(frozen=True)
class SchemaState:
    """How a component's schema stands in one role's database."""

    role: str
    component: str
    installed: int
    """The newest migration that is there; 0 for none."""
    available: int
    """The newest migration that this code has."""

    @property
    def verdict(self) -> str:
        """``current``, ``pending`` (run lj db migrate) or ``too new`` (this code is older)."""
        if self.installed > self.available:
            return "too new"
        return "pending" if self.installed < self.available else "current"


def migrate(
    databases: Databases, role: str, components: Sequence[Component], *, dry_run: bool = False
) -> list[Migration]:
    """Bring one role's database to the newest schema of all components.

    Args:
        databases: the site's databases.
        role: which one.
        components: whose migrations; order matters where one builds on another's tables.
        dry_run: change nothing, only tell.

    Returns:
        the migrations that were applied, or with `dry_run` would be, in order.

    Raises:
        SchemaTooNew: a component's schema is newer than its code; nothing was applied.
        MigrationError: a migration failed, or another run held the lock for a minute;
            those before it stay applied and recorded.
        DatabaseError: the database can't be reached.
    """
    server = databases.writer(role)
    pending = _pending(server, role, components)
    if dry_run or not pending:
        return pending
    applied = []
    with server.connect("schema") as connection, _lock(connection, server):
        with connection.begin():
            schema_version.create(connection, checkfirst=True)
        for migration in pending:
            with connection.begin():
                # Asked again inside the transaction: another run may have been faster.
                if migration.version in _installed(connection).get(migration.component, ()):
                    continue
                try:
                    migration.apply(connection)
                except DBAPIError as error:
                    raise MigrationError(
                        f"{server}: migration {migration} failed: {error.orig}"
                    ) from error
                connection.execute(
                    insert(schema_version).values(
                        component=migration.component,
                        version=migration.version,
                        name=migration.name,
                        applied_at=datetime.now(UTC).replace(tzinfo=None, microsecond=0),
                    )
                )
            applied.append(migration)
    return applied


def status(databases: Databases, role: str, components: Iterable[Component]) -> list[SchemaState]:
    """How each component's schema stands in one role's database; changes nothing.

    Raises:
        DatabaseError: the database can't be reached.
    """
    installed = _read_installed(databases.writer(role))
    return [
        SchemaState(role, component.name, max(installed.get(component.name, ()), default=0), newest)
        for component in components
        if (newest := len(component.migrations(role))) or component.name in installed
    ]


def check_schema(databases: Databases, components: Sequence[Component]) -> None:
    """Refuse to work on a schema that this code was not written for: call it at start.

    Raises:
        SchemaTooNew: newer code has migrated a database.
        SchemaTooOld: migrations are pending.
        DatabaseError: a database can't be reached.
    """
    for role in databases.roles():
        for state in status(databases, role, components):
            if state.verdict == "too new":
                raise _too_new(state)
            if state.verdict == "pending":
                raise SchemaTooOld(
                    f"{role}: the schema of {state.component} is at {state.installed}, this code "
                    f"needs {state.available}: run `lj db migrate`"
                )


def _too_new(state: SchemaState) -> SchemaTooNew:
    return SchemaTooNew(
        f"{state.role}: the schema of {state.component} is at {state.installed}, this code knows "
        f"only {state.available}: install the newer kit that migrated it"
    )


def _pending(server: Server, role: str, components: Sequence[Component]) -> list[Migration]:
    installed = _read_installed(server)
    pending = []
    for component in components:
        migrations = component.migrations(role)
        have = installed.get(component.name, set())
        if have and max(have) > len(migrations):
            raise _too_new(SchemaState(role, component.name, max(have), len(migrations)))
        pending += [m for m in migrations if m.version not in have]
    return pending


def _read_installed(server: Server) -> dict[str, set[int]]:
    if server.is_sqlite and not Path(str(server.url.database)).exists():
        return {}
    with server.connect("read") as connection:
        if not inspect(connection).has_table(schema_version.name):
            return {}
        return _installed(connection)


def _installed(connection: Connection) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    rows = connection.execute(select(schema_version.c.component, schema_version.c.version))
    for component, version in rows:
        found.setdefault(component, set()).add(version)
    return found


@contextmanager
def _lock(connection: Connection, server: Server) -> Iterator[None]:
    """One run at a time per database of a server; SQLite's own lock is enough for it."""
    if server.is_sqlite:
        yield
        return
    name = "CONCAT('lj-migrate-', MD5(DATABASE()))"
    with connection.begin():
        got = connection.scalar(text(f"SELECT GET_LOCK({name}, {LOCK_WAIT_S})"))
    if got != 1:
        raise MigrationError(f"{server}: another migration runs there for over {LOCK_WAIT_S} s")
    try:
        yield
    finally:
        with connection.begin():
            connection.execute(text(f"DO RELEASE_LOCK({name})"))


def _statements(script: str) -> Iterator[str]:
    lines = (line for line in script.splitlines() if not line.lstrip().startswith("--"))
    for statement in _STATEMENT_END.split("\n".join(lines)):
        if statement.strip():
            yield statement.strip()


def _kind(role: str) -> str:
    """The folder of a role's migrations; ``global`` is a word of Python's, so it has its own."""
    kind = role.rstrip("0123456789")
    return "globaldb" if kind == "global" else kind

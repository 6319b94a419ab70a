"""Roles become connections: one writer, weighted readers, the split named in the call.

``write(role)`` is a transaction on the role's writer.  ``read(role)`` goes to a
reader that is alive and not behind, else to the writer, else to a reader that has lost
the writer as well; with ``after=`` only to one that has replayed the caller's own
writes.  Nothing is guessed from SQL: a statement that writes inside ``read`` is refused
by the server.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from lj_services.database.config import DatabaseSettings, RoleSettings, read_password
from lj_services.database.engines import Server
from lj_services.database.errors import DatabaseUnreachable, UnknownRole
from lj_services.database.metrics import READS
from lj_services.database.position import Position, current_gtid, wait_for_gtid
from lj_services.database.readers import HealthThread, Reader, Readers

_CLUSTER = re.compile(r"cluster([1-9][0-9]*)")


def cluster_role(clusterid: int) -> str:
    """The role's name of user cluster `clusterid`."""
    return f"cluster{clusterid}"


@dataclass(frozen=True)
class ReaderState:
    """What `Databases.readers` tells of one reader."""

    role: str
    server: str
    weight: int
    up: bool
    why_not: str


class _Role:
    def __init__(self, name: str, settings: RoleSettings) -> None:
        self.name = name
        self.settings = settings
        self.writer = Server(
            name, settings.writer, _password(name, settings.password_file), settings
        )
        self.readers = Readers(
            [
                Reader(
                    Server(
                        name,
                        reader.url,
                        _password(name, reader.password_file or settings.password_file),
                        settings,
                    ),
                    reader.weight,
                    settings.max_lag_s,
                )
                for reader in settings.readers
            ],
            settings.health_interval_s,
        )
        self._try_writer_at: float | None = None

    def writer_is_away(self) -> bool:
        """Whether it failed just now, and somebody else tries it again."""
        if self._try_writer_at is None:
            return False
        if time.monotonic() < self._try_writer_at:
            return True
        self.writer_failed()  # the caller tries; others need not wait as well
        return False

    @contextmanager
    def trying_the_writer(self) -> Iterator[None]:
        """Connecting to it, which either fails or not."""
        try:
            yield
        except DatabaseUnreachable:
            self.writer_failed()
            raise
        self._try_writer_at = None

    def writer_failed(self) -> None:
        """For as long as trying it takes, reads look elsewhere first."""
        self._try_writer_at = time.monotonic() + self.settings.connect_timeout_s


def _password(role: str, file: Path | None) -> str | None:
    try:
        return read_password(file)
    except OSError as error:
        raise DatabaseUnreachable(
            f"{role}: password_file {file} can't be read: {error.strerror}"
        ) from None


class Databases:
    """The site's databases by role; thread-safe, connects when it must.

    Args:
        settings: the ``[database]`` table of the site file.

    Raises:
        DatabaseUnreachable: a password file can't be read.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        self._roles = {name: _Role(name, role) for name, role in settings.roles.items()}
        self._health: HealthThread | None = None
        self._starting = threading.Lock()

    def close(self) -> None:
        """Stop looking at readers and close all connections."""
        if self._health is not None:
            self._health.stop()
        for role in self._roles.values():
            role.writer.close()
            for reader in role.readers.all:
                reader.server.close()

    def roles(self) -> list[str]:
        """The names of all roles, as configured."""
        return list(self._roles)

    def clusters(self) -> list[int]:
        """The numbers of the user clusters, ascending."""
        return sorted(int(m[1]) for name in self._roles if (m := _CLUSTER.fullmatch(name)))

    def writer(self, role: str) -> Server:
        """The writer of `role`, for work that needs more than a transaction.

        Raises:
            UnknownRole: there is none of that name.
        """
        return self._role(role).writer

    def replicas(self, role: str) -> list[Server]:
        """The servers of a role's readers that are expected to replicate, up or not.

        Raises:
            UnknownRole: there is none of that name.
        """
        found = self._role(role)
        if not found.settings.max_lag_s:
            return []
        return [reader.server for reader in found.readers.all]

    def readers(self) -> list[ReaderState]:
        """What is known of every reader now."""
        return [
            ReaderState(name, reader.server.label, reader.weight, reader.up, reader.why_not)
            for name, role in self._roles.items()
            for reader in role.readers.all
        ]

    @contextmanager
    def write(self, role: str) -> Iterator[Connection]:
        """One transaction on the role's writer: commit at the end, rollback on an error.

        Raises:
            DatabaseBusy: lock not had in time, or deadlock; the whole block may run again.
            WriterReadOnly, DatabaseUnreachable, CommitUnknown, PoolExhausted, UnknownRole:
                as their names say; see `errors`.
        """
        with self._role(role).writer.transaction() as connection:
            yield connection

    @contextmanager
    def read(
        self, role: str, *, after: Position | None = None, definitive: bool = False
    ) -> Iterator[Connection]:
        """A connection that reads one moment of the role's data, and can't write.

        Args:
            role: its name.
            after: what must be visible: a position that `position` gave after a write.
            definitive: ask the writer, for what must be the newest truth.

        Raises:
            DatabaseUnreachable: neither a reader nor the writer can be reached, or the
                connection broke inside the block.
            PoolExhausted, UnknownRole: as their names say.
        """
        found = self._role(role)
        with ExitStack() as stack:
            connection, server, reader = self._place(found, after, definitive, stack)
            READS.labels(role, server.label).inc()
            try:
                yield connection
            except DBAPIError as error:
                told = server.explain(error)
                if isinstance(told, DatabaseUnreachable):
                    found.writer_failed() if reader is None else reader.failed(str(told))
                if told is None:
                    raise
                raise told from error

    def position(self, role: str) -> Position:
        """How far the role's writer has come: take it after a write, give it to `read`."""
        with self._role(role).writer.connect("read") as connection:
            return Position(role, current_gtid(connection))

    def _role(self, name: str) -> _Role:
        try:
            return self._roles[name]
        except KeyError:
            known = ", ".join(self._roles) or "none"
            raise UnknownRole(
                f"no database role {name!r} in the site file; there are: {known}"
            ) from None

    def _place(
        self, role: _Role, after: Position | None, definitive: bool, stack: ExitStack
    ) -> tuple[Connection, Server, Reader | None]:
        """Choose where a read goes, and connect."""
        if after is not None and after.role != role.name:
            raise ValueError(f"{after} is a position of another role than {role.name}")
        replicas = role.readers.all and not definitive and (after is None or after.gtid)
        if replicas:
            self._watch()
            # A writer that was away a moment ago would cost this read its timeout, too.
            for cut_off in (False, True) if role.writer_is_away() else (False,):
                if found := self._place_on(role, role.readers.draw(cut_off=cut_off), after, stack):
                    return found
        try:
            with role.trying_the_writer():
                connection = stack.enter_context(role.writer.connect("read"))
        except DatabaseUnreachable:
            if replicas and (
                found := self._place_on(role, role.readers.draw(cut_off=True), after, stack)
            ):
                return found
            raise
        return connection, role.writer, None

    def _place_on(
        self, role: _Role, readers: Iterator[Reader], after: Position | None, stack: ExitStack
    ) -> tuple[Connection, Server, Reader] | None:
        """Connect to the first of `readers` that answers; None if none has what is asked for."""
        for reader in readers:
            with ExitStack() as attempt:
                try:
                    connection = attempt.enter_context(reader.server.connect("read"))
                    caught_up = after is None or wait_for_gtid(
                        connection, after.gtid, role.settings.position_wait_s
                    )
                except DatabaseUnreachable as error:
                    reader.failed(str(error))
                    continue
                except DBAPIError as error:
                    reader.failed(f"it can't wait for a position: {error.orig}")
                    continue
                if not caught_up:
                    return None
                stack.push(attempt.pop_all())
                return connection, reader.server, reader
        return None

    def _watch(self) -> None:
        """Start the thread that looks at readers, once."""
        if self._health is None:
            with self._starting:
                if self._health is None:
                    watched = [role.readers for role in self._roles.values() if role.readers.all]
                    self._health = HealthThread(watched)

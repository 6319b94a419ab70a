"""What can go wrong between a program and its databases, and what to do about it."""

from __future__ import annotations


class DatabaseError(Exception):
    """Base of this package's errors."""


class UnknownRole(DatabaseError):
    """No database role of that name is configured."""


class DatabaseUnreachable(DatabaseError):
    """The server can't be reached, refuses the login, or the connection broke."""


class CommitUnknown(DatabaseUnreachable):
    """The connection broke during COMMIT: the change may or may not be there.

    Whoever repeats the work must first look whether it was done.
    """


class PoolExhausted(DatabaseError):
    """Every pooled connection stayed in use for the whole time that one may wait."""


class DatabaseBusy(DatabaseError):
    """A lock was not had in time, or a deadlock was broken: the transaction is
    rolled back and may be run again from its start."""


class DiskFull(DatabaseError):
    """The server has no room for the write: it is rolled back, reads go on."""


class WriterReadOnly(DatabaseError):
    """The role's writer takes no writes, as after a failover; a new attempt connects anew."""


class ReadOnlyConnection(DatabaseError):
    """A statement that writes was given to a connection for reading."""


class MigrationError(DatabaseError):
    """Migrations are misnumbered, locked by another run, or one of them failed."""


class SchemaMismatch(DatabaseError):
    """The schema is not the one that this code was written for."""


class SchemaTooNew(SchemaMismatch):
    """The database was migrated by newer code: this code must not touch it."""


class SchemaTooOld(SchemaMismatch):
    """Migrations are pending: run ``lj db migrate``."""

"""The exceptions of DB-API 2.0, and which of them a worker's word means.  Source: PEP 249."""

from __future__ import annotations


class Warning(Exception):
    """Something important; never raised here."""


class Error(Exception):
    """Base of all errors."""


class InterfaceError(Error):
    """The driver is used in a way that it can't be, as after `close`."""


class DatabaseError(Error):
    """Base of what has to do with the database."""


class DataError(DatabaseError):
    """A value can't be taken: too long, out of range."""


class OperationalError(DatabaseError):
    """Nobody's mistake: the database or the job servers are away, busy, too slow."""


class CallUnknown(OperationalError):
    """No answer came for something that writes: it may have been done, or may still be."""


class TryAgain(OperationalError):
    """A lock was not had, or a deadlock was broken: rolled back, and may be run again."""


class TransactionLost(OperationalError):
    """The transaction that was held is gone and rolled back: its lease ran out, or its
    connection or its worker broke."""


class IntegrityError(DatabaseError):
    """A key or a constraint forbids it."""


class InternalError(DatabaseError):
    """The gofer itself failed; the message has its traceback."""


class ProgrammingError(DatabaseError):
    """Wrong SQL, a wrong number of parameters, or not allowed by the gofer's settings."""


class NotSupportedError(DatabaseError):
    """There is no such thing here."""


BY_NAME: dict[str, type[Error]] = {
    kind.__name__: kind
    for kind in (
        DatabaseError,
        DataError,
        OperationalError,
        CallUnknown,
        TryAgain,
        TransactionLost,
        IntegrityError,
        InternalError,
        InterfaceError,
        ProgrammingError,
        NotSupportedError,
    )
}
"""What travels from worker to client is the name."""

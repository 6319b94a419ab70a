"""What databases and user clusters refuse, as messages and exit codes of commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lj_services.cli.output import CommandError
from lj_services.daemon import ConfigError, ExitCode
from lj_services.database import (
    DatabaseError,
    DatabaseUnreachable,
    MigrationError,
    PoolExhausted,
    SchemaMismatch,
    UnknownRole,
)
from lj_services.usercluster import (
    BadName,
    HomeMissing,
    NoCluster,
    NoRoom,
    UnknownUser,
    UnknownVersion,
    UserClusterError,
)
from lj_services.usercluster.coordinator import Away
from lj_services.usercluster.mover.errors import Contradiction, UnknownMove

_EXIT_CODES: tuple[tuple[type[Exception], ExitCode], ...] = (
    (ConfigError, ExitCode.CONFIG),
    (UnknownRole, ExitCode.UNKNOWN),
    (DatabaseUnreachable, ExitCode.UNREACHABLE),
    (PoolExhausted, ExitCode.UNREACHABLE),
    (SchemaMismatch, ExitCode.REFUSED),
    (MigrationError, ExitCode.FAILED),
    (DatabaseError, ExitCode.REFUSED),
    (BadName, ExitCode.USAGE),
    (UnknownUser, ExitCode.UNKNOWN),
    (UnknownVersion, ExitCode.UNKNOWN),
    (NoRoom, ExitCode.REFUSED),
    (NoCluster, ExitCode.UNKNOWN),
    (HomeMissing, ExitCode.FAILED),
    (UnknownMove, ExitCode.UNKNOWN),
    (Contradiction, ExitCode.FAILED),
    (Away, ExitCode.UNREACHABLE),
    (UserClusterError, ExitCode.REFUSED),
)
"""The first that fits decides."""


def exit_code(error: Exception) -> ExitCode:
    """The exit code for an error of a database or a user cluster."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), ExitCode.FAILED)


@contextmanager
def told() -> Iterator[None]:
    """Around a command's work (or as its decorator): errors become one line and an exit code.

    Raises:
        CommandError: instead of the error.
    """
    try:
        yield
    except (ConfigError, DatabaseError, UserClusterError) as error:
        raise CommandError(str(error), exit_code(error)) from error

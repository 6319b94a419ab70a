"""What can go wrong, each with the exit code that `disk-checker` ends with."""

from __future__ import annotations

HONEST, DAMAGED, UNKNOWN, SETUP = 0, 1, 2, 3
"""Exit codes: the disk kept its promises; it lost or damaged data; could not tell; set-up."""


class DiskCheckerError(Exception):
    """The base of all; its text says what happened and what to do."""

    exit_code = SETUP


class ProtocolError(DiskCheckerError):
    """The other end speaks something else, or sent a damaged message."""


class Refused(DiskCheckerError):
    """The listener will not do what was asked."""


class ListenerGone(DiskCheckerError):
    """The connection to the listener broke: nothing can be promised any more."""

    exit_code = UNKNOWN


class ListenerFailed(DiskCheckerError):
    """A listener did not start."""


class TargetError(DiskCheckerError):
    """The file, folder or device cannot be used as the target."""


class LedgerError(DiskCheckerError):
    """The record on the alive machine is unreadable, lost or in use."""


class CycleError(DiskCheckerError):
    """A step of a whole cycle (start, cut, come back) did not work."""

    exit_code = UNKNOWN


class VictimRefused(CycleError):
    """The victim could not begin: its target or its program is not as was said."""

    exit_code = SETUP

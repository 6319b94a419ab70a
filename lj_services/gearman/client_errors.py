"""What can go wrong between a program, its job servers and its workers."""

from __future__ import annotations


class GearmanError(Exception):
    """Base of all errors of the Gearman client and worker."""


class BadTask(GearmanError, ValueError):
    """The task can't travel in the protocol: a mistake of the calling program."""


class ServerUnreachable(GearmanError):
    """No job server could be reached; the message names them."""


class ConnectionLost(GearmanError):
    """The job server went away while a job was with it: done or not is unknown."""


class BadAnswer(GearmanError):
    """The server sent what is no answer to what was asked; the connection is given up."""


class TaskError(GearmanError):
    """Base of what becomes of a task that a server took."""


class TaskRefused(TaskError):
    """Every server that was asked answered with an error, for instance a full queue."""


class TaskFailed(TaskError):
    """The worker said that the job failed (WORK_FAIL), and gave no reason."""


class TaskException(TaskError):
    """The worker's function raised; `details` is what the worker said of it.

    For the kit's workers `details` is the traceback as text.
    """

    def __init__(self, message: str, details: bytes) -> None:
        super().__init__(message)
        self.details = details


class TaskTimeout(TaskError):
    """There was no result in time; the job may still be running."""

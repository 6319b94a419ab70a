"""The console: whose commands go where, and what becomes of errors.

A command is a function in ``worker_commands``, ``move_commands``, ``order_commands`` or
``console_commands``, whose docstring is its line in ``help``.  It gets the console, the session
(who is asking) and the request, and returns a reply; what it raises becomes an ``ERR`` line
(`Console.answer`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from lj_services.database import DatabaseError
from lj_services.usercluster.coordinator.core import Coordinator
from lj_services.usercluster.coordinator.protocol import BadRequest, Reply, Request
from lj_services.usercluster.errors import NoCluster, UnknownUser, UserClusterError
from lj_services.usercluster.mover import UnknownMove


class Session(Protocol):
    """One client, as far as commands know it."""

    peer: str
    worker: Worker | None
    subscribed: bool
    since: float

    def end(self) -> None:
        """Cut it off once its replies are written."""

    @property
    def gone(self) -> bool:
        """Whether nobody hears the reply any more."""


@dataclass
class Worker:
    """A worker's connection: what it called itself, and how many moves it takes."""

    name: str
    slots: int
    session: Session
    answered: str = "has not asked yet"
    """What it was told when it last asked for a move."""


@dataclass
class Console:
    """Answers requests.

    Attributes:
        coordinator: what they are about.
        stop: ends the daemon.
        commands: by their names.
        workers: the connected ones, by name.
        sessions: all that is connected.
    """

    coordinator: Coordinator
    stop: Callable[[], None]
    commands: Mapping[str, Command]
    workers: dict[str, Worker] = field(default_factory=dict)
    sessions: set[Session] = field(default_factory=set)
    draining: bool = False

    async def answer(self, session: Session, request: Request) -> Reply:
        """The reply to a request."""
        command = self.commands.get(request.command)
        if command is None:
            return Reply(f"there is no {request.command}; try help", error="unknown_command")
        try:
            return await command(self, session, request)
        except BadRequest as error:
            return Reply(str(error), error=error.code)
        except (UnknownMove, UnknownUser, NoCluster) as error:
            return Reply(str(error), error="unknown")
        except UserClusterError as error:
            return Reply(str(error), error="refused")
        except DatabaseError as error:
            return Reply(str(error), error="unreachable")

    def left(self, session: Session) -> None:
        """A client is gone."""
        self.sessions.discard(session)
        worker = session.worker
        if worker is not None and self.workers.get(worker.name) is worker:
            del self.workers[worker.name]
            self.coordinator.schedule.left(worker.name)


Command = Callable[[Console, Session, Request], Awaitable[Reply]]


def number_from_zero(text: str, what: str) -> float:
    """A number from 0 on.

    Raises:
        BadRequest: it is none; `what` names it.
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < 1e12:
        raise BadRequest(f"{what} must be a number from 0 on, not {text[:40]!r}")
    return value

"""What a block of code got from which cache server: for a page's debug footer."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

from lj_services.memcached.rings import Server

Outcome = Literal["hit", "miss", "done", "refused", "fault"]
"""hit and miss for what reads; done and refused (not stored, no such key) for what
writes; fault for both: the server did not do its part, or none was left for the key."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How one key of one operation fared."""

    operation: str
    key: str
    server: Server | None
    """None: no living server for the key."""
    outcome: Outcome


class Trace:
    """The answers of a `Client` in the order they came, as `Client.trace` gathers them."""

    def __init__(self, owner: object) -> None:
        """
        Args:
            owner: whose answers they are: other clients' are not noted.
        """
        self.owner = owner
        self.answers: list[Answer] = []

    def servers(self) -> dict[str, dict[Outcome, int]]:
        """Address -> how many keys had which outcome there; ``-`` for keys without a server."""
        counts: dict[str, dict[Outcome, int]] = {}
        for answer in self.answers:
            of_server = counts.setdefault(str(answer.server or "-"), {})
            of_server[answer.outcome] = of_server.get(answer.outcome, 0) + 1
        return counts


current_trace: ContextVar[Trace | None] = ContextVar("memcached_trace", default=None)
"""The trace of this thread, task, or thread that the task handed work to."""

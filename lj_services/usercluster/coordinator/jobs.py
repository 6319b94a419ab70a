"""What the schedule knows of a move, and the words in which operators name what they mean."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from lj_services.usercluster.mover.tables import AFTER_COMMIT, FINAL, FROZEN, SWITCHED

Side = Literal["src", "dst"]
SIDES: Final[tuple[Side, Side]] = ("src", "dst")

_SCOPE = re.compile(r"all|(?:src|dst|move):[1-9][0-9]{0,9}")


class Kind(StrEnum):
    """What a worker would do with a move, and so which rules hold for it."""

    MOVE = "move"
    """Copy, follow, cut over: loads both clusters."""
    PURGE = "purge"
    """Delete the rows of the earlier home: loads the source."""
    MEND = "mend"
    """Put an end to something half-done: never held up."""
    THAW = "thaw"
    """A user is held by a worker that vanished: the coordinator frees them itself."""


@dataclass(frozen=True, slots=True)
class Job:
    """A move as the schedule sees it; times in milliseconds by the clock of ``global``."""

    move_id: int
    userid: int
    src: int
    dst: int
    state: str
    ending: str | None = None
    priority: int = 0
    owner: str | None = None
    claim: int = 0
    lease_until: int = 0
    due_at: int = 0
    switched_at: int | None = None

    @property
    def final(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in FINAL

    @property
    def kind(self) -> Kind:
        """What is to be done with it."""
        if self.state == FROZEN:
            return Kind.THAW
        if self.state in AFTER_COMMIT:
            # The grace time is counted from the cut-over; due before means that the worker
            # vanished right behind the commit point, and the tombstone may be missing.
            unfinished = self.state == SWITCHED and self.due_at <= (self.switched_at or 0)
            return Kind.MEND if unfinished else Kind.PURGE
        return Kind.MEND if self.ending is not None else Kind.MOVE

    def cluster(self, side: Side) -> int:
        """Its cluster on one side."""
        return self.src if side == "src" else self.dst

    def scopes(self) -> tuple[str, ...]:
        """Every scope that it lies in; a purge does nothing to speak of on its destination."""
        scopes = ("all", f"move:{self.move_id}", f"src:{self.src}", f"dst:{self.dst}")
        return scopes[:3] if self.kind is Kind.PURGE else scopes


def scope(text: str) -> str:
    """What an operator means by ``all``, ``src:3``, ``dst:4``, ``move:17`` or just ``17``.

    Raises:
        ValueError: it is none of these.
    """
    if text.isdecimal():
        text = f"move:{text}"
    if not _SCOPE.fullmatch(text):
        raise ValueError(f"{text[:40]!r}: write all, src:CLUSTER, dst:CLUSTER or a move's number")
    return text

"""What a plan is: moves in their order, and what they lead to."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from lj_services.usercluster.balance.rules import ClusterState
from lj_services.usercluster.errors import UserClusterError


class BalanceError(UserClusterError):
    """Base of this package's errors."""


class PlanImpossible(BalanceError):
    """No plan can reach the targets; says what is missing and what would help."""


class Why(StrEnum):
    """The reason of a move."""

    DISK = "disk"
    """The source's disk is fuller than its target."""
    WRITES = "writes"
    """The source's disk is busier than its target."""
    DRAIN = "drain"
    """The source is to be emptied."""
    OPERATOR = "operator"
    """Somebody wrote it into the plan file."""


class Move(NamedTuple):
    """One user to move.

    Attributes:
        userid: who.
        size: their bytes, as surveyed.
        rows: their rows, as surveyed.
        src: the cluster they live on.
        dst: the cluster they shall live on.
        why: the reason.
    """

    userid: int
    size: int
    rows: int
    src: int
    dst: int
    why: Why


@dataclass(frozen=True, slots=True)
class Forecast:
    """One cluster before and after the plan.

    Attributes:
        clusterid, state: of the cluster.
        disk_total: bytes.
        disk_target: bytes that it should use at most.
        disk_before, disk_after: bytes in use; the predicted ones count what left as free.
        busy_target, busy_before, busy_after: shares of the time; None: not measured.
        users_in, users_out: how many users come and leave.
        bytes_in, bytes_out: their bytes.
        score_before, score_after: the worse of load over target for disk and for writes;
            above 1: too much; infinite: draining and not empty.
    """

    clusterid: int
    state: ClusterState
    disk_total: int
    disk_target: int
    disk_before: int
    disk_after: int
    busy_target: float | None
    busy_before: float | None
    busy_after: float | None
    users_in: int
    users_out: int
    bytes_in: int
    bytes_out: int
    score_before: float
    score_after: float


@dataclass(frozen=True)
class Plan:
    """Moves, in the order in which they help most, and what they lead to.

    Attributes:
        moves: what is to be done.
        forecast: every cluster before and after.
        least_bytes: bytes that any plan must move to bring the same clusters under the
            same targets: no plan can move fewer.
        best_spread: the fullest cluster's disk level over the average one, at the best
            that is possible with the same pinned users, states and limits.
        spread_before, spread_after: the same, now and as predicted.  Clusters that are
            drained or dead are left out of all three.
        problems: what the plan leaves undone, and what would help.
        notes: what one should know of the figures.
    """

    moves: list[Move]
    forecast: tuple[Forecast, ...]
    least_bytes: int
    best_spread: float
    spread_before: float
    spread_after: float
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def bytes(self) -> int:
        """Bytes that the plan moves."""
        return sum(move.size for move in self.moves)

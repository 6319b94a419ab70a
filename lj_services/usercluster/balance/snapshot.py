"""What the planner reads: one moment of the clusters and of all their users.

Users lie in columns, one numpy array per figure, for there are millions: 27 bytes
a user, where a Python object each would take several hundred.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lj_services.usercluster.balance.rules import ClusterState

PINNED: Final = 1
"""The operator wants the user where they are."""
RECENT: Final = 2
"""The user was moved a short while ago."""
MOVING: Final = 4
"""The user is being moved just now."""

_TYPES = (np.int64, np.int16, np.int64, np.uint32, np.float32, np.uint8)


@dataclass(frozen=True, slots=True)
class ClusterFigures:
    """One cluster, as it is now.

    Attributes:
        clusterid: its number.
        state: what may happen to its users.
        weight: its share of the load per byte of disk, beside the other clusters';
            0: takes no users, like ``full``.
        disk_total: bytes of disk for its data.
        disk_used: bytes in use.
        busy: share of the time that its disk is busy, 0 to 1; None: nobody measured it.
        write_rate: writes a second, those of users whom nobody knows included; None:
            the sum of the users'.
        unsurveyed: users who live there and whose size is unknown: they stay.
        embedded: it is on SQLite, where nobody can tell how much its users write.
    """

    clusterid: int
    disk_total: int
    disk_used: int
    state: ClusterState = ClusterState.UP
    weight: float = 100
    busy: float | None = None
    write_rate: float | None = None
    unsurveyed: int = 0
    embedded: bool = False

    def __post_init__(self) -> None:
        if self.disk_total <= 0 or self.disk_used < 0 or self.weight < 0:
            raise ValueError(f"these are no figures of a cluster: {self}")

    @property
    def disk_free(self) -> int:
        """Bytes that are left."""
        return max(0, self.disk_total - self.disk_used)

    @property
    def receives(self) -> bool:
        """Whether users may come here at all."""
        return self.state is ClusterState.UP and self.weight > 0


@dataclass(frozen=True)
class UserTable:
    """All users, a column per figure; the columns have the same length.

    Attributes:
        userid: who.
        cluster: where they live, as an index into `Snapshot.clusters`.
        size: bytes they take on disk.
        rows: rows they have.
        write_rate: writes a second.
        flags: ``PINNED | RECENT | MOVING``.
    """

    userid: NDArray[np.int64]
    cluster: NDArray[np.int16]
    size: NDArray[np.int64]
    rows: NDArray[np.uint32]
    write_rate: NDArray[np.float32]
    flags: NDArray[np.uint8]

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in vars(self).items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of different lengths: {lengths}")

    def __len__(self) -> int:
        return len(self.userid)

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[Any]]) -> UserTable:
        """Gather rows (userid, cluster index, bytes, rows, writes a second, flags)."""
        columns = list(zip(*rows, strict=True)) or [()] * len(_TYPES)
        return cls(*(np.array(c, dtype=t) for c, t in zip(columns, _TYPES, strict=True)))

    @classmethod
    def joined(cls, parts: Iterable[UserTable]) -> UserTable:
        """The users of all parts."""
        columns = list(zip(*(vars(part).values() for part in parts), strict=True))
        if not columns:
            return cls.from_rows([])
        return cls(*map(np.concatenate, columns))


@dataclass(frozen=True)
class Snapshot:
    """The clusters and their users at one moment."""

    clusters: tuple[ClusterFigures, ...]
    users: UserTable

    def __post_init__(self) -> None:
        numbers = [cluster.clusterid for cluster in self.clusters]
        if len(set(numbers)) != len(numbers):
            raise ValueError(f"a cluster is there twice: {numbers}")
        where = self.users.cluster
        if len(where) and (int(where.min()) < 0 or int(where.max()) >= len(numbers)):
            raise ValueError("a user lives on a cluster that the snapshot does not have")

"""The operator's rules for balancing: parts of the ``[users]`` table of the site file.

::

    [users.balance]
    tolerance = 0.05
    [users.clusters.3]
    state = "draining"
    capacity = "400g"
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from lj_services.daemon import ByteSize, Settings


class ClusterState(StrEnum):
    """What may happen to a cluster's users."""

    UP = "up"
    """Takes users, and gives some away when it has too much."""
    DRAINING = "draining"
    """Takes none, and all of its users are to leave."""
    FULL = "full"
    """Takes none; gives some away when it has too much."""
    DEAD = "dead"
    """Out of reach: its users can neither leave nor be joined."""


class ClusterSettings(Settings):
    """What the operator says of one cluster: ``[users.clusters.N]``."""

    state: ClusterState = Field(
        default=ClusterState.UP,
        description="up; full: takes no users; draining: takes none and is to be emptied; "
        "dead: out of reach, left alone",
    )
    capacity: ByteSize | None = Field(
        default=None,
        gt=0,
        description="bytes of disk for the cluster's data, as 400g; unset: what the disk "
        "under it says, if this host or the server can tell",
    )


class BalanceRules(Settings):
    """When a cluster has too much, and what a plan may do about it: ``[users.balance]``."""

    tolerance: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="share by which a cluster's disk may be fuller than the fair level",
    )
    high_water: float = Field(
        default=0.80,
        gt=0,
        le=1,
        description="share of its disk that a cluster may use at most, fair or not",
    )
    receiver_limit: float = Field(
        default=0.75,
        gt=0,
        le=1,
        description="share of its disk that a receiver may use afterwards, overhead and all",
    )
    overhead: float = Field(
        default=1.3,
        ge=1,
        le=10,
        description="bytes that a receiver needs for each byte that comes: undo and binary log",
    )
    busy_target: float = Field(
        default=0.60,
        gt=0,
        le=1,
        description="share of the time that a cluster's disk may be busy before users leave for it",
    )
    busy_tolerance: float = Field(
        default=0.10,
        ge=0,
        le=1,
        description="share by which a disk above busy_target may be busier than the fair level",
    )
    improvement: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="a move must lower the worse of its two clusters by this share of what the "
        "giving one sheds; not asked of clusters above high_water or draining",
    )
    cooldown_s: int = Field(
        default=86_400,
        ge=0,
        description="seconds that a user who was moved stays where they are; draining overrides it",
    )
    max_moves: int = Field(default=0, ge=0, description="moves in one plan at most; 0: any number")
    max_bytes: ByteSize = Field(
        default=0, description="bytes moved by one plan at most, as 50g; 0: any number"
    )


class SurveyRules(Settings):
    """How users' sizes are collected: ``[users.survey]``."""

    max_age_s: int = Field(
        default=86_400, ge=0, description="seconds for which a user's surveyed size is good"
    )
    pace: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="share of the time in which the survey may read from a cluster",
    )
    batch_users: int = Field(
        default=500, ge=1, le=10_000, description="users whose sizes are recorded at once"
    )
    chunk_rows: int = Field(
        default=20_000, ge=1, le=1_000_000, description="rows that one query counts at most"
    )

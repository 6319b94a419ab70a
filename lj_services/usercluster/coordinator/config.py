"""The coordinator's settings."""

from __future__ import annotations

from pydantic import Field

from lj_services.daemon import DaemonSettings, HostPort, Settings
from lj_services.usercluster.coordinator.limits import Limits

PORT = 2789
"""The port of LiveJournal's moveuclusterd."""


class ClusterLimits(Settings):
    """What moves may do to one cluster."""

    src: Limits = Field(default_factory=Limits, description="as the source of moves")
    dst: Limits = Field(default_factory=Limits, description="as the destination of moves")


class CoordinatorSettings(DaemonSettings):
    """Settings of ``lj mover coordinator``."""

    listen: HostPort = Field(
        default=HostPort("127.0.0.1", PORT),
        description="address that workers and operators connect to, HOST:PORT; whoever reaches it "
        "may give orders: not for the open network",
    )
    advertise: HostPort | None = Field(
        default=None,
        description="address that workers on other hosts find in `global`, HOST:PORT; "
        "unset: that of listen",
    )
    default: ClusterLimits = Field(
        default_factory=ClusterLimits,
        description="limits of every cluster: [default.src] and [default.dst] with moves, purges, "
        "rows_s, lag_s, busy",
    )
    clusters: dict[int, ClusterLimits] = Field(
        default_factory=dict, description="cluster number -> limits of its own: [clusters.3.src]"
    )
    poll_s: float = Field(
        default=0.5, ge=0.05, le=60, description="seconds between two looks at the moves in global"
    )
    report_s: float = Field(
        default=1.0, ge=0.05, le=10, description="seconds between two reports of a worker"
    )
    host_silent_s: float = Field(
        default=10.0,
        ge=1,
        le=600,
        description="seconds after which what a host said of its disk counts for nothing",
    )
    record_s: float = Field(
        default=60.0,
        ge=1,
        le=3600,
        description="seconds between two records of how busy and full disks are, for balancing",
    )
    max_line: int = Field(
        default=1 << 16, ge=256, le=1 << 20, description="bytes that a line of a client may have"
    )
    max_connections: int = Field(
        default=500, ge=1, description="client connections at once; more are refused"
    )

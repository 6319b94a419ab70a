"""Settings of the process; what it balances is said in the original's language."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from lj_services.daemon import DaemonSettings, HostPort


class BalancerSettings(DaemonSettings):
    """What ``lj perlbal serve`` reads beside the configuration file."""

    listen: HostPort = Field(
        default=HostPort("127.0.0.1", 60000),
        description="address of the console, where the configuration file has no management "
        "service that listens",
    )
    config: Path | None = Field(
        default=None, description="the configuration file, in Perlbal's language"
    )
    plugin_path: tuple[Path, ...] = Field(
        default=(), description="folders where LOAD looks for plug-ins of your own, first"
    )
    workers: int = Field(
        default=0,
        ge=0,
        le=256,
        description="processes that share all ports, one for each core; 0: one process, which "
        "can't be restarted without a pause",
    )
    user: str = Field(
        default="", description="who to become when everything is bound; only root can"
    )
    group: str = Field(default="", description="its group; unset: the user's own groups")
    max_connections: int = Field(
        default=20_000, ge=1, description="clients at once, of each process; more are refused"
    )
    drain_timeout_s: float = Field(
        default=30.0, ge=0, description="seconds that requests in flight may take after SIGTERM"
    )

"""Settings of the Gearman server."""

from __future__ import annotations

import socket
from typing import Literal

from pydantic import Field

from lj_services.daemon import ByteSize, HostPort, TextCommandSettings
from lj_services.database.config import RoleSettings


class ServerSettings(TextCommandSettings):
    """What ``lj gearman serve`` reads."""

    listen: HostPort = Field(
        default=HostPort("127.0.0.1", 4730),
        description="address that clients and workers connect to, HOST:PORT",
    )
    handle_prefix: str = Field(
        default_factory=lambda: f"H:{socket.gethostname()[:32]}",
        pattern=r"^[!-~]{1,40}$",
        description="what job handles start with; default: H: and the host's name",
    )
    job_retries: int = Field(
        default=-1,
        ge=-1,
        description="how often a job whose worker was lost goes to another; -1: always; 0: never",
    )
    on_timeout: Literal["fail", "retry"] = Field(
        default="fail",
        description="what becomes of a job that takes longer than its worker allows: fail tells "
        "the clients, retry gives it to another worker, as often as job_retries says",
    )
    round_robin: bool = Field(
        default=True,
        description="whether a worker's functions take turns among jobs of one priority; false: "
        "a function's jobs wait while there are any of one that the worker named before it",
    )
    exceptions: bool = Field(
        default=False, description="tell exceptions to all clients, not only to those that ask"
    )
    max_queue: int = Field(
        default=0,
        ge=0,
        description="jobs of one function beyond which more are refused; 0: any number",
    )
    persist: RoleSettings | None = Field(
        default=None,
        description="table [persist]: the database that background jobs are kept in until they are "
        "done, as a role of the site file has it (writer, password_file ...); servers that share "
        "one differ in handle_prefix; unset: jobs are kept in memory only",
    )
    max_data: ByteSize = Field(
        default=1 << 30,
        description="bytes of all jobs' data beyond which more are refused; 0: any number",
    )
    max_packet: ByteSize = Field(
        default=64 << 20,
        ge=1 << 10,
        le=64 << 20,
        description="bytes of one packet beyond which its sender is cut off",
    )
    max_output: ByteSize = Field(
        default=128 << 20,
        ge=1 << 16,
        description="bytes that wait for a slow reader beyond which it is cut off",
    )

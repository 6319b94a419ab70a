"""Settings of the gofer, ``lj gearman gofer``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from lj_services.daemon import ByteSize, HostPort, Settings
from lj_services.daemon.config import ServiceSettings

Verb = Literal[
    "select",
    "insert",
    "update",
    "delete",
    "replace",
    "with",
    "show",
    "explain",
    "create",
    "alter",
    "drop",
]


class GoferRole(Settings):
    """What may be done with one database role, and with how many connections."""

    read_connections: int = Field(
        default=10, ge=0, le=1000, description="reads at the same time; 0: none are taken"
    )
    write_connections: int = Field(
        default=10,
        ge=0,
        le=1000,
        description="writes and leases at the same time; 0: none are taken.  SQLite has one",
    )
    verbs: tuple[Verb, ...] = Field(
        default=("select", "insert", "update", "delete", "replace"),
        description="first words that statements may have",
    )
    statements: tuple[str, ...] = Field(
        default=(),
        description="if there are any: the only statements that are taken, word for word; "
        "white space and comments don't count",
    )
    max_leases: int = Field(
        default=5,
        ge=0,
        description="transactions that are held for callers at the same time; at most half of "
        "write_connections, so that single calls always get through",
    )


class GoferSettings(ServiceSettings):
    """What ``lj gearman gofer`` reads."""

    servers: tuple[HostPort, ...] = Field(
        default=(HostPort("127.0.0.1", 4730),), min_length=1, description="the job servers"
    )
    roles: dict[
        Annotated[str, StringConstraints(pattern=r"^[a-z][a-z_]{0,30}[0-9]{0,5}$")], GoferRole
    ] = Field(description="the database roles that are offered; others are not")
    prefix: str = Field(
        default="gofer",
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        description="what the names of its Gearman functions start with",
    )
    frame: ByteSize = Field(
        default=256 << 10,
        ge=1 << 10,
        le=16 << 20,
        description="bytes of rows that are sent as one piece of an answer",
    )
    max_answer: ByteSize = Field(
        default=16 << 20,
        ge=1 << 10,
        le=60 << 20,
        description="bytes of an answer that must be one piece (writes, coalesced reads); "
        "larger ones are errors",
    )
    max_lease_s: float = Field(
        default=30.0, gt=0, le=3600, description="longest time that a lease waits for its next call"
    )

"""Where the database roles are, as the site file says it.

A role is named for what it holds (``global``, ``cluster1``, ``theschwartz1``),
never for a host.  It has one writer, usually the floating IP of a pair, and any
number of readers::

    [database.roles.global]
    writer = "mariadb://lj@10.0.0.1:3306/lj_global"
    password_file = "/etc/lj/secrets/global"
    [[database.roles.global.readers]]
    url = "mariadb://lj@10.0.0.2:3306/lj_global"
    weight = 1
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, field_validator
from pydantic_core import PydanticCustomError
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from lj_services.daemon import Settings
from lj_services.daemon.config import SECRET

SERVERS = {"mariadb", "mysql"}
TLS_OPTIONS = {"ssl_ca", "ssl_cert", "ssl_key", "ssl_disabled"}
ROLE_NAME = re.compile(r"[a-z][a-z_]{0,30}[0-9]{0,5}")


def _database_url(value: Any) -> URL:
    """Read a database URL strictly, so that a slip shows here and not at 3 in the morning."""

    def wrong(why: str) -> PydanticCustomError:
        return PydanticCustomError("database_url", "{why}", {"why": why})

    if isinstance(value, URL):
        return value
    try:
        url = make_url(str(value))
    except (ArgumentError, ValueError):
        raise wrong(
            "write sqlite:////abs/file.db, mariadb://user@host:3306/database "
            "or mariadb://user@/database?unix_socket=/abs/socket"
        ) from None
    if url.password is not None:
        raise PydanticCustomError(
            SECRET, "no password in a URL: put it in a file and name that as password_file"
        )
    if url.drivername == "sqlite":
        if not url.database or not Path(url.database).is_absolute():
            raise wrong("an SQLite file needs an absolute path: sqlite:////abs/file.db")
        if url.query or url.host:
            raise wrong("an SQLite URL is just sqlite:////abs/file.db")
        return url
    if url.drivername not in SERVERS:
        raise wrong(f"{url.drivername!r} is no engine of the kit: sqlite, mariadb or mysql")
    if not url.database or not re.fullmatch(r"[A-Za-z0-9_$-]{1,64}", url.database):
        raise wrong("a server's URL ends with the database's name: mariadb://user@host/database")
    if unknown := set(url.query) - TLS_OPTIONS - {"unix_socket"}:
        raise wrong(f"unknown option {min(unknown)}; known: unix_socket, {', '.join(TLS_OPTIONS)}")
    if bool(url.host) == ("unix_socket" in url.query):
        raise wrong("give either a host or unix_socket=/abs/socket")
    return url


DatabaseURL = Annotated[
    URL, BeforeValidator(_database_url), PlainSerializer(lambda url: url.render_as_string())
]


class ReaderSettings(Settings):
    """One replica of a role."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    url: DatabaseURL = Field(description="where it is, as the role's writer")
    weight: int = Field(
        default=1, ge=0, le=1000, description="its share of the reads; 0 takes it out"
    )
    password_file: Path | None = Field(
        default=None, description="file with its password; unset: the role's"
    )


class RoleSettings(Settings):
    """One database role: a writer, readers, and how connections to them behave."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    writer: DatabaseURL = Field(
        description="sqlite:////abs/file.db, mariadb://user@host:3306/database or "
        "mariadb://user@/database?unix_socket=/abs/socket (mysql:// likewise)"
    )
    password_file: Path | None = Field(
        default=None, description="file whose first line is the password; unset: none"
    )
    readers: tuple[ReaderSettings, ...] = Field(
        default=(), description="replicas that reads may go to; none: the writer"
    )
    pool_size: int = Field(
        default=8, ge=1, le=1000, description="connections at once to each server of the role"
    )
    pool_wait_s: float = Field(
        default=5.0, gt=0, le=300, description="seconds that a full pool makes one wait"
    )
    connect_timeout_s: int = Field(
        default=2, ge=1, le=60, description="seconds that connecting may take"
    )
    lock_wait_s: int = Field(
        default=10, ge=1, le=300, description="seconds that a write waits for a lock"
    )
    read_timeout_s: int = Field(
        default=60,
        ge=1,
        le=3600,
        description="seconds without an answer until a statement is given up; "
        "keep it above lock_wait_s",
    )
    max_lag_s: float = Field(
        default=10.0,
        ge=0,
        description="seconds that a reader may be behind; 0: not looked at, "
        "for readers that do not replicate by themselves",
    )
    position_wait_s: float = Field(
        default=0.5,
        ge=0,
        le=30,
        description="seconds that a reader may take to catch up with a "
        "caller's own writes; then the writer is asked",
    )
    health_interval_s: float = Field(
        default=2.0, gt=0, le=60, description="seconds between two looks at each reader"
    )


class DatabaseSettings(Settings):
    """The ``[database]`` table of the site file."""

    roles: dict[str, RoleSettings] = Field(description="role name -> where it is")

    @field_validator("roles")
    @classmethod
    def _role_names(cls, roles: dict[str, RoleSettings]) -> dict[str, RoleSettings]:
        for name in roles:
            if not ROLE_NAME.fullmatch(name):
                raise PydanticCustomError(
                    "role_name",
                    "{name} is no role: lower-case letters, then perhaps a number, as cluster1",
                    {"name": repr(name)},
                )
        return roles


def read_password(file: Path | None) -> str | None:
    """The first line of a password file; None without a file.

    Raises:
        OSError: the file can't be read.
    """
    if file is None:
        return None
    return file.read_text(encoding="utf-8").split("\n", 1)[0]

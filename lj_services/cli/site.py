"""The site file: where this site's databases, caches and pages are.

Every program that *uses* the site's systems reads it (the operator's command,
the journal); the daemons' own settings lie in files of their own.  It is
written by the roles `database`, `memcached` and `journal`, and holds no
secrets: passwords lie in files that it names.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cached_property, update_wrapper
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import click
from pydantic import Field

from lj_services.cli.output import CommandError
from lj_services.daemon import ConfigError, ExitCode, Settings, load_settings
from lj_services.database import Databases, DatabaseSettings
from lj_services.gearman.client import Client as JobClient
from lj_services.gearman.client_config import ClientSettings as JobSettings
from lj_services.memcached.client import Client
from lj_services.memcached.client_config import ClientSettings
from lj_services.usercluster import User, Users, UserSettings
from lj_services.usercluster.mover.config import MoverSettings

P = ParamSpec("P")
R = TypeVar("R")

SITE_FILES = (Path("var/etc/site.toml"), Path("/etc/lj/site.toml"))
"""Where a site file is looked for, when none is named."""


class JournalAddress(Settings):
    """Where the sample site is reached from outside."""

    url: str = Field(
        default="http://127.0.0.1:8080", description="address of the site's front page"
    )


class SiteSettings(Settings):
    """The whole site file."""

    database: DatabaseSettings = Field(description="database roles and where they are")
    users: UserSettings = Field(default_factory=UserSettings, description="rules for new users")
    mover: MoverSettings = Field(
        default_factory=MoverSettings, description="how users are moved between clusters"
    )
    memcached: ClientSettings | None = Field(
        default=None, description="the cache servers and their ring; unset: no cache"
    )
    gearman: JobSettings | None = Field(
        default=None, description="the job servers; unset: none, and posts are plain text"
    )
    journal: JournalAddress = Field(
        default_factory=JournalAddress, description="the sample site's address"
    )


class Site:
    """The open site: what a command gets through `pass_site`.

    Nothing is read or connected before it is used, so that ``--help`` and
    commands that need no site work without one.
    """

    def __init__(self, file: Path | None) -> None:
        self._named = file

    @cached_property
    def file(self) -> Path:
        """The site file in use."""
        if self._named is not None:
            return self._named
        for file in SITE_FILES:
            if file.exists():
                return file
        raise CommandError(
            "no site file: name one with --site FILE or LJ_SITE, or run `make up` first "
            f"(looked for {' and '.join(map(str, SITE_FILES))})",
            ExitCode.CONFIG,
        )

    @cached_property
    def settings(self) -> SiteSettings:
        """What the site file says."""
        try:
            return load_settings(SiteSettings, self.file)
        except ConfigError as error:
            raise CommandError(str(error), ExitCode.CONFIG) from None

    @cached_property
    def databases(self) -> Databases:
        databases = Databases(self.settings.database)
        click.get_current_context().call_on_close(databases.close)
        return databases

    @cached_property
    def cache(self) -> Client | None:
        if self.settings.memcached is None:
            return None
        client = Client.from_settings(self.settings.memcached)
        click.get_current_context().call_on_close(client.close)
        return client

    @cached_property
    def jobs(self) -> JobClient | None:
        """The job servers, if the site has any."""
        if self.settings.gearman is None:
            return None
        client = JobClient(self.settings.gearman.servers)
        click.get_current_context().call_on_close(client.close)
        return client

    @cached_property
    def users(self) -> Users:
        # Who keeps rows of users declares their versions when it is imported.
        importlib.import_module("lj_services.journal")
        return Users(self.databases, self.cache, self.settings.users)

    def look_up(self, who: str) -> User:
        """The user whom an operator names: a name, or ``#USERID``; from `global` itself.

        Raises:
            UnknownUser: there is none.
        """
        if who.startswith("#") and who[1:].isdecimal():
            return self.users.reload(int(who[1:]))
        return self.users.reload(self.users.find(who).userid)


def pass_site(function: Callable[Concatenate[Site, P], R]) -> Callable[P, R]:
    """Give a command the `Site` that ``lj --site`` names, as its first argument."""

    def with_site(*args: P.args, **kwargs: P.kwargs) -> R:
        site = Site(click.get_current_context().find_root().obj)
        return function(site, *args, **kwargs)

    return update_wrapper(with_site, function)

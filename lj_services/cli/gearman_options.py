"""What commands about Gearman servers have in common: which servers."""

from __future__ import annotations

import click

from lj_services.cli.site import SITE_FILES, Site
from lj_services.daemon import HostPort
from lj_services.gearman.placement import parse_servers

_HERE = HostPort("127.0.0.1", 4730)


def _of_site(ctx: click.Context) -> tuple[HostPort, ...]:
    """The job servers that the site file names, if there is one and it does."""
    named = ctx.find_root().obj
    if named is None and not any(file.exists() for file in SITE_FILES):
        return (_HERE,)
    settings = Site(named).settings.gearman
    return (_HERE,) if settings is None else settings.servers


def _one(ctx: click.Context, _param: click.Parameter, value: str | None) -> HostPort:
    if value is None:
        return _of_site(ctx)[0]
    try:
        return HostPort.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _all(
    ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]
) -> tuple[HostPort, ...]:
    if not value:
        return _of_site(ctx)
    try:
        return parse_servers(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


server_option = click.option(
    "--server",
    callback=_one,
    metavar="HOST:PORT",
    envvar="LJ_GEARMAN",
    show_envvar=True,
    help="The Gearman server: the kit's, gearmand or Perl's.  Default: the first of the site "
    "file's, else 127.0.0.1:4730.",
)

servers_option = click.option(
    "--server",
    "servers",
    multiple=True,
    callback=_all,
    metavar="HOST:PORT",
    envvar="LJ_GEARMAN_SERVERS",
    show_envvar=True,
    help="A job server; may be given many times (in the variable: with blanks between), in "
    "the same order for all clients.  Default: the site file's, else 127.0.0.1:4730.",
)

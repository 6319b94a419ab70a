"""What commands about Gearman servers have in common: which server."""

from __future__ import annotations

import click

from lj_services.daemon import HostPort


def _address(_ctx: click.Context, _param: click.Parameter, value: str) -> HostPort:
    try:
        return HostPort.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


server_option = click.option(
    "--server",
    callback=_address,
    metavar="HOST:PORT",
    default="127.0.0.1:4730",
    show_default=True,
    envvar="LJ_GEARMAN",
    help="The Gearman server: the kit's, gearmand or Perl's.",
)

"""``lj perlbal``: run the load balancer, speak to its console."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import click

from lj_services.cli.output import CommandError
from lj_services.daemon import ExitCode, HostPort
from lj_services.perlbal.client import ConsoleClient, Refused
from lj_services.perlbal.command import serve


@click.group()
def command() -> None:
    """The load balancer: what the site's clients talk to."""


command.add_command(serve)


def _address(_ctx: click.Context, _param: click.Parameter, value: str) -> HostPort:
    try:
        return HostPort.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@command.command()
@click.argument("words", nargs=-1)
@click.option(
    "--server",
    callback=_address,
    metavar="HOST:PORT",
    default="127.0.0.1:60000",
    show_default=True,
    envvar="LJ_PERLBAL",
    help="The console of a balancer: the kit's or Perl's.",
)
def console(server: HostPort, words: tuple[str, ...]) -> None:
    """Have the balancer carry out a command, or the lines that come on standard input.

    \b
    lj perlbal console show service
    lj perlbal console POOL webs REMOVE 10.0.0.7:8080
    lj perlbal console < changes.conf
    """
    lines: Iterable[str] = [" ".join(words)] if words else sys.stdin
    try:
        with ConsoleClient(server) as client:
            for line in lines:
                _run(client, line.strip())
    except OSError as error:
        raise CommandError(
            f"no balancer at {server}: {error}; name its console with --server",
            ExitCode.UNREACHABLE,
        ) from None


def _run(client: ConsoleClient, line: str) -> None:
    try:
        for answer in client.run(line):
            click.echo(answer)
    except Refused as refused:
        raise CommandError(f"{line}: {refused}", ExitCode.REFUSED) from None
    except ConnectionResetError:
        if not line.lower().startswith("shutdown"):
            raise

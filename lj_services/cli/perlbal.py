"""``lj perlbal``: run the load balancer, speak to its console."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import click

from lj_services.cli.output import CommandError, Output, json_option
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
@json_option
def console(server: HostPort, words: tuple[str, ...], as_json: bool) -> None:
    """Have the balancer carry out a command, or the lines that come on standard input.

    \b
    lj perlbal console show service
    lj perlbal console POOL webs REMOVE 10.0.0.7:8080
    lj perlbal console < changes.conf

    In JSON each command is an object: what was asked, and the lines that came.
    """
    lines: Iterable[str] = [" ".join(words)] if words else sys.stdin
    answered: list[dict[str, object]] = []
    try:
        with ConsoleClient(server) as client:
            for line in map(str.strip, lines):
                answer = _run(client, line)
                if as_json:
                    answered.append({"command": line, "answer": answer})
                else:
                    for text in answer:
                        click.echo(text)
    except OSError as error:
        raise CommandError(
            f"no balancer at {server}: {error}; name its console with --server",
            ExitCode.UNREACHABLE,
        ) from None
    if as_json:
        Output(as_json).document(answered)


def _run(client: ConsoleClient, line: str) -> list[str]:
    """The lines of the answer."""
    try:
        return client.run(line)
    except Refused as refused:
        raise CommandError(f"{line}: {refused}", ExitCode.REFUSED) from None
    except ConnectionResetError:
        if not line.lower().startswith("shutdown"):
            raise
        return []

"""``lj perlbal``: run the load balancer, speak to its console."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterable, Sequence

import click

from lj_services.cli.output import CommandError, Output, json_option
from lj_services.daemon import ExitCode, HostPort
from lj_services.perlbal.client import ConsoleClient, Refused
from lj_services.perlbal.command import serve
from lj_services.perlbal.draining import drained


@click.group()
def command() -> None:
    """The load balancer: what the site's clients talk to."""


command.add_command(serve)


CONSOLE = "127.0.0.1:60000"


def _address(_ctx: click.Context, _param: click.Parameter, value: str) -> HostPort:
    try:
        return HostPort.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _addresses(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> list[HostPort]:
    return [_address(ctx, param, value) for value in values]


@command.command()
@click.argument("words", nargs=-1)
@click.option(
    "--server",
    callback=_address,
    metavar="HOST:PORT",
    default=CONSOLE,
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
        raise _unreachable(server, error) from None
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


@command.command(context_settings={"allow_interspersed_args": False})
@click.argument("node", metavar="IP:PORT")
@click.argument("words", nargs=-1, required=True, metavar="COMMAND...")
@click.option("--pool", default="webs", show_default=True, help="The pool that the node is in.")
@click.option(
    "--server",
    "servers",
    callback=_addresses,
    metavar="HOST:PORT",
    multiple=True,
    default=[CONSOLE],
    show_default=True,
    help="The console of a balancer of the kit; may be given for each.",
)
@click.option(
    "--lease",
    "lease_s",
    type=click.IntRange(3, 86400),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="After which the node is in again if this command is killed.",
)
@click.option(
    "--patience",
    "patience_s",
    type=click.IntRange(0),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="How long its requests may take before COMMAND is run all the same.",
)
def drain(
    node: str,
    words: tuple[str, ...],
    pool: str,
    servers: list[HostPort],
    lease_s: int,
    patience_s: int,
) -> None:
    """Run COMMAND while the balancers send a node nothing.

    \b
    lj perlbal drain 10.0.0.7:8080 ssh web7 systemctl restart lj-journal
    lj perlbal drain --server 10.0.0.1:60000 --server 10.0.0.2:60000 10.0.0.7:8080 -- sleep 60

    The node leaves the pool, its requests are waited for, COMMAND is run, and the node is in
    again, whether COMMAND went well or not; its exit code is this command's.  A node that is
    taken out so is in again after --lease seconds by itself if this command is killed, or its
    host is: only a living one renews it.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        with drained(servers, pool, node, lease_s=lease_s) as out:
            if not out.wait(patience_s):
                click.echo(f"{node} still has requests after {patience_s} s", err=True)
            code = _carry_out(words)
    except Refused as refused:
        raise CommandError(str(refused), ExitCode.REFUSED) from None
    except OSError as error:
        raise _unreachable(servers[0], error) from None
    sys.exit(code)


def _carry_out(words: Sequence[str]) -> int:
    """Run a program; returns its exit code, as a shell tells it."""
    try:
        code = subprocess.run(words, check=False).returncode
    except OSError as error:
        raise CommandError(f"{words[0]}: {error.strerror}; nothing was done") from None
    return code if code >= 0 else 128 - code


def _unreachable(server: HostPort, error: OSError) -> CommandError:
    return CommandError(
        f"no balancer at {server}: {error}; name its console with --server", ExitCode.UNREACHABLE
    )

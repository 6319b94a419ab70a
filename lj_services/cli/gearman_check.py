"""``lj gearman check``: a plugin for Nagios, Icinga and others."""

from __future__ import annotations

import sys
import time

import click

from lj_services.cli.gearman_options import server_option
from lj_services.cli.output import Output, json_option
from lj_services.daemon import HostPort
from lj_services.gearman.admin_client import AdminClient, AdminRefused
from lj_services.gearman.checking import Level, Limits, Verdict
from lj_services.gearman.checking import check as judge


class _Plugin(click.Command):
    """A command whose usage errors are UNKNOWN, as plugins' are, and not CRITICAL."""

    def make_context(self, *args: object, **kwargs: object) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)  # type: ignore[arg-type]
        except click.UsageError as error:
            click.echo(f"GEARMAN UNKNOWN - {error.format_message()}")
            sys.exit(Level.UNKNOWN)


@click.command(cls=_Plugin)
@server_option
@click.option("-f", "--function", "names", multiple=True, help="Look at this one; repeatable.")
@click.option("-w", "--warn-queued", type=click.IntRange(0), help="Warning above so many jobs.")
@click.option("-c", "--max-queued", type=click.IntRange(0), help="Critical above so many jobs.")
@click.option(
    "--min-workers", type=click.IntRange(0), default=0, help="Critical below so many workers."
)
@click.option("-t", "--timeout", "timeout_s", type=float, default=5.0, show_default=True)
@json_option
def check(
    server: HostPort,
    names: tuple[str, ...],
    warn_queued: int | None,
    max_queued: int | None,
    min_workers: int,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Is the server well?  A plugin for Nagios and the like.

    Limits are for each function that is looked at; jobs that run don't count as waiting.
    Exit codes: 0 OK, 1 WARNING, 2 CRITICAL (also: the server can't be reached), 3 UNKNOWN.
    """
    start = time.monotonic()
    try:
        with AdminClient(server, timeout_s) as client:
            found = client.status()
    except OSError as error:
        verdict = Verdict(Level.CRITICAL, f"GEARMAN CRITICAL - no server at {server}: {error}")
    except (AdminRefused, ValueError) as error:
        verdict = Verdict(Level.UNKNOWN, f"GEARMAN UNKNOWN - {server} answers strangely: {error}")
    else:
        limits = Limits(warn_queued, max_queued, min_workers)
        verdict = judge(found, names, limits, seconds=time.monotonic() - start)
    if as_json:
        Output(as_json).document({"level": verdict.level.name, "line": verdict.line})
    else:
        click.echo(verdict.line)
    sys.exit(verdict.level)

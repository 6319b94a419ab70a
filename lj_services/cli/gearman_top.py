"""``lj gearman top``: the functions of Gearman servers, longest queues first, time and again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import click
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lj_services.cli.gearman_options import servers_option
from lj_services.cli.output import CommandError, Output, json_option
from lj_services.daemon import ExitCode, HostPort
from lj_services.gearman.admin_client import AdminClient, AdminRefused

COLUMNS = ("function", "queued", "running", "workers", "idle", "change_per_s")
"""What is shown of a function; queued: by no worker; idle: workers without a job of it."""

Look = tuple[list[dict[str, Any]], dict[str, str]]
"""Rows, one for each function; and server -> why it can't be asked."""
Totals = Mapping[str, int]


def look(servers: Sequence[HostPort]) -> Look:
    """Ask all servers for their functions.

    Functions are summed up over the servers.
    """
    found: dict[str, dict[str, Any]] = {}
    away: dict[str, str] = {}
    for server in servers:
        try:
            with AdminClient(server) as client:
                rows = client.status()
        except (OSError, AdminRefused) as error:
            away[str(server)] = str(error)
            continue
        for row in rows:
            sums = found.setdefault(
                row.function, {"function": row.function, "queued": 0, "running": 0, "workers": 0}
            )
            sums["queued"] += row.total - row.running
            sums["running"] += row.running
            sums["workers"] += row.workers
    for sums in found.values():
        sums["idle"] = max(0, sums["workers"] - sums["running"])
    return list(found.values()), away


def ranked(rows: list[dict[str, Any]], before: Totals | None, seconds: float) -> None:
    """Say how fast queues grow, and put the longest first.

    Args:
        rows: of `look`; changed in place.
        before: function -> how many were queued at the last look; None: there was none.
        seconds: since then.
    """
    for row in rows:
        change = None
        if before is not None:
            change = round((row["queued"] - before.get(row["function"], 0)) / seconds, 1)
        row["change_per_s"] = change
    rows.sort(key=lambda row: (-row["queued"], -row["running"], row["function"]))


def looks(servers: Sequence[HostPort], interval_s: float, count: int) -> Iterator[Look]:
    """Look again and again: rows, and servers that can't be asked."""
    before: Totals | None = None
    last = 0.0
    number = 0
    while True:
        now = time.monotonic()
        rows, away = look(servers)
        ranked(rows, before, max(now - last, 0.001))
        before, last = {row["function"]: row["queued"] for row in rows}, now
        yield rows, away
        number += 1
        if number == count:
            return
        time.sleep(max(0.0, now + interval_s - time.monotonic()))


def _table(rows: Sequence[Mapping[str, Any]], away: Mapping[str, str], height: int) -> Table:
    table = Table(title=time.strftime("%H:%M:%S"), title_justify="left", box=None)
    for column in COLUMNS:
        table.add_column(
            column.replace("_", " "), justify="left" if column == COLUMNS[0] else "right"
        )
    for row in rows[: max(1, height - 4 - len(away))]:
        style = "bold red" if row["queued"] and not row["workers"] else ""
        table.add_row(*(_shown(row[column]) for column in COLUMNS), style=style)
    for server, why in away.items():
        table.add_row(Text(f"{server}: {why}"), style="red")
    return table


def _shown(value: Any) -> Text:
    return Text("" if value is None else f"{value:+}" if isinstance(value, float) else str(value))


@click.command()
@servers_option
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks.",
)
@click.option("--count", type=click.IntRange(0), default=0, help="Looks, then end; 0: go on.")
@json_option
def top(servers: Sequence[HostPort], interval_s: float, count: int, as_json: bool) -> None:
    """Watch the functions: the longest queues first, red those that nobody works on.

    Sums over all servers.  With --json each look is a document.  End it with Ctrl-C.
    """
    out = Output(as_json)
    live = not as_json and out.console.is_terminal
    away: Mapping[str, str] = {}
    with (
        Live(console=out.console, auto_refresh=False, screen=not count)
        if live
        else nullcontext() as screen,
        suppress(KeyboardInterrupt),
    ):
        for rows, away in looks(servers, interval_s, count):
            if screen is not None:
                screen.update(_table(rows, away, out.console.height), refresh=True)
            elif as_json:
                out.document({"functions": rows, "unreachable": away})
            else:
                out.table(COLUMNS, rows)
                for server, why in away.items():
                    out.say(f"{server}: {why}")
    if len(away) == len(servers):
        raise CommandError(
            "no Gearman server can be asked; name them with --server", ExitCode.UNREACHABLE
        )

"""``lj moves``: what is being moved, what was, and what went wrong."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import click
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lj_services.cli.errors import told
from lj_services.cli.moving import make_worker, record, rows_done, run_here
from lj_services.cli.output import Output, json_option
from lj_services.cli.site import Site, pass_site
from lj_services.usercluster.mover import Move, Moves
from lj_services.usercluster.mover.tables import CANCELLED

COLUMNS = ["move", "userid", "from", "to", "state", "rows", "of", "held_ms", "attempts", "error"]


@click.group()
def command() -> None:
    """Moves of users between clusters."""


@command.command("list")
@click.option("--all", "everything", is_flag=True, help="Also those that are over.")
@click.option("--user", "userid", type=int, metavar="USERID", help="Only this user's.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@click.option("--watch", is_flag=True, help="Keep showing them, with rates and time left.")
@json_option
@pass_site
@told()
def list_command(
    site: Site, everything: bool, userid: int | None, limit: int, watch: bool, as_json: bool
) -> None:
    """List moves, the newest first."""
    moves = Moves(site.databases)
    active = None if everything else True
    out = Output(as_json)
    if watch and not as_json:
        _watch(out, moves, active, userid, limit)
        return
    found = moves.list(userid=userid, active=active, limit=limit)
    out.table(COLUMNS, [record(move) for move in found])


def _watch(out: Output, moves: Moves, active: bool | None, userid: int | None, limit: int) -> None:
    before: dict[int, tuple[float, int]] = {}
    with Live(console=out.console, auto_refresh=False) as live:
        while True:
            now = time.monotonic()
            table = Table(header_style="bold", box=None)
            for name in ("move", "userid", "from", "to", "state", "rows", "rate", "left"):
                table.add_column(name)
            for move in moves.list(userid=userid, active=active, limit=limit):
                done, total = rows_done(move), move.progress.get("total")
                then, had = before.get(move.move_id, (now, done))
                rate = (done - had) / (now - then) if now > then and done >= had else 0.0
                before[move.move_id] = (now, done)
                left = f"{(total - done) / rate:.0f} s" if total and rate > 0 else ""
                table.add_row(
                    *(
                        Text(str(cell))
                        for cell in (
                            move.move_id,
                            move.userid,
                            move.src,
                            move.dst,
                            move.state,
                            f"{done} of {total}" if total is not None else "",
                            f"{rate:,.0f}/s" if rate else "",
                            left,
                        )
                    )
                )
            live.update(table, refresh=True)
            time.sleep(1.0)


@command.command()
@click.argument("move_id", metavar="MOVE", type=int)
@json_option
@pass_site
@told()
def show(site: Site, move_id: int, as_json: bool) -> None:
    """Show one move and everything that happened in it."""
    moves = Moves(site.databases)
    move, events = moves.get(move_id), moves.events(move_id)
    out = Output(as_json)
    told_of = [{"at": e.at / 1000, "state": e.state, "message": e.message} for e in events]
    if as_json:
        out.document({**record(move), "events": told_of})
        return
    out.record(record(move))
    out.table(
        ["at", "state", "message"],
        [{**event, "at": _clock(event["at"])} for event in told_of],
    )


def _clock(seconds: object) -> str:
    return datetime.fromtimestamp(float(str(seconds)), UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


@command.command()
@click.argument("move_id", metavar="MOVE", type=int)
@json_option
@pass_site
@told()
def cancel(site: Site, move_id: int, as_json: bool) -> None:
    """Undo a move that is before its cut-over; the user stays where they are.

    The worker that has it does so at its next step; without one it is done here.
    """
    worker = make_worker(site)
    move = worker.moves.end(move_id, CANCELLED, "by an operator")
    if move.owner is None and not worker.others():
        move = run_here(worker, move, None)
    Output(as_json).record(record(move))


@command.command()
@click.argument("move_id", metavar="MOVE", type=int)
@json_option
@pass_site
@told()
def retry(site: Site, move_id: int, as_json: bool) -> None:
    """Take up a waiting move now; ask again for one that failed or was cancelled."""
    move: Move = Moves(site.databases).retry(move_id)
    Output(as_json).record(record(move))

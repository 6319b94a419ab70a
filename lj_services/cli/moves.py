"""``lj moves``: what is being moved, what was, and what went wrong."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import click
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lj_services.cli.errors import told
from lj_services.cli.moving import (
    clock,
    make_worker,
    move_of,
    names,
    print_move,
    record,
    rows_done,
    run_here,
)
from lj_services.cli.output import CommandError, Output, json_option
from lj_services.cli.site import Site, pass_site
from lj_services.daemon import ExitCode
from lj_services.database import DatabaseError
from lj_services.usercluster import NoCluster
from lj_services.usercluster.coordinator import CoordinatorError, orders
from lj_services.usercluster.coordinator.client import Client, find, poke
from lj_services.usercluster.coordinator.jobs import scope as read_scope
from lj_services.usercluster.coordinator.protocol import BadRequest, tokens
from lj_services.usercluster.mover import Move, MoveRefused, Moves
from lj_services.usercluster.mover.tables import BEFORE_COMMIT, CANCELLED, FAILED

COLUMNS = ["move", "user", "from", "to", "state", "rows", "of", "held_ms", "attempts", "error"]
EVERY_S = 1.0

dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Change nothing, only tell what would be done."
)


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Moves of users between clusters.

    Without a command: those under way, on a terminal as a table that keeps up.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command, watch=sys.stdout.isatty(), as_json=as_json)
    elif as_json:
        raise click.UsageError(f"write --json after {ctx.invoked_subcommand}")


@command.command("list")
@click.option("--all", "everything", is_flag=True, help="Also those that are over.")
@click.option("--user", "who", metavar="WHO", help="Only this user's: a name, or #USERID.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@click.option("--watch", is_flag=True, help="Keep showing them, with rates and time left.")
@json_option
@pass_site
@told()
def list_command(
    site: Site,
    everything: bool = False,
    who: str | None = None,
    limit: int = 50,
    watch: bool = False,
    as_json: bool = False,
) -> None:
    """List moves, the newest first; where a coordinator runs, with why each waits."""
    moves = Moves(site.databases)
    active = None if everything else True
    userid = None if who is None else site.look_up(who).userid
    out = Output(as_json)
    view = View(site)
    if watch and not as_json:
        _watch(out, site, view, active, userid, limit)
        return
    found = moves.list(userid=userid, active=active, limit=limit)
    seen = view.look(limit) or {}
    known = names(site, found)
    rows = [
        {**record(move, known.get(move.userid)), **_from_coordinator(seen.get(move.move_id))}
        for move in found
    ]
    out.table([*COLUMNS, "why"] if seen else COLUMNS, rows)


class View:
    """What the coordinator says of the moves; nothing, where there is none.

    Args:
        site: whose.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._client: Client | None = None
        self._not_before = 0.0

    def look(self, limit: int) -> dict[int, dict[str, str]] | None:
        """Move -> its facts (see `listing.line`); None: no coordinator answers."""
        if time.monotonic() < self._not_before:
            return None
        try:
            if self._client is None:
                address = find(self._site.databases)
                if address is None:
                    self._not_before = time.monotonic() + 5.0
                    return None
                self._client = Client(address, timeout_s=5.0)
            found = {}
            for line in self._client.call("list_jobs", limit=limit * 2).lines:
                words, facts = tokens(line)
                found[int(words[0])] = facts
            return found
        except (CoordinatorError, DatabaseError, BadRequest, IndexError, ValueError):
            self._client = None
            self._not_before = time.monotonic() + 5.0
            return None


def _from_coordinator(facts: Mapping[str, str] | None) -> dict[str, Any]:
    """What a record gains when a coordinator runs."""
    if facts is None:
        return {}
    found: dict[str, Any] = {"why": facts.get("why")}
    for name in ("speed", "behind", "eta_s", "priority"):
        value = facts.get(name, "-")
        found[name] = None if value == "-" else int(value)
    return found


def _watch(
    out: Output, site: Site, view: View, active: bool | None, userid: int | None, limit: int
) -> None:
    moves = Moves(site.databases)
    before: dict[int, tuple[float, int]] = {}
    with Live(console=out.console, auto_refresh=False) as live:
        while True:
            try:
                found = moves.list(userid=userid, active=active, limit=limit)
                table = _table(found, names(site, found), view.look(limit), before)
                live.update(table, refresh=True)
            except DatabaseError as error:
                live.update(Text(str(error), style="red"), refresh=True)
            time.sleep(EVERY_S)


def _table(
    found: list[Move],
    known: Mapping[int, str],
    seen: Mapping[int, Mapping[str, str]] | None,
    before: dict[int, tuple[float, int]],
) -> Table:
    """The live table; `before` remembers rows and times of the last one, for rates."""
    now = time.monotonic()
    table = Table(
        header_style="bold",
        box=None,
        caption=f"{len(found)} moves" + ("; no coordinator" if seen is None else ""),
    )
    for name in ("move", "user", "from", "to", "phase", "rows", "rate", "lag", "ETA", "why"):
        table.add_column(
            name, justify="right" if name in ("rows", "rate", "lag", "ETA") else "left"
        )
    for move in found:
        facts = _from_coordinator((seen or {}).get(move.move_id))
        done, total = rows_done(move), move.progress.get("total")
        then, had = before.get(move.move_id, (now, done))
        rate = facts.get("speed") or 0.0
        if not facts and now > then and done >= had:
            rate = (done - had) / (now - then)
        before[move.move_id] = (now, done)
        left = facts.get("eta_s")
        if not facts and total and rate > 0:
            left = (total - done) / rate
        behind = facts.get("behind", move.progress.get("behind"))
        cells = (
            move.move_id,
            known.get(move.userid, f"#{move.userid}"),
            move.src,
            move.dst,
            record(move, None)["state"],
            f"{done:,} of {total:,}" if total is not None else "",
            f"{rate:,.0f}/s" if rate else "",
            f"{behind} rows" if behind else "",
            f"{left:,.0f} s" if left is not None else "",
            facts.get("why") or move.error or "",
        )
        table.add_row(*(Text(str(cell)) for cell in cells))
    return table


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
    seen = {} if move.final else _from_coordinator((View(site).look(10_000) or {}).get(move_id))
    if as_json:
        out.document({**move_of(site, move), **seen, "events": told_of})
        return
    print_move(out, site, move, **seen)
    out.table(
        ["at", "state", "message"],
        [{**event, "at": clock(event["at"])} for event in told_of],
    )


@command.command()
@click.argument("move_id", metavar="MOVE", type=int)
@dry_run_option
@json_option
@pass_site
@told()
def cancel(site: Site, move_id: int, dry_run: bool, as_json: bool) -> None:
    """Undo a move that is before its cut-over; the user stays where they are.

    The worker that has it does so at its next step; without one it is done here.
    """
    worker = make_worker(site)
    move = worker.moves.get(move_id)
    if dry_run:
        if move.state not in BEFORE_COMMIT:
            raise MoveRefused(f"{move} is {move.state}: it can't be cancelled now")
        print_move(Output(as_json), site, move)
        return
    move = worker.moves.end(move_id, CANCELLED, "by an operator")
    if not poke(site.databases) and move.owner is None and not worker.presence.others():
        move = run_here(worker, move, None)
    print_move(Output(as_json), site, move)


@command.command()
@click.argument("move_id", metavar="MOVE", type=int)
@dry_run_option
@json_option
@pass_site
@told()
def retry(site: Site, move_id: int, dry_run: bool, as_json: bool) -> None:
    """Take up a waiting move now; ask again for one that failed or was cancelled."""
    moves = Moves(site.databases)
    if dry_run:
        move = moves.to_retry(move_id)
        if move.state in (FAILED, CANCELLED):
            moves.check(site.look_up(f"#{move.userid}"), move.dst)
    else:
        move = moves.retry(move_id)
        poke(site.databases)
    print_move(Output(as_json), site, move)


@command.command()
@click.argument("move_id", metavar="MOVE", type=int)
@click.argument("priority", type=click.IntRange(-1_000_000, 1_000_000))
@dry_run_option
@json_option
@pass_site
@told()
def priority(site: Site, move_id: int, priority: int, dry_run: bool, as_json: bool) -> None:
    """Let MOVE go before those with a lower PRIORITY."""
    move = orders.set_priority(site.databases, move_id, priority, dry_run=dry_run)
    if not dry_run:
        poke(site.databases)
    print_move(Output(as_json), site, move, priority=priority)


@command.command()
@click.argument("scope", default="all")
@click.option("--why", default="by an operator", show_default=True, help="For those who wonder.")
@dry_run_option
@json_option
@pass_site
@told()
def pause(site: Site, scope: str, why: str, dry_run: bool, as_json: bool) -> None:
    """Begin no move in SCOPE, and hand back those that run there.

    SCOPE is all, src:CLUSTER (moves from it, and purges there), dst:CLUSTER (moves to it) or a
    move's number.  What was copied stays, and moves go on from there.  The coordinator sees to
    it; a pause outlives it, and holds until `resume`.
    """
    _order(site, scope, Output(as_json), why=why, dry_run=dry_run)


@command.command()
@click.argument("scope", default="all")
@dry_run_option
@json_option
@pass_site
@told()
def resume(site: Site, scope: str, dry_run: bool, as_json: bool) -> None:
    """Let moves in SCOPE go on; other pauses still hold.  SCOPE: as for pause."""
    _order(site, scope, Output(as_json), why=None, dry_run=dry_run)


@command.command()
@json_option
@pass_site
@told()
def pauses(site: Site, as_json: bool) -> None:
    """List what is paused, and why."""
    found = orders.orders(site.databases).pauses
    Output(as_json).table(
        ["scope", "why"], [{"scope": what, "why": why} for what, why in sorted(found.items())]
    )


def _order(site: Site, text: str, out: Output, *, why: str | None, dry_run: bool) -> None:
    try:
        what = read_scope(text)
    except ValueError as error:
        raise CommandError(str(error), ExitCode.USAGE) from None
    kind, _, number = what.partition(":")
    if kind in ("src", "dst") and int(number) not in site.databases.clusters():
        known = ", ".join(map(str, site.databases.clusters())) or "none"
        raise NoCluster(f"there is no cluster {number}; there are: {known}")
    if kind == "move":
        Moves(site.databases).get(int(number))
    was = orders.orders(site.databases).pauses.get(what)
    answers = False
    if not dry_run:
        if why is not None:
            orders.pause(site.databases, what, why)
        else:
            orders.resume(site.databases, what)
        answers = poke(site.databases)
    if not dry_run and not answers:
        out.say("No coordinator runs: it holds for the next one; workers --alone do not heed it.")
    out.record({"scope": what, "paused": why, "was": was, "coordinator": answers})

"""What ``lj users move``, ``lj moves`` and ``lj mover`` share: a worker, progress, sentences."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from sqlalchemy import select

from lj_services.cli.output import CommandError, Output
from lj_services.cli.site import Site
from lj_services.daemon import ExitCode
from lj_services.usercluster.mover import ClaimLost, Move, Worker
from lj_services.usercluster.mover.tables import AFTER_COMMIT, FAILED, VERIFYING
from lj_services.usercluster.tables import user

POLL_S = 0.2


def make_worker(site: Site) -> Worker:
    """A worker of the site in this process.

    Raises:
        ConfigError: the site file's grace time is too short.
    """
    # Whoever keeps tables declares their numberspaces when they are imported.
    importlib.import_module("lj_services.cli.db")
    settings = site.settings
    return Worker(site.databases, site.users, settings.mover, settings.users)


def settled(move: Move) -> bool:
    """Whether somebody who waits for a move need not wait any longer."""
    return move.final or move.state in AFTER_COMMIT


def run_here(worker: Worker, move: Move, shown: Progress | None) -> Move:
    """Work on a move in this process until it is settled, through every attempt."""
    with _bar(shown) as tick:
        while not settled(move):
            try:
                move = worker.run(worker.moves.claim(move, worker.name, 15.0), tick)
            except ClaimLost:
                time.sleep(POLL_S)
                move = worker.moves.get(move.move_id)
    return move


def follow(worker: Worker, move: Move, shown: Progress | None) -> Move:
    """Wait until another worker has settled a move."""
    with _bar(shown) as tick:
        while not settled(move):
            time.sleep(POLL_S)
            move = worker.moves.get(move.move_id)
            tick(move)
    return move


def progress_on(console: Console) -> Progress:
    """A progress line: phase, rows, rate, time left."""
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows, {task.fields[rate]} rows/s"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


@contextmanager
def _bar(shown: Progress | None) -> Iterator[Any]:
    if shown is None:
        yield lambda _move: None
        return
    with shown:
        task = shown.add_task("queued", total=None, rate="-")

        def tick(move: Move) -> None:
            done = rows_done(move)
            shown.update(
                task,
                description=move.state,
                completed=done,
                total=move.progress.get("total"),
            )
            speed = shown.tasks[0].speed
            shown.update(task, rate=f"{speed:,.0f}" if speed else "-")

        yield tick


def rows_done(move: Move) -> int:
    """How many rows the present phase has worked off."""
    return int(move.progress.get("verified" if move.state == VERIFYING else "rows", 0))


def names(site: Site, moves: Iterable[Move]) -> dict[int, str]:
    """Userid -> name, of those who move.

    Raises:
        DatabaseError: ``global`` can't be reached.
    """
    userids = {move.userid for move in moves}
    with site.databases.read("global") as connection:
        rows = connection.execute(
            select(user.c.userid, user.c.name).where(user.c.userid.in_(userids))
        ).all()
    return {int(row.userid): str(row.name) for row in rows}


def record(move: Move, name: str | None) -> dict[str, Any]:
    """A move of the user `name` as people and machines read it; times in seconds since 1970."""

    def seconds(at: int | None) -> float | None:
        return None if at is None else at / 1000

    return {
        "move": move.move_id,
        "user": name,
        "userid": move.userid,
        "from": move.src,
        "to": move.dst,
        "state": move.state if move.ending is None or move.final else f"{move.state}, undoing",
        "rows": rows_done(move),
        "of": move.progress.get("total"),
        "held_ms": None if move.freeze_us is None else round(move.freeze_us / 1000, 1),
        "priority": move.priority,
        "attempts": move.attempts,
        "worker": move.owner,
        "error": move.error,
        "created": seconds(move.created_at),
        "switched": seconds(move.switched_at),
        "finished": seconds(move.finished_at),
    }


def move_of(site: Site, move: Move) -> dict[str, Any]:
    """As `record`, with the name that `global` knows."""
    return record(move, names(site, [move]).get(move.userid))


def print_move(out: Output, site: Site, move: Move, **more: Any) -> None:
    """Print a move, and what else is known of it; times as people read them."""
    values = {**move_of(site, move), **more}
    if not out.as_json:
        for name in ("created", "switched", "finished"):
            if values[name] is not None:
                values[name] = clock(values[name])
    out.record(values)


def clock(seconds: object) -> str:
    """A moment in UTC, to the millisecond.

    Args:
        seconds: since 1970.
    """
    return datetime.fromtimestamp(float(str(seconds)), UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def refuse_unsettled(move: Move) -> None:
    """Turn a move that did not reach the destination into the command's failure.

    Raises:
        CommandError: it failed or was cancelled.
    """
    if move.state in AFTER_COMMIT or move.switched_at is not None:
        return
    code = ExitCode.REFUSED if move.state == FAILED else ExitCode.FAILED
    raise CommandError(f"move {move.move_id} {move.state}: {move.error}", code)

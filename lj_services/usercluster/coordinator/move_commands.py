"""What operators ask about moves, and do to them."""

from __future__ import annotations

import time
from collections import Counter
from typing import Final

from lj_services.usercluster.coordinator import listing, orders
from lj_services.usercluster.coordinator.console import Console, Session
from lj_services.usercluster.coordinator.protocol import (
    BadRequest,
    Reply,
    Request,
    named,
    tokens,
    whole,
)
from lj_services.usercluster.errors import UserClusterError
from lj_services.usercluster.mover import MoveRefused
from lj_services.usercluster.mover.tables import BEFORE_COMMIT, CANCELLED, QUEUED

LATELY_S: Final = 360.0
"""What ``move_stats`` looks back on, as LiveJournal's did."""


async def add_jobs(console: Console, _session: Session, request: Request) -> Reply:
    """UID:SRC:DST [priority=N] [, ...]: ask for moves; a line for each"""
    asked = []
    for piece in request.rest.split(","):
        words, fields = tokens(piece)
        if len(words) != 1 or set(fields) - {"priority"}:
            raise BadRequest(f"add_jobs: {piece.strip()[:60]!r} is no UID:SRC:DST [priority=N]")
        numbers = words[0].split(":")
        if len(numbers) != 3:
            raise BadRequest(f"add_jobs: {words[0][:60]!r} is no UID:SRC:DST")
        userid, src, dst = (whole(text, "add_jobs: each", 1) for text in numbers)
        asked.append((userid, src, dst, _priority(fields.get("priority", "0"))))
    lines = []
    for userid, src, dst, priority in asked:
        try:
            move = await console.coordinator.thread(_add, console, userid, src, dst, priority)
            lines.append(f"Added job {move} for userid {userid}")
        except UserClusterError as error:
            lines.append(f"Refused userid {userid}: {error}")
    await console.coordinator.refresh()
    return Reply(lines=tuple(lines))


def _add(console: Console, userid: int, src: int, dst: int, priority: int) -> int:
    moves = console.coordinator.desk.moves
    home = moves.home(userid)
    if home is not None and home[0] != src:
        raise MoveRefused(f"lives on cluster {home[0]}, not {src}")
    return moves.enqueue(userid, dst, priority=priority).move_id


async def list_jobs(console: Console, _session: Session, request: Request) -> Reply:
    """[running|waiting] [limit=N]: the moves, and why each is where it is"""
    limit = whole(request.fields.get("limit", "1000"), "list_jobs: limit", 1)
    which = request.words[0] if request.words else "all"
    if which not in ("all", "running", "waiting"):
        raise BadRequest("list_jobs: running, waiting, or nothing")
    return Reply(lines=tuple(listing.moves(console.coordinator, which, limit)))


async def show(console: Console, _session: Session, request: Request) -> Reply:
    """MOVE: one move, and why it is where it is"""
    number = whole(request.word(0, "MOVE"), "show: MOVE", 1)
    job = await console.coordinator.refresh_one(number)
    if job is None:
        raise BadRequest(f"there is no move {number}", "unknown")
    return Reply(listing.line(console.coordinator, job))


async def is_moving(console: Console, _session: Session, request: Request) -> Reply:
    """UID: 1 if the user is being moved, else 0"""
    userid = whole(request.word(0, "UID"), "is_moving: UID", 1)
    found = await console.coordinator.thread(
        console.coordinator.desk.moves.list, userid=userid, states=BEFORE_COMMIT
    )
    return Reply(str(int(bool(found))))


async def source_counts(console: Console, _session: Session, _request: Request) -> Reply:
    """for each source: how many moves wait and run, and what holds them up"""
    return Reply(lines=tuple(listing.sources(console.coordinator)))


async def recent_moves(console: Console, _session: Session, request: Request) -> Reply:
    """[N]: the last cut-overs, and how long each user was held"""
    limit = whole(request.words[0] if request.words else "20", "recent_moves: N", 1)
    lines = await console.coordinator.thread(
        listing.recent, console.coordinator.desk.databases, min(limit, 1000)
    )
    return Reply(lines=tuple(lines))


async def move_stats(console: Console, _session: Session, _request: Request) -> Reply:
    """what became of the moves of the last 360 s"""
    since = time.monotonic() - LATELY_S
    states = Counter(state for at, state in console.coordinator.finished if at >= since)
    rows = sum(progress.speed for progress in console.coordinator.progress.values())
    held = await console.coordinator.thread(
        listing.held, console.coordinator.desk.databases, round(LATELY_S * 1000)
    )
    lines = [
        named(given_back=sum(states.values()), per_minute=f"{sum(states.values()) / 6:.1f}"),
        *(named(state=state, count=count) for state, count in sorted(states.items())),
        named(rows_s_now=round(rows)),
        held,
    ]
    return Reply(lines=tuple(lines))


async def cancel(console: Console, _session: Session, request: Request) -> Reply:
    """MOVE: undo a move that is before its cut-over"""
    number = whole(request.word(0, "MOVE"), "cancel: MOVE", 1)
    why = request.fields.get("why", "by an operator")
    move = await console.coordinator.thread(
        console.coordinator.desk.moves.end, number, CANCELLED, why
    )
    await console.coordinator.refresh_one(number)
    return Reply(named(move=number, state=move.state, ending=move.ending))


async def retry(console: Console, _session: Session, request: Request) -> Reply:
    """MOVE: take up a waiting move now; ask again for one that failed"""
    number = whole(request.word(0, "MOVE"), "retry: MOVE", 1)
    move = await console.coordinator.thread(console.coordinator.desk.moves.retry, number)
    await console.coordinator.refresh_one(move.move_id)
    return Reply(named(move=move.move_id, state=move.state))


async def priority(console: Console, _session: Session, request: Request) -> Reply:
    """MOVE N: higher goes first"""
    number = whole(request.word(0, "MOVE"), "priority: MOVE", 1)
    value = _priority(request.word(1, "N"))
    databases = console.coordinator.desk.databases
    await console.coordinator.thread(orders.set_priority, databases, number, value)
    await console.coordinator.refresh_one(number)
    return Reply(named(move=number, priority=value))


async def stop_moves(console: Console, _session: Session, request: Request) -> Reply:
    """[all]: cancel what waits (all: also what runs, as far as it is before its cut-over)"""
    everything = request.words == ("all",)
    if request.words and not everything:
        raise BadRequest("stop_moves: all, or nothing")
    count = 0
    for job in list(console.coordinator.schedule.jobs.values()):
        runs = job.move_id in console.coordinator.schedule.running
        if job.state in BEFORE_COMMIT and (everything or (job.state == QUEUED and not runs)):
            try:
                await console.coordinator.thread(
                    console.coordinator.desk.moves.end, job.move_id, CANCELLED, "stop_moves"
                )
                count += 1
            except MoveRefused:
                continue  # it was quicker
    await console.coordinator.refresh()
    return Reply(f"{count} moves to be cancelled")


def _priority(text: str) -> int:
    value = whole(text, "priority", -1_000_000)
    if value > 1_000_000:
        raise BadRequest("priority: -1000000 to 1000000")
    return value


COMMANDS: Final = (
    add_jobs,
    list_jobs,
    show,
    is_moving,
    source_counts,
    recent_moves,
    move_stats,
    cancel,
    retry,
    priority,
    stop_moves,
)

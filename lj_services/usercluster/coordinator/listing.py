"""How moves are told of: a line for each, as ``name=value``."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from statistics import median

from sqlalchemy import select

from lj_services.database import Databases
from lj_services.usercluster.coordinator.core import Coordinator
from lj_services.usercluster.coordinator.jobs import Job, Kind
from lj_services.usercluster.coordinator.protocol import named
from lj_services.usercluster.mover.tables import now_ms, user_move


def line(coordinator: Coordinator, job: Job) -> str:
    """One move."""
    schedule = coordinator.schedule
    progress = coordinator.progress.get(job.move_id)
    worker = schedule.running.get(job.move_id)
    facts: dict[str, object] = {
        "user": job.userid,
        "from_": job.src,
        "to": job.dst,
        "state": progress.state if progress else job.state,
        "priority": job.priority,
        "worker": worker,
    }
    if progress is not None:
        left = max(0, (progress.total or 0) - progress.rows)
        facts.update(
            rows=progress.rows,
            total=progress.total,
            speed=round(progress.speed),
            behind=progress.behind,
            eta_s=round(left / progress.speed) if progress.total and progress.speed else None,
        )
    if job.ending is not None:
        facts["ending"] = job.ending
    over = job.state if job.final else None
    facts["why"] = over or schedule.why(job.move_id, coordinator.now())
    return f"{job.move_id} {named(**facts)}"


def moves(coordinator: Coordinator, which: str, limit: int) -> Iterator[str]:
    """Moves, those that run first, then in the order in which they would go."""
    schedule = coordinator.schedule
    running = sorted(schedule.running)
    waiting = sorted(
        (job for number, job in schedule.jobs.items() if number not in schedule.running),
        key=lambda job: (-job.priority, job.move_id),
    )
    chosen: list[Job] = []
    if which != "waiting":
        chosen += [schedule.jobs[number] for number in running]
    if which != "running":
        chosen += waiting
    for job in chosen[:limit]:
        yield line(coordinator, job)


def sources(coordinator: Coordinator) -> Iterator[str]:
    """Each source: what waits and runs there, and what holds the first one up."""
    schedule = coordinator.schedule
    waiting = schedule.waiting()
    first: dict[int, Job] = {}
    for job in schedule.jobs.values():
        if job.move_id not in schedule.running:
            head = first.get(job.src)
            if head is None or (-job.priority, job.move_id) < (-head.priority, head.move_id):
                first[job.src] = job
    for cluster in coordinator.desk.databases.clusters():
        facts: dict[str, object] = {
            str(kind): count for (src, kind), count in waiting.items() if src == cluster
        }
        why = schedule.why(first[cluster].move_id, coordinator.now()) if cluster in first else "-"
        yield f"{cluster} " + named(
            waiting=facts.get(Kind.MOVE, 0),
            running=schedule.running_on("src", cluster),
            purges=facts.get(Kind.PURGE, 0),
            why=why,
        )


def condition(coordinator: Coordinator, cluster: int) -> str:
    """How loaded a cluster is, as far as anybody tells."""
    found = coordinator.schedule.conditions.get(cluster)
    if found is None:
        return named(lag_now=None, busy_now=None)
    lag = "unknown" if found.lag_why is not None else found.lag_s
    return named(lag_now=lag, busy_now=None if found.busy is None else f"{found.busy:.2f}")


def recent(databases: Databases, limit: int) -> list[str]:
    """The last cut-overs, the newest first."""
    columns = user_move.c
    with databases.read("global", definitive=True) as connection:
        rows = connection.execute(
            select(
                columns.move_id,
                columns.userid,
                columns.src,
                columns.dst,
                columns.state,
                columns.freeze_us,
                columns.started_at,
                columns.switched_at,
            )
            .where(columns.switched_at.is_not(None))
            .order_by(columns.move_id.desc())
            .limit(limit)
        ).all()
    return [
        f"{row.move_id} "
        + named(
            user=row.userid,
            from_=row.src,
            to=row.dst,
            state=row.state,
            held_ms=None if row.freeze_us is None else f"{row.freeze_us / 1000:.1f}",
            took_s=None
            if row.started_at is None
            else f"{(row.switched_at - row.started_at) / 1000:.1f}",
            at=f"{datetime.fromtimestamp(row.switched_at / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}",
        )
        for row in rows
    ]


def held(databases: Databases, within_ms: int) -> str:
    """How long users were held in the last cut-overs."""
    columns = user_move.c
    with databases.read("global", definitive=True) as connection:
        times = [
            int(freeze_us) / 1000
            for freeze_us in connection.scalars(
                select(columns.freeze_us)
                .where(columns.switched_at > now_ms() - within_ms, columns.freeze_us.is_not(None))
                .limit(10_000)
            )
        ]
    if not times:
        return named(cut_overs=0)
    return named(
        cut_overs=len(times),
        held_ms_median=f"{median(times):.1f}",
        held_ms_longest=f"{max(times):.1f}",
    )

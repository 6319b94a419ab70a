"""``lj balance run`` and ``lj balance drain``: plans become moves."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lj_services.cli.balance_inputs import as_draining, balance_told, known_clusters, write_plan
from lj_services.cli.output import CommandError, Output, json_option
from lj_services.cli.site import Site, pass_site
from lj_services.daemon import ExitCode
from lj_services.usercluster.balance import plan_file
from lj_services.usercluster.balance.loading import load_snapshot
from lj_services.usercluster.balance.plan import Move, Why
from lj_services.usercluster.balance.planner import make_plan
from lj_services.usercluster.balance.rules import ClusterState
from lj_services.usercluster.balance.survey import survey
from lj_services.usercluster.coordinator.client import poke
from lj_services.usercluster.coordinator.feeding import Fed, feed

MOST_NAMED = 1000
"""Lines of a plan that were not followed are named one by one up to here."""

priority_option = click.option(
    "--priority",
    type=click.IntRange(-1_000_000, 1_000_000),
    default=0,
    show_default=True,
    help="Higher goes first.",
)
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Change nothing, only tell what would be done."
)


@click.command("run")
@click.argument("file", type=click.Path(path_type=Path))
@priority_option
@dry_run_option
@json_option
@pass_site
def run_command(site: Site, file: Path, priority: int, dry_run: bool, as_json: bool) -> None:
    """Have the plan in FILE carried out: queue its moves, in its order.

    The coordinator gives them to the workers; watch them with `lj moves`.  It may be repeated:
    who is there already, or on the way, is left alone.  Exit code 2 if anything in FILE is
    wrong (then nothing is queued), 5 if some of its lines can't be followed any more.
    """
    with balance_told():
        found = plan_file.read_file(file)
        found.check({n: site.settings.users.cluster(n).state for n in site.databases.clusters()})
        _feed(site, found.moves, Output(as_json), priority=priority, dry_run=dry_run)


@click.command("drain")
@click.argument("cluster", type=int)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write the plan.")
@priority_option
@dry_run_option
@json_option
@pass_site
def drain_command(
    site: Site, cluster: int, out: Path | None, priority: int, dry_run: bool, as_json: bool
) -> None:
    """Empty CLUSTER, for maintenance: survey it, plan, and queue the moves of all its users.

    Where they go follows from the targets of `plan`; pinned users stay.  Set its state to
    draining in the site file first, so that no new users come.
    """
    output = Output(as_json)
    with balance_told():
        known_clusters(site, [cluster])
        settings = as_draining(site.settings.users, [cluster])
        if not dry_run:
            survey(site.databases, cluster, settings.survey)
        plan = make_plan(load_snapshot(site.databases, settings), settings.balance)
        moves = [move for move in plan.moves if move.src == cluster and move.why is Why.DRAIN]
        if out is not None:
            write_plan(out, plan)
        for problem in plan.problems:
            Console(stderr=True, soft_wrap=True).print(f"NOT REACHED: {problem}", markup=False)
        if site.settings.users.cluster(cluster).state is not ClusterState.DRAINING:
            output.say(
                f"New users may still come to cluster {cluster}: the site file does not say "
                f'users.clusters.{cluster}.state = "draining".'
            )
        _feed(site, moves, output, priority=priority, dry_run=dry_run)


def _feed(site: Site, moves: Sequence[Move], out: Output, *, priority: int, dry_run: bool) -> None:
    """Queue moves, and tell what became of them.

    Raises:
        CommandError: some could not be queued.
    """
    counts: Counter[tuple[int, int]] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    left: list[Fed] = []
    with Progress(
        TextColumn("queued"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=out.as_json or not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task("", total=len(moves))
        for fed in feed(site.databases, moves, priority=priority, dry_run=dry_run):
            bar.advance(task)
            way = (fed.planned.src, fed.planned.dst)
            if fed.why_not is None:
                counts[way] += 1
                sizes[way] += fed.planned.size
            else:
                left.append(fed)
    coordinator = not dry_run and poke(site.databases)
    _tell(out, counts, sizes, left, coordinator=coordinator, dry_run=dry_run)
    failed = [fed for fed in left if not fed.settled]
    if failed:
        raise CommandError(
            f"{len(failed)} of {len(moves)} moves can't be as planned; the first: userid "
            f"{failed[0].planned.userid} {failed[0].why_not}",
            ExitCode.REFUSED,
        )


def _tell(
    out: Output,
    counts: Counter[tuple[int, int]],
    sizes: Counter[tuple[int, int]],
    left: Sequence[Fed],
    *,
    coordinator: bool,
    dry_run: bool,
) -> None:
    ways: list[dict[str, Any]] = [
        {"from": src, "to": dst, "users": counts[src, dst], "bytes": sizes[src, dst]}
        for src, dst in sorted(counts)
    ]
    skipped = [
        {"userid": fed.planned.userid, "to": fed.planned.dst, "why": fed.why_not}
        for fed in left[:MOST_NAMED]
    ]
    if out.as_json:
        out.document(
            {
                "queued": 0 if dry_run else sum(counts.values()),
                "would_queue": sum(counts.values()) if dry_run else 0,
                "ways": ways,
                "left": skipped,
                "coordinator": coordinator,
            }
        )
        return
    total = sum(counts.values())
    out.table(
        ["from", "to", "users", "bytes"],
        ways,
        title=f"{total} moves {'would be queued' if dry_run else 'queued'}",
    )
    if skipped:
        out.table(["userid", "to", "why"], skipped, title=f"{len(left)} left alone")
    if total and not dry_run and not coordinator:
        out.say("No coordinator runs: workers take them from the table, without limits.")

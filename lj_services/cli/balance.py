"""``lj balance``: how large users are, and which of them should live elsewhere."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lj_services.cli.balance_inputs import (
    as_draining,
    balance_told,
    known_clusters,
    rules_with,
    write_plan,
)
from lj_services.cli.balance_run import drain_command, run_command
from lj_services.cli.balance_tables import print_clusters, print_plan
from lj_services.cli.errors import exit_code
from lj_services.cli.output import CommandError, Output, json_option
from lj_services.cli.site import Site, pass_site
from lj_services.database import DatabaseError
from lj_services.usercluster.balance import plan_file, store
from lj_services.usercluster.balance.loading import load_snapshot
from lj_services.usercluster.balance.planner import make_plan
from lj_services.usercluster.balance.rules import BalanceRules, ClusterState, SurveyRules
from lj_services.usercluster.balance.survey import Surveyed, due, survey


@click.group()
def command() -> None:
    """Which users should live on which cluster.

    First `survey`, then `plan`, which moves nobody by itself, then `run`.
    """


@command.command("survey")
@click.option("--cluster", "only", type=int, multiple=True, help="Only this one; repeatable.")
@click.option("--max-age", type=int, metavar="SECONDS", help="Sizes are good so long.")
@click.option("--pace", type=float, metavar="SHARE", help="Share of the time to read, 0 to 1.")
@click.option("--dry-run", is_flag=True, help="Count nothing, only tell how many users are due.")
@json_option
@pass_site
def survey_command(
    site: Site,
    only: tuple[int, ...],
    max_age: int | None,
    pace: float | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Count the rows and bytes of every user whose figures are old.

    Cheap enough to run beside the site, and to be broken off at any time: what was counted
    is recorded batch by batch.  Exit code 6 if a cluster can't be reached; the others are
    surveyed all the same.
    """
    out = Output(as_json)
    with balance_told():
        settings = site.settings.users
        rules = rules_with(SurveyRules, settings.survey, max_age_s=max_age, pace=pace)
        numbers = known_clusters(site, only) or site.databases.clusters()
    numbers = [n for n in numbers if settings.cluster(n).state is not ClusterState.DEAD]
    rows: list[dict[str, Any]] = []
    failure: DatabaseError | None = None
    for number in numbers:
        try:
            with _told_but_unreachable():
                waiting = due(site.databases, number, rules)
                if dry_run:
                    rows.append({"cluster": number, "due": waiting})
                    continue
                rows.append(_survey(site, number, rules, waiting, quiet=as_json))
        except DatabaseError as error:
            failure = error
            rows.append({"cluster": number, "error": str(error)})
    columns = ["cluster", "due"] if dry_run else ["cluster", "users", "rows", "bytes", "tables"]
    out.table(columns + ["error"] * (failure is not None), rows)
    if failure is not None:
        raise CommandError(str(failure), exit_code(failure)) from failure


@contextmanager
def _told_but_unreachable() -> Iterator[None]:
    """As `balance_told`; but a database's errors pass: other clusters may still be surveyed."""
    try:
        with balance_told():
            yield
    except CommandError as error:
        if isinstance(error.__cause__, DatabaseError):
            raise error.__cause__ from None
        raise


def _survey(
    site: Site, number: int, rules: SurveyRules, waiting: int, *, quiet: bool
) -> dict[str, Any]:
    with Progress(
        TextColumn("cluster {task.fields[number]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=quiet or not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task("", total=waiting, number=number)

        def progress(done: Surveyed) -> None:
            bar.update(task, completed=done.users)

        done = survey(site.databases, number, rules, progress=progress)
    return {
        "cluster": number,
        "users": done.users,
        "rows": done.rows,
        "bytes": done.bytes,
        "tables": ", ".join(done.tables),
    }


@command.command("plan")
@click.option("--drain", type=int, multiple=True, help="Empty this cluster; repeatable.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the plan here.")
@click.option("--max-moves", type=int, metavar="N", help="At most so many moves.")
@click.option("--max-bytes", metavar="SIZE", help="At most so many bytes, as 50g.")
@json_option
@pass_site
def plan_command(
    site: Site,
    drain: tuple[int, ...],
    out: Path | None,
    max_moves: int | None,
    max_bytes: str | None,
    as_json: bool,
) -> None:
    """Propose the fewest bytes to move that bring every cluster under its targets.

    Moves nobody: it prints what it would lead to, and writes the plan into a file that can
    be read and edited.  Exit code 5, with the reason, if no plan can reach the targets.
    """
    with balance_told():
        settings = site.settings.users
        rules = rules_with(BalanceRules, settings.balance, max_moves=max_moves, max_bytes=max_bytes)
        draining = known_clusters(site, drain)
        plan = make_plan(load_snapshot(site.databases, as_draining(settings, draining)), rules)
    if out is not None:
        write_plan(out, plan)
    print_plan(Output(as_json), plan, out)


@command.command("show")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@json_option
@pass_site
def show_command(site: Site, file: Path | None, as_json: bool) -> None:
    """Show how full the clusters are, or what the plan in FILE would move.

    FILE is checked line by line against this site: exit code 2 if anything in it is wrong.
    """
    out = Output(as_json)
    with balance_told():
        if file is None:
            snapshot = load_snapshot(site.databases, site.settings.users)
            print_clusters(out, snapshot)
            return
        found = plan_file.read_file(file)
        states = {n: site.settings.users.cluster(n).state for n in site.databases.clusters()}
        found.check(states)
    ways: Counter[tuple[int, int, str]] = Counter()
    sizes: Counter[tuple[int, int, str]] = Counter()
    for move in found.moves:
        way = (move.src, move.dst, str(move.why))
        ways[way] += 1
        sizes[way] += move.size
    out.table(
        ["from", "to", "why", "users", "bytes"],
        [
            {"from": way[0], "to": way[1], "why": way[2], "users": ways[way], "bytes": sizes[way]}
            for way in sorted(ways)
        ],
        title=f"{len(found.moves)} moves, planned {found.made:%Y-%m-%d %H:%M} UTC",
    )


@command.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--why", required=True, help="For those who find it later.")
@click.option("--dry-run", is_flag=True, help="Change nothing, only tell who it would be.")
@json_option
@pass_site
def pin(site: Site, names: tuple[str, ...], why: str, dry_run: bool, as_json: bool) -> None:
    """Keep the users NAMES where they are: no plan moves them."""
    with balance_told():
        users = [site.users.find(name) for name in names]
        if not dry_run:
            store.pin(site.databases, [user.userid for user in users], why)
    Output(as_json).table(
        ["userid", "name", "cluster"],
        [{"userid": u.userid, "name": u.name, "cluster": u.clusterid} for u in users],
    )


@command.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--dry-run", is_flag=True, help="Change nothing, only tell who is pinned.")
@json_option
@pass_site
def unpin(site: Site, names: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Let plans move the users NAMES again."""
    with balance_told():
        userids = [site.users.find(name).userid for name in names]
        pinned = {found.userid for found in store.pins(site.databases)}
        if not dry_run:
            store.unpin(site.databases, userids)
    Output(as_json).table(
        ["userid", "name", "pinned"],
        [
            {"userid": userid, "name": name, "pinned": userid in pinned}
            for userid, name in zip(userids, names, strict=True)
        ],
    )


@command.command()
@json_option
@pass_site
def pins(site: Site, as_json: bool) -> None:
    """List the pinned users, and why."""
    with balance_told():
        found = store.pins(site.databases)
    Output(as_json).table(
        ["userid", "name", "why", "since"],
        [
            {
                "userid": one.userid,
                "name": one.name,
                "why": one.why,
                "since": f"{datetime.fromtimestamp(one.pinned_at, UTC):%Y-%m-%d}",
            }
            for one in found
        ],
    )


command.add_command(run_command)
command.add_command(drain_command)

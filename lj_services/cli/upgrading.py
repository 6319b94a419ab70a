"""``lj users upgrade``: users' rows into a newer ``schema_ver``, while they read and write."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from lj_services.cli.errors import told
from lj_services.cli.output import CommandError, Output, json_option
from lj_services.cli.site import Site, pass_site
from lj_services.daemon import ExitCode
from lj_services.database import DatabaseError, DatabaseUnreachable
from lj_services.usercluster import Downgrade, NoCluster, UserClusterError, versions
from lj_services.usercluster.upgrade import Behind, Upgrader

COLUMNS = ["userid", "name", "cluster", "from", "to", "held_ms", "error"]


@click.command(short_help="Bring users to schema_ver N.")
@click.argument("who", nargs=-1)
@click.option("--cluster", type=int, help="Everybody who lives on this one.")
@click.option("--all", "everybody", is_flag=True, help="Everybody.")
@click.option("--to", type=int, required=True, metavar="N", help="The schema_ver.")
@click.option(
    "--limit", type=click.IntRange(1), help="At most so many users, then end; run it again later."
)
@click.option(
    "--pause-ms", type=click.IntRange(0, 60_000), default=0, show_default=True,
    help="Rest after each user.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Change nothing, only tell what would be done.")
@json_option
@pass_site
@told()
def upgrade(
    site: Site,
    who: tuple[str, ...],
    cluster: int | None,
    everybody: bool,
    to: int,
    limit: int | None,
    pause_ms: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Bring users to schema_ver N: those named (a name, or #USERID), a cluster's, or all.

    They read and write meanwhile; a user's writes wait while their own rows are changed.
    Those who are there already are passed over.  May be stopped and repeated at any time, and
    while users are moved.
    """
    if sum((bool(who), cluster is not None, everybody)) != 1:
        raise click.UsageError("say WHO, or --cluster, or --all")
    users = site.users
    versions.check(to)
    upgrader = Upgrader(site.databases, users, site.settings.users)
    if who:
        named = list({user.userid: user for user in map(site.look_up, who)}.values())
        if later := [user for user in named if user.schema_ver > to]:
            raise Downgrade(
                f"{later[0].name} is in schema_ver {later[0].schema_ver}: there is no way back "
                f"to {to}"
            )
        found: Iterable[Behind] = itertools.islice(upgrader.behind(named, to), limit)
    else:
        if cluster is not None and cluster not in site.databases.clusters():
            known = ", ".join(map(str, site.databases.clusters())) or "none"
            raise NoCluster(f"there is no cluster {cluster}; there are: {known}")
        found = upgrader.find(cluster, to, limit)
    out = Output(as_json)
    if dry_run:
        rows = [{**_record(one, to), "held_ms": None, "error": None} for one in found]
        out.table(COLUMNS[:5], rows)
        out.say(f"{len(rows)} users would be upgraded to schema_ver {to}")
        return
    rows = []
    try:
        for one in _shown(found, as_json):
            rows.append(_upgrade(upgrader, one, to))
            time.sleep(pause_ms / 1000)
    finally:  # what was done is told, also when the rest can't be
        out.table(COLUMNS, rows)
    failed = [row for row in rows if row["error"]]
    out.say(f"{len(rows) - len(failed)} users upgraded to schema_ver {to}")
    if failed:
        raise CommandError(
            f"{len(failed)} of {len(rows)} users were not upgraded; run the same command again",
            ExitCode.FAILED,
        )


def _upgrade(upgrader: Upgrader, one: Behind, to: int) -> dict[str, Any]:
    """Upgrade a user; what concerns this one alone does not keep the others waiting."""
    record = _record(one, to)
    try:
        done = upgrader.upgrade(one.user, to)
    except DatabaseUnreachable:
        raise
    except (DatabaseError, UserClusterError) as error:
        return {**record, "held_ms": None, "error": str(error)}
    return {
        **record,
        "cluster": done.user.clusterid,
        "from": done.before,
        "to": done.user.schema_ver,
        "held_ms": round(done.held_ms, 1),
        "error": None,
    }


def _record(one: Behind, to: int) -> dict[str, Any]:
    return {
        "userid": one.user.userid,
        "name": one.user.name,
        "cluster": one.user.clusterid,
        "from": one.version,
        "to": to,
    }


def _shown(found: Iterable[Behind], as_json: bool) -> Iterator[Behind]:
    """The same users, counted on a progress line on stderr."""
    if as_json:
        yield from found
        return
    with Progress(
        TextColumn("[bold]upgrading"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("users, at {task.description}"),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        task = progress.add_task("-", total=None)
        for one in found:
            progress.update(task, description=one.user.name)
            yield one
            progress.advance(task)

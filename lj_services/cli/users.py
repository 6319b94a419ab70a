"""``lj users``: who there is and which cluster they live on."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console

from lj_services.cli import moving
from lj_services.cli.errors import told
from lj_services.cli.output import CommandError, Output, json_option
from lj_services.cli.site import Site, pass_site
from lj_services.cli.upgrading import upgrade
from lj_services.daemon import ExitCode
from lj_services.database import cluster_role
from lj_services.usercluster import User
from lj_services.usercluster.mover.plan import look
from lj_services.usercluster.mover.tables import SWITCHED


@click.group()
def command() -> None:
    """Users and the clusters they live on."""


command.add_command(upgrade)


@command.command()
@click.argument("name")
@click.option("--cluster", type=int, help="Where they shall live.  Default: weight x free space.")
@json_option
@pass_site
@told()
def create(site: Site, name: str, cluster: int | None, as_json: bool) -> None:
    """Make a user NAME: 1 to 25 of the letters a-z, digits and _."""
    Output(as_json).record(_record(site, site.users.create(name, cluster=cluster)))


@command.command()
@click.argument("who")
@json_option
@pass_site
@told()
def show(site: Site, who: str, as_json: bool) -> None:
    """Show the user WHO: a name, or #USERID."""
    Output(as_json).record(_record(site, site.look_up(who)))


@command.command("list")
@click.option("--cluster", type=int, help="Only those who live there.")
@click.option("--after", type=int, default=0, metavar="USERID", help="Start after this one.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True)
@json_option
@pass_site
@told()
def list_command(site: Site, cluster: int | None, after: int, limit: int, as_json: bool) -> None:
    """List users in order of userid."""
    users = site.users.list(cluster, after=after, limit=limit)
    columns = ["userid", "name", "cluster", "readonly", "schema_ver"]
    Output(as_json).table(columns, [_record(site, user) for user in users])


@command.command(short_help="Forbid (on) or allow (off) a user's writes.")
@click.argument("who")
@click.argument("switch", type=click.Choice(["on", "off"]))
@json_option
@pass_site
@told()
def readonly(site: Site, who: str, switch: str, as_json: bool) -> None:
    """Forbid (on) or allow (off) writes for the user WHO: a name, or #USERID.

    When it returns, writes that were under way have ended and no other is accepted.
    """
    user = site.users.set_readonly(site.look_up(who).userid, switch == "on")
    Output(as_json).record(_record(site, user))


@command.command()
@click.argument("who")
@click.argument("cluster", type=int, required=False)
@click.option("--back", is_flag=True, help="To where they came from, while that is kept.")
@click.option("--dry-run", is_flag=True, help="Change nothing, only tell what would be done.")
@click.option("--wait", is_flag=True, help="Where workers run: wait until one has done it.")
@click.option("--priority", type=int, default=0, show_default=True, help="Higher goes first.")
@json_option
@pass_site
@told()
def move(
    site: Site,
    who: str,
    cluster: int | None,
    back: bool,
    dry_run: bool,
    wait: bool,
    priority: int,
    as_json: bool,
) -> None:
    """Move the user WHO to CLUSTER while they read and write.

    With workers (lj mover worker) the move is queued for them; without any it is done here.
    The old rows are kept for mover.grace_s seconds, in which --back is possible.
    """
    out = Output(as_json)
    user = site.look_up(who)
    worker = moving.make_worker(site)
    undone = None
    if back:
        undone = next(iter(worker.moves.list(userid=user.userid, states=(SWITCHED,))), None)
        if undone is None or undone.dst != user.clusterid:
            raise CommandError(
                f"{user.name} has no earlier home that is still kept", ExitCode.REFUSED
            )
        if cluster is not None and cluster != undone.src:
            raise CommandError(
                f"{user.name} came from cluster {undone.src}, not {cluster}", ExitCode.USAGE
            )
        cluster = undone.src
    if cluster is None:
        raise click.UsageError("say to which CLUSTER, or --back")
    worker.moves.check(user, cluster)
    plan = look(site.databases, site.settings.mover, user.userid, user.clusterid, cluster)
    if dry_run:
        out.record(
            {
                "userid": user.userid,
                "from": user.clusterid,
                "to": cluster,
                "rows": sum(plan.rows.values()),
                "bytes": plan.bytes,
                "free": plan.free,
                "follows": plan.follows,
                "tables": ", ".join(f"{name} {rows}" for name, rows in plan.rows.items()),
            }
        )
        return
    asked = worker.moves.enqueue(
        user.userid, cluster, priority=priority, back_of=undone.move_id if undone else None
    )
    others = worker.presence.others()
    shown = moving.progress_on(Console(stderr=True)) if not as_json else None
    if not others:
        done = moving.run_here(worker, asked, shown)
    elif wait:
        done = moving.follow(worker, asked, shown)
    else:
        moving.print_move(out, site, asked)
        out.say("It is queued for the workers: lj moves shows how far it is, --wait waits.")
        return
    moving.refuse_unsettled(done)
    moving.print_move(out, site, done)


def _record(site: Site, user: User) -> dict[str, Any]:
    role = cluster_role(user.clusterid)
    configured = role in site.databases.roles()
    return {
        "userid": user.userid,
        "name": user.name,
        "cluster": user.clusterid,
        "server": site.databases.writer(role).label if configured else None,
        "epoch": user.epoch,
        "readonly": user.readonly,
        "schema_ver": user.schema_ver,
    }

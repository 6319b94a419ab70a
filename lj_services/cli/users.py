"""``lj users``: who there is and which cluster they live on."""

from __future__ import annotations

from typing import Any

import click

from lj_services.cli.errors import told
from lj_services.cli.output import Output, json_option
from lj_services.cli.site import Site, pass_site
from lj_services.database import cluster_role
from lj_services.usercluster import User


@click.group()
def command() -> None:
    """Users and the clusters they live on."""


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
    Output(as_json).record(_record(site, _look_up(site, who)))


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


@command.command()
@click.argument("who")
@click.argument("switch", type=click.Choice(["on", "off"]))
@json_option
@pass_site
@told()
def readonly(site: Site, who: str, switch: str, as_json: bool) -> None:
    """Forbid (on) or allow (off) writes for the user WHO: a name, or #USERID.

    When it returns, writes that were under way have ended and no other is accepted.
    """
    user = site.users.set_readonly(_look_up(site, who).userid, switch == "on")
    Output(as_json).record(_record(site, user))


def _look_up(site: Site, who: str) -> User:
    if who.startswith("#") and who[1:].isdecimal():
        return site.users.reload(int(who[1:]))
    return site.users.reload(site.users.find(who).userid)


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

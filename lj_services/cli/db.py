"""``lj db``: the schema of the databases, and how the servers are."""

from __future__ import annotations

from typing import Any

import click

from lj_services import journal, usercluster
from lj_services.cli.errors import exit_code, told
from lj_services.cli.output import CommandError, Output, json_option
from lj_services.cli.site import Site, pass_site
from lj_services.daemon import ExitCode
from lj_services.database import Component, DatabaseError, SchemaState, migrate, status
from lj_services.gearman import store as gearman
from lj_services.gearman.gofer import executor as gofer
from lj_services.usercluster import coordinator, mover
from lj_services.usercluster.balance import store as balance

COMPONENTS: tuple[Component, ...] = (
    usercluster.COMPONENT,
    mover.COMPONENT,
    coordinator.COMPONENT,
    balance.COMPONENT,
    journal.COMPONENT,
    gearman.COMPONENT,
    gofer.COMPONENT,
)
"""Everything of the kit that keeps tables, in the order that they build on each other."""


@click.group()
def command() -> None:
    """Schema and state of the databases."""


@command.command("migrate")
@click.option("--role", "only", multiple=True, metavar="ROLE", help="Only this role; repeatable.")
@click.option("--dry-run", is_flag=True, help="Change nothing, only tell what would be done.")
@json_option
@pass_site
def migrate_command(site: Site, only: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Bring every database to the schema that this code needs.

    Safe to repeat, and to run in two places at once.  Nothing is changed when newer
    code has migrated one of them (exit code 5).
    """
    out = Output(as_json)
    with told():
        databases = site.databases
        roles = list(dict.fromkeys(only)) or databases.roles()
        for role in roles:  # what can't be done anywhere is said before anything is changed
            migrate(databases, role, COMPONENTS, dry_run=True)
    rows: list[dict[str, Any]] = []
    failure: DatabaseError | None = None
    for role in roles:
        try:
            done = migrate(databases, role, COMPONENTS, dry_run=dry_run)
        except DatabaseError as error:
            failure = error
            break
        rows += [
            {
                "role": role,
                "component": migration.component,
                "version": migration.version,
                "name": migration.name,
                "done": "would apply" if dry_run else "applied",
            }
            for migration in done
        ]
    if rows or as_json:
        out.table(["role", "component", "version", "name", "done"], rows)
    elif failure is None:
        out.say(f"{len(roles)} database(s): nothing to do")
    if failure is not None:
        raise CommandError(str(failure), exit_code(failure)) from failure


@command.command("status")
@json_option
@pass_site
def status_command(site: Site, as_json: bool) -> None:
    """Show every role's server, its schema and its readers.

    Exit code 6 if a writer can't be reached, 5 if a schema is newer than this code.
    """
    out = Output(as_json)
    with told():
        databases = site.databases
    rows: list[dict[str, Any]] = []
    worst = ExitCode.DONE
    for role in databases.roles():
        server = databases.writer(role).label
        try:
            states = status(databases, role, COMPONENTS)
            with databases.read(role):
                pass  # so that its readers are looked at
        except DatabaseError as error:
            worst = ExitCode.UNREACHABLE
            rows.append({"role": role, "server": server, "state": f"unreachable: {error}"})
            continue
        for state in states:
            if state.verdict == "too new" and worst is ExitCode.DONE:
                worst = ExitCode.REFUSED
            rows.append(_schema_row(state, server))
    rows += [
        {
            "role": reader.role,
            "server": reader.server,
            "state": f"reader, weight {reader.weight}: "
            + ("up" if reader.up else f"left out: {reader.why_not}"),
        }
        for reader in databases.readers()
    ]
    out.table(["role", "server", "component", "installed", "available", "state"], rows)
    if worst is not ExitCode.DONE:
        click.get_current_context().exit(worst)


def _schema_row(state: SchemaState, server: str) -> dict[str, Any]:
    remedy = {"pending": " (run lj db migrate)", "too new": " (install the newer kit)"}
    return {
        "role": state.role,
        "server": server,
        "component": state.component,
        "installed": state.installed,
        "available": state.available,
        "state": state.verdict + remedy.get(state.verdict, ""),
    }

"""``lj journal``: the sample site."""

from __future__ import annotations

from collections.abc import Callable

import click

from lj_services import journal, usercluster
from lj_services.cli.errors import told
from lj_services.cli.output import CommandError
from lj_services.cli.site import Site, pass_site
from lj_services.daemon import ConfigError, ExitCode, run_service
from lj_services.daemon.command import serve_command
from lj_services.database import check_schema
from lj_services.journal.app import read_secret, rows_of
from lj_services.journal.config import JournalSettings
from lj_services.journal.server import JournalService


@click.group()
def command() -> None:
    """The sample site: journals with comments, friends and feeds, on the user clusters."""


@serve_command(JournalSettings)
@pass_site
def serve(site: Site, load: Callable[[], JournalSettings]) -> ExitCode:
    """Run the site.

    The databases and cache servers are those of the site file (lj --site); they must be
    migrated: `lj db migrate`.  Give it a secret_file, so that forms outlive a restart.
    """
    with told():
        check_schema(site.databases, [usercluster.COMPONENT, journal.COMPONENT])
        users, cache, url = site.users, site.cache, site.settings.journal.url
        jobs = site.jobs
    try:
        settings = load()
        read_secret(settings)
        rows_of(jobs, settings)
    except ConfigError as error:
        raise CommandError(str(error), ExitCode.CONFIG) from None
    return run_service(
        "journal",
        lambda settings: JournalService(settings, site.databases, users, cache, url, jobs),
        load,
    )


command.add_command(serve)

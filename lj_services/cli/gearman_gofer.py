"""``lj gearman gofer``: database connections for whoever sends calls."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from lj_services.cli.errors import told
from lj_services.cli.output import CommandError
from lj_services.cli.site import Site, pass_site
from lj_services.daemon import ConfigError, ExitCode, run_service
from lj_services.daemon.command import serve_command
from lj_services.database import Databases, check_schema
from lj_services.gearman.gofer.config import GoferSettings
from lj_services.gearman.gofer.executor import COMPONENT
from lj_services.gearman.gofer.service import GoferService, pooled


@serve_command(GoferSettings, "gofer")
@pass_site
def gofer(site: Site, load: Callable[[], GoferSettings]) -> ExitCode:
    """Run statements that come as jobs, on a bounded number of database connections.

    The databases are those of the site file (lj --site); which of them are offered, and
    for what, say the settings: at least --set roles.cluster1={}.
    """
    try:
        settings = load()
        offered = pooled(site.settings.database, settings)
    except (ConfigError, ValueError) as error:
        raise CommandError(str(error), ExitCode.CONFIG) from None
    with closing(Databases(offered)) as databases:
        with told():
            check_schema(databases, [COMPONENT])
        return run_service("gofer", lambda now: GoferService(now, databases), load)

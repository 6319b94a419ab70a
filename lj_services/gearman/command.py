"""``lj gearman serve``."""

from __future__ import annotations

from collections.abc import Callable

from lj_services.daemon import ExitCode, run_service
from lj_services.daemon.command import serve_command
from lj_services.gearman.config import ServerSettings
from lj_services.gearman.server import GearmanService


@serve_command(ServerSettings)
def serve(load: Callable[[], ServerSettings]) -> ExitCode:
    """Run the Gearman server.

    It takes calls of functions from clients and hands them to workers.  Jobs are kept in
    memory; with the table [persist] those in the background are also kept in a database
    (--set persist.writer=sqlite:////var/lib/lj/gearman.db), and are there again after a crash.
    """
    return run_service("gearman", GearmanService, load)

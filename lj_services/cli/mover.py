"""``lj mover``: the workers who move users."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import click

from lj_services.cli.errors import told
from lj_services.cli.moving import make_worker
from lj_services.cli.site import Site, pass_site
from lj_services.daemon.lifecycle import notify_systemd
from lj_services.daemon.log import configure_logging


@click.group()
def command() -> None:
    """The workers who move users between clusters."""


@command.command()
@click.option(
    "--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Moves at once."
)
@click.option("--until-idle", is_flag=True, help="End when no move is due.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text")
@pass_site
@told()
def worker(site: Site, jobs: int, until_idle: bool, log_format: str) -> None:
    """Take moves from the table and carry them out; purge old homes when their time is over.

    Any number of workers may run, on any hosts that reach the databases.  SIGTERM: finish
    the moves that are under way, then end.  A worker that dies is replaced by the next
    one that looks.
    """
    configure_logging("json" if log_format == "json" else "text", "info")
    one = make_worker(site)
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        notify_systemd("STOPPING=1")
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    notify_systemd("READY=1")
    one.loop(stop, jobs=jobs, until_idle=until_idle)

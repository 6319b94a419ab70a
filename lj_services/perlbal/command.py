"""``lj perlbal serve``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click
from prometheus_client import REGISTRY, CollectorRegistry

from lj_services.daemon import load_settings, run_service
from lj_services.perlbal.config import BalancerSettings
from lj_services.perlbal.server import PerlbalService
from lj_services.perlbal.workers.master import Master
from lj_services.perlbal.workers.metrics import REGISTRY as OF_WORKERS
from lj_services.perlbal.workers.worker import WorkerService, fds_of_worker


@click.command("serve")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Configuration file, in Perlbal's language.",
)
@click.option("--listen", metavar="HOST:PORT", help="The console, unless the file has one.")
@click.option(
    "--workers",
    type=click.IntRange(0, 256),
    metavar="N",
    help="Run N processes on the same ports, with one console.  0, the default: one process.",
)
@click.option(
    "--plugin-path",
    "folders",
    multiple=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder with plug-ins of your own; may be given many times.",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting of the process: user, group, metrics_listen, drain_timeout_s, log_level.",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), help="For people or machines.")
def serve(
    config: Path | None,
    listen: str | None,
    workers: int | None,
    folders: Sequence[Path],
    assignments: Sequence[str],
    log_format: str | None,
) -> None:
    """Run the load balancer: reverse proxy, web server, selector, console.

    \b
    lj perlbal serve --config web.conf
    lj perlbal serve --config web.conf --workers 4 --set user=www-data

    With --workers, a worker that dies is replaced, the console (lj perlbal console) and the
    metrics show all of them as one, and a restart loses no request: new workers read the
    configuration file, take over the listening sockets, and the old ones finish what they have.
    If the file is wrong, nothing changes.

    \b
    SIGTERM  finish what is in flight, then end; twice: at once
    SIGHUP   read certificates and node files again
    SIGUSR2  with --workers: restart (on the console: RESTART)

    With user (and group) set, a process that was started by root binds its ports, reads the
    configuration and keys, and then becomes that user for good.
    """
    words = list(assignments)
    words += [f"listen={listen!r}"] if listen is not None else []
    words += [f"workers={workers}"] if workers is not None else []
    words += [f"log_format={log_format!r}"] if log_format is not None else []
    base = {"config": config, "plugin_path": tuple(folders)}

    def load() -> BalancerSettings:
        return load_settings(BalancerSettings, overrides=words, base=base)

    fds = fds_of_worker()
    if fds is not None:
        sys.exit(run_service("perlbal", partial(WorkerService, fds=fds), partial(_of_worker, load)))

    def make(settings: BalancerSettings) -> Master | PerlbalService:
        return Master(settings) if settings.workers else PerlbalService(settings)

    sys.exit(run_service("perlbal", make, load, _registry))


def _of_worker(load: Callable[[], BalancerSettings]) -> BalancerSettings:
    """A worker's settings: the master shows its figures, and says when it has drained enough."""
    settings = load()
    longer_s = settings.drain_timeout_s + 5.0
    return settings.model_copy(update={"metrics_listen": None, "drain_timeout_s": longer_s})


def _registry(settings: BalancerSettings) -> CollectorRegistry:
    return OF_WORKERS if settings.workers else REGISTRY

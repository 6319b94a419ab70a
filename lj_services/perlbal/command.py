"""``lj perlbal serve``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from lj_services.daemon import load_settings, run_service
from lj_services.perlbal.config import BalancerSettings
from lj_services.perlbal.server import PerlbalService


@click.command("serve")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Configuration file, in Perlbal's language.",
)
@click.option("--listen", metavar="HOST:PORT", help="The console, unless the file has one.")
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
    help="A setting of the process: metrics_listen, drain_timeout_s, log_level.",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), help="For people or machines.")
def serve(
    config: Path | None,
    listen: str | None,
    folders: Sequence[Path],
    assignments: Sequence[str],
    log_format: str | None,
) -> None:
    """Run the load balancer: reverse proxy, web server, selector, console.

    SIGTERM finishes what is in flight, then ends; twice: at once.  SIGHUP reads certificates
    and node files again.
    """
    words = list(assignments)
    words += [f"listen={listen!r}"] if listen is not None else []
    words += [f"log_format={log_format!r}"] if log_format is not None else []
    base = {"config": config, "plugin_path": tuple(folders)}

    def load() -> BalancerSettings:
        return load_settings(BalancerSettings, overrides=words, base=base)

    sys.exit(run_service("perlbal", PerlbalService, load))

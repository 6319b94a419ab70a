"""``lj gearman submit``, ``worker`` and ``dmap``: call functions, and offer them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import click

from lj_services.cli.gearman_options import servers_option
from lj_services.cli.output import CommandError, Output, json_option
from lj_services.daemon import ExitCode, HostPort
from lj_services.daemon.log import configure_logging
from lj_services.gearman import dmap as mapping
from lj_services.gearman.client import Client, Priority
from lj_services.gearman.client_errors import (
    BadTask,
    GearmanError,
    ServerUnreachable,
    TaskException,
    TaskRefused,
)
from lj_services.gearman.prefork import Prefork
from lj_services.gearman.tasks import Task
from lj_services.gearman.worker import Worker

_EXIT_CODES: tuple[tuple[type[GearmanError], ExitCode], ...] = (
    (BadTask, ExitCode.USAGE),
    (ServerUnreachable, ExitCode.UNREACHABLE),
    (TaskRefused, ExitCode.REFUSED),
)


@contextmanager
def _told() -> Iterator[None]:
    """What goes wrong as one line and an exit code; a worker's traceback comes before it."""
    try:
        yield
    except GearmanError as error:
        if isinstance(error, TaskException):
            click.echo(error.details.decode(errors="replace").rstrip(), err=True)
        code = next(
            (code for kind, code in _EXIT_CODES if isinstance(error, kind)), ExitCode.FAILED
        )
        raise CommandError(str(error), code) from None


@click.command()
@click.argument("function")
@click.argument("payload", default="")
@servers_option
@click.option("--background", is_flag=True, help="Leave the job there; print its handle.")
@click.option("--unique", default="", help="Equal keys are one job; '-': equal payloads are.")
@click.option(
    "--priority",
    type=click.Choice([priority.value for priority in Priority]),
    default=Priority.NORMAL.value,
    show_default=True,
)
@click.option("--timeout", "timeout_s", type=float, help="Longest wait for the result, in seconds.")
@click.option(
    "--retries", type=click.IntRange(0), default=0, show_default=True, help="After a failure."
)
@json_option
def submit(
    function: str,
    payload: str,
    servers: tuple[HostPort, ...],
    background: bool,
    unique: str,
    priority: str,
    timeout_s: float | None,
    retries: int,
    as_json: bool,
) -> None:
    """Call FUNCTION with PAYLOAD, and print its result as it comes.

    PAYLOAD '-' is read from the standard input.  Warnings, and how far the job is, go to
    the standard error.
    """
    data = sys.stdin.buffer.read() if payload == "-" else os.fsencode(payload)
    out = sys.stdout.buffer
    with _told(), Client(servers) as client:
        if background:
            job = client.submit(function, data, unique=unique, priority=Priority(priority))
            if as_json:
                Output(True).document({"server": str(job.server), "handle": job.handle.decode()})
            else:
                click.echo(str(job))
            return
        options: dict[str, Any] = {}
        if not as_json:

            def show(_task: Task, part: bytes) -> None:
                out.write(part)
                out.flush()

            options["on_data"] = show
            options["on_status"] = lambda _, done, of: click.echo(f"{done} of {of}", err=True)
        tasks = client.task_set()
        task = tasks.add(
            function,
            data,
            unique=unique,
            priority=Priority(priority),
            timeout_s=timeout_s,
            retries=retries,
            on_warning=lambda _, text: click.echo(text.decode(errors="replace"), err=True),
            **options,
        )
        tasks.run()
        result = task.value()
        if as_json:
            assert task.job is not None
            Output(True).document(
                {
                    "server": str(task.job.server),
                    "handle": task.job.handle.decode(),
                    "submits": task.submits,
                    "result": result.decode(errors="backslashreplace"),
                }
            )
        else:
            out.write(result)
            out.flush()


@click.command()
@click.argument("offers", nargs=-1, metavar="[NAME=]MODULE:FUNCTION...")
@servers_option
@click.option("--dmap", "modules", multiple=True, metavar="MODULE", help="Offer it to dmap.")
@click.option(
    "-n", "--processes", type=click.IntRange(1), default=1, show_default=True, help="How many."
)
@click.option("--max-jobs", type=click.IntRange(1), help="Replace a process after so many jobs.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0, min_open=True), help="Seconds for one job."
)
@click.option(
    "--stop-timeout",
    "stop_timeout_s",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help="Seconds that jobs may go on after SIGTERM.",
)
@click.option(
    "--path",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    show_default=True,
    help="Folder to import from first.",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text")
def worker(
    offers: tuple[str, ...],
    servers: tuple[HostPort, ...],
    modules: tuple[str, ...],
    processes: int,
    max_jobs: int | None,
    timeout_s: float | None,
    stop_timeout_s: float,
    path: Path,
    log_format: Literal["text", "json"],
) -> None:
    """Offer functions to job servers, until SIGTERM.

    Each function is called with a Job (lj_services.gearman.worker) and returns bytes, str
    or None.  Clients call it by NAME; without one, by its own.  SIGTERM lets jobs finish;
    a second one ends them.
    """
    sys.path.insert(0, str(path.resolve()))
    configure_logging(log_format, "info")
    functions: dict[str, Any] = {}
    for offer in offers:
        name, equals, target = offer.rpartition("=")
        try:
            found = mapping.find_function(target)
        except LookupError as error:
            raise CommandError(str(error), ExitCode.UNKNOWN) from None
        functions[name if equals else target.rpartition(":")[2]] = found
    if modules:
        functions[mapping.FUNCTION] = mapping.DmapFunction(modules)
    if not functions:
        raise CommandError("nothing to offer: name a MODULE:FUNCTION or --dmap", ExitCode.USAGE)

    def make() -> Worker:
        made = Worker(servers)
        for name, function in functions.items():
            made.register(name, function, timeout_s=timeout_s)
        return made

    parent = Prefork(make, processes=processes, max_jobs=max_jobs, stop_timeout_s=stop_timeout_s)
    sys.exit(ExitCode.DONE if parent.run() else ExitCode.FAILED)


@click.command()
@click.argument("function", metavar="MODULE:FUNCTION")
@click.argument("items", nargs=-1)
@servers_option
@click.option("--json-items", is_flag=True, help="Items are JSON; without it: text.")
@click.option(
    "--chunk", type=click.IntRange(1), default=1, show_default=True, help="Items for one job."
)
@click.option("--timeout", "timeout_s", type=float, help="Longest wait for all, in seconds.")
@click.option(
    "--retries", type=click.IntRange(0), default=1, show_default=True, help="After a failure."
)
@json_option
def dmap(
    function: str,
    items: tuple[str, ...],
    servers: tuple[HostPort, ...],
    json_items: bool,
    chunk: int,
    timeout_s: float | None,
    retries: int,
    as_json: bool,
) -> None:
    """Call a function for each of ITEMS, on all workers at once.

    Without ITEMS, each line of the standard input is one.  Prints a line of JSON for each
    result, in the items' order; --json: one list of all.  Workers: lj gearman worker --dmap MODULE
    """
    words = list(items) or [line.rstrip("\n") for line in sys.stdin]
    try:
        values = [json.loads(word) for word in words] if json_items else words
    except ValueError as error:
        raise CommandError(f"an item is no JSON: {error}", ExitCode.USAGE) from None
    with _told():
        results = mapping.dmap(
            function, values, servers, chunk=chunk, timeout_s=timeout_s, retries=retries
        )
    if as_json:
        Output(True).document(list(results))
        return
    for result in results:
        click.echo(json.dumps(result, ensure_ascii=False))

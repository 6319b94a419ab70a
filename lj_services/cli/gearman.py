"""``lj gearman``: run a Gearman server, look into one and clear it up; use it (gearman_clients)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from lj_services.cli.gearman_check import check
from lj_services.cli.gearman_clients import dmap, submit, worker
from lj_services.cli.gearman_gofer import gofer
from lj_services.cli.gearman_options import server_option
from lj_services.cli.gearman_top import top
from lj_services.cli.output import CommandError, Output, json_option
from lj_services.daemon import ExitCode, HostPort
from lj_services.gearman.admin_client import AdminClient, AdminRefused
from lj_services.gearman.command import serve


@click.group()
def command() -> None:
    """Function calls for workers on other machines: server, clients, workers."""


command.add_command(serve)
for _client in (top, submit, worker, dmap, gofer, check):
    command.add_command(_client)


@contextmanager
def _asked(server: HostPort) -> Iterator[AdminClient]:
    """A connection, with what can go wrong told as the command's."""
    try:
        with AdminClient(server) as client:
            yield client
    except AdminRefused as refused:
        raise CommandError(f"{server} refuses: {refused}", ExitCode.REFUSED) from None
    except ValueError as error:
        raise CommandError(str(error), ExitCode.USAGE) from None
    except OSError as error:
        raise CommandError(
            f"no Gearman server at {server}: {error}; name it with --server", ExitCode.UNREACHABLE
        ) from None


@command.command()
@server_option
@json_option
def status(server: HostPort, as_json: bool) -> None:
    """Show every function: its jobs, how many of them run, its workers."""
    with _asked(server) as client:
        rows = [row._asdict() for row in client.status()]
    Output(as_json).table(["function", "total", "running", "workers"], rows)


@command.command()
@click.option("--all", "everyone", is_flag=True, help="Clients, too: whoever is connected.")
@server_option
@json_option
def workers(server: HostPort, everyone: bool, as_json: bool) -> None:
    """Show the workers and what they can do."""
    with _asked(server) as client:
        found = [row._asdict() for row in client.workers() if everyone or row.functions]
    if not as_json:
        for row in found:
            row["functions"] = " ".join(row["functions"])
    Output(as_json).table(["number", "address", "client_id", "functions"], found)


@command.command()
@click.argument("function")
@server_option
@json_option
def drop(server: HostPort, function: str, as_json: bool) -> None:
    """Forget FUNCTION, with the jobs that wait for it.  Refused while it has workers."""
    with _asked(server) as client:
        client.drop(function)
    _tell(as_json, server, {"dropped": function})


@command.command()
@click.argument("handle")
@server_option
@json_option
def cancel(server: HostPort, handle: str, as_json: bool) -> None:
    """Cancel the job HANDLE, unless a worker has it."""
    with _asked(server) as client:
        client.cancel(handle)
    _tell(as_json, server, {"cancelled": handle})


@command.command()
@click.option("--now", is_flag=True, help="Don't wait for the jobs that run.")
@server_option
@json_option
def shutdown(server: HostPort, now: bool, as_json: bool) -> None:
    """End the server, if its setting shutdown_command allows it.

    Jobs that wait are lost, but for background jobs of a server that keeps them.
    """
    with _asked(server) as client:
        client.shutdown(graceful=not now)
    _tell(as_json, server, {"shutdown": "now" if now else "graceful"})


def _tell(as_json: bool, server: HostPort, done: dict[str, str]) -> None:
    """Say what a server has done."""
    Output(as_json).record({"server": str(server), **done})

"""`disk-checker listen` and `cut`: the record on the machine that keeps its power."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sys
from pathlib import Path

import click

from disk_checker.cli.options import run_id
from disk_checker.errors import ListenerFailed
from disk_checker.ledger import Ledger
from disk_checker.listener import serve
from disk_checker.uplink import parse_address
from disk_checker.verify import note


@click.command()
@click.option(
    "--listen",
    "address",
    default="127.0.0.1:5400",
    show_default=True,
    metavar="HOST:PORT",
    help="Where to listen; port 0 takes a free one.",
)
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder of the record.  Keep it on a disk that you trust.",
)
def listen(address: str, state: Path) -> int:
    """Keep the record, on the machine that keeps its power."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    host, port = parse_address(address)
    ledger = Ledger(state)
    try:
        asyncio.run(
            serve(
                ledger,
                host,
                port,
                lambda *name: click.echo(
                    f"disk-checker: listening on {name[0]}:{name[1]}, "
                    f"{len(ledger.plans)} runs recorded"
                ),
            )
        )
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        hint = {
            errno.EADDRINUSE: f"something listens there already (`ss -ltnp sport = :{port}` says "
            "what): stop that, or give another port with --listen",
            errno.EADDRNOTAVAIL: "no address of this host: give one that `ip address` shows, or "
            "0.0.0.0 for all",
            errno.EACCES: "a port below 1024 is root's: give a higher one",
        }.get(error.errno or 0, "give another --listen HOST:PORT")
        raise ListenerFailed(f"{address}: {why}: {hint}") from None
    finally:
        ledger.close()
    return 0


@click.command()
@click.argument("listener", metavar="HOST:PORT")
@click.argument("run")
def cut(listener: str, run: str) -> int:
    """Note that the power of RUN's disk is being cut now.

    For power switches that leave the host alive: errors from here on are the cut's.
    """
    note(listener, run_id(run) or 0, "cut")
    return 0

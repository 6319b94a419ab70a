"""`disk-checker listen` and `cut`: the record on the machine that keeps its power."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import click

from disk_checker.cli.options import run_id
from disk_checker.errors import SETUP
from disk_checker.ledger import Ledger
from disk_checker.listener import serve
from disk_checker.uplink import parse_address
from disk_checker.verify import note_cut


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
        click.echo(f"disk-checker: {address}: {error.strerror}", err=True)
        return SETUP
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
    note_cut(listener, run_id(run) or 0)
    return 0

"""A client that commits one row after the other, and keeps a ledger of what was acknowledged.

What the ledger says was acknowledged must be in the database for ever; what was sent and
never answered may be there or not.  It is run in a lab's network::

    python -m tools.lab inside python -m tools.lab.ledger write FILE --host 10.77.0.10 ...

and goes on, whatever happens to the server, until it is told to end (SIGTERM).  The
ledger is a file with a line per acknowledged commit: its number, and the seconds since
the epoch when the answer came.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pymysql

TABLE = "lab_ledger"
CONNECT_S = 1
"""How long a connection may take until the client tries anew: addresses move."""
ANSWER_S = 3
"""How long an answer may take until it gives up the connection."""
TAIL_BYTES = 256


@dataclass(frozen=True)
class Entry:
    """One acknowledged commit: its number, and when the answer came."""

    number: int
    at_s: float


def read(file: Path) -> list[Entry]:
    """The ledger; a line that was not written to its end is left out."""
    if not file.exists():
        return []
    return _entries(file.read_text().split("\n")[:-1])


def newest(file: Path) -> list[Entry]:
    """The last few entries of a ledger that may be long."""
    if not file.exists():
        return []
    with file.open("rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, size - TAIL_BYTES))
        lines = opened.read().decode().split("\n")[:-1]
    return _entries(lines if size <= TAIL_BYTES else lines[1:])


def _entries(lines: list[str]) -> list[Entry]:
    return [Entry(int(number), float(at)) for number, at in (line.split() for line in lines)]


def longest_gap_s(entries: Iterable[Entry], since_s: float = 0.0) -> float:
    """The longest time without an acknowledged commit, in seconds.

    Args:
        entries: the ledger.
        since_s: only what ended after that time.
    """
    times = sorted(entry.at_s for entry in entries)
    gaps = (later - earlier for earlier, later in pairwise(times) if later > since_s)
    return max(gaps, default=0.0)


def lost(entries: Iterable[Entry], rows: Iterable[int]) -> list[int]:
    """Numbers that were acknowledged and are not among the rows."""
    there = set(rows)
    return sorted(entry.number for entry in entries if entry.number not in there)


class Writer:
    """Commits numbers, each once, over one connection after the other."""

    def __init__(self, connect: Callable[[], Any], clock: Callable[[], float] = time.time) -> None:
        self._connect = connect
        self._clock = clock
        self._connection: Any = None

    def commit(self, number: int) -> Entry | None:
        """Commit a number; None where no answer came, so that nobody knows."""
        try:
            if self._connection is None:
                self._connection = self._connect()
            with self._connection.cursor() as cursor:
                cursor.execute(f"INSERT INTO {TABLE} (number) VALUES (%s)", (number,))  # noqa: S608
            self._connection.commit()
        except (pymysql.err.Error, OSError):
            self._connection = None
            return None
        return Entry(number, self._clock())


def _options(function: Any) -> Any:
    for name, text in (
        ("host", "Address of the server."),
        ("user", "Account."),
        ("password-file", "File with its password."),
        ("database", "Database."),
    ):
        function = click.option(f"--{name}", required=True, help=text)(function)
    return function


def _connecting(host: str, user: str, password_file: str, database: str) -> Callable[[], Any]:
    password = Path(password_file).read_text().strip()
    return lambda: pymysql.connect(
        host=host,
        user=user,
        password=password,
        database=database,
        connect_timeout=CONNECT_S,
        read_timeout=ANSWER_S,
        write_timeout=ANSWER_S,
    )


@click.group()
def main() -> None:
    """Commit rows, and remember what was acknowledged."""


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--first", type=int, default=1, help="The first number.")
@click.option("--pause", type=float, default=0.02, help="Seconds between two commits.")
@_options
def write(file: Path, first: int, pause: float, **server: str) -> None:
    """Commit until SIGTERM; the table must be there."""
    ended = False

    def end(*_: object) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, end)
    writer = Writer(_connecting(**server))
    number = first
    with file.open("a") as ledger:
        while not ended:
            entry = writer.commit(number)
            if entry is not None:
                ledger.write(f"{entry.number} {entry.at_s:.3f}\n")
                ledger.flush()
            number += 1
            time.sleep(pause if entry is not None else 0.2)


@main.command()
@_options
def rows(**server: str) -> None:
    """Print the numbers that are there, as JSON."""
    connection = _connecting(**server)()
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT number FROM {TABLE}")  # noqa: S608
        click.echo(json.dumps([row[0] for row in cursor.fetchall()]))


if __name__ == "__main__":
    main()

"""`disk-checker create`: the writer on the victim."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

import click

from disk_checker import hostfacts
from disk_checker.claim import claim
from disk_checker.cli.options import Size, writing_options
from disk_checker.errors import DAMAGED, TargetError
from disk_checker.ledger import run_name
from disk_checker.plan import SyncName, WorkloadName
from disk_checker.uplink import Uplink
from disk_checker.writer import Writer


@click.command()
@click.argument("listener", metavar="HOST:PORT")
@click.argument("file", type=click.Path(path_type=Path, readable=False))
@click.argument("size", type=Size())
@writing_options
@click.option("--seconds", type=float, help="Stop by itself after so long (proves nothing).")
def create(
    listener: str,
    file: Path,
    size: int,
    workload: WorkloadName,
    sync: SyncName,
    direct: bool,
    block_size: int,
    threads: int,
    depth: int,
    fill: bool,
    read_back: int,
    on_error: Literal["stop", "continue"],
    force: bool,
    seconds: float | None,
) -> int:
    """Write to FILE (a file, a folder for renames, a device) until the power goes."""
    target = claim(
        file,
        size=size,
        block_size=block_size,
        workload=workload,
        sync=sync,
        direct=direct,
        threads=threads,
        depth=depth,
        filled=fill,
        force=force,
        facts=hostfacts.gather(file),
    )
    try:
        line = Uplink(listener, target.plan)
    except BaseException:
        target.abandon()
        raise
    try:
        click.echo(f"disk-checker: run {run_name(line.run)}")
        line.attend(target.prepare)
        writer = Writer(
            target.plan, line, target.open, read_back=read_back, go_on=on_error == "continue"
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: writer.stop())
        writer.run(_Watch(writer, target.plan.size, seconds))
        if line.fault is None and not writer.progress.errors:
            line.note({"note": "stopped"})
        line.close()
    finally:
        target.close()
    if line.fault is not None:
        raise line.fault
    progress = writer.progress
    for error in progress.errors[:10]:
        click.echo(f"disk-checker: {error}", err=True)
    for finding in progress.findings[:10]:
        click.echo(
            f"disk-checker: read back block {finding['block']}: {finding['class']}: "
            f"{finding['found']}",
            err=True,
        )
    click.echo(f"disk-checker: stopped; {progress.acked} writes acknowledged")
    if progress.disk_errors or progress.findings:
        return DAMAGED
    if progress.errors:
        raise TargetError(
            f"nothing was tested, for a reason that is not the disk's ({progress.errors[0]}): "
            "mend it (no room: take a smaller SIZE), then begin a new run."
        )
    return 0


class _Watch:
    """A line a second, as it always was."""

    def __init__(self, writer: Writer, size: int, seconds: float | None) -> None:
        self._writer, self._size, self._seconds = writer, size, seconds
        self._begun = self._said = time.monotonic()
        self._acked = 0

    def __call__(self) -> None:
        now = time.monotonic()
        if self._seconds is not None and now - self._begun >= self._seconds:
            self._writer.stop()
        if now - self._said < 1:
            return
        done = self._writer.progress.acked
        rate = (done - self._acked) / (now - self._said)
        click.echo(
            f"  disk-checker: running {now - self._begun:.0f} sec, {done} writes acknowledged "
            f"of {self._size >> 20} MB; {rate:.0f}/s"
        )
        with suppress(OSError):
            sys.stdout.flush()
        self._said, self._acked = now, done

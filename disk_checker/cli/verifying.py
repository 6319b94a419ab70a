"""`disk-checker verify`: the judgement after the power is back."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from disk_checker import hostfacts
from disk_checker.cli.options import Size, run_id
from disk_checker.errors import DiskCheckerError
from disk_checker.report import print_report
from disk_checker.result import MIN_ACKED
from disk_checker.verify import keep, verify

_DRAW_S = 0.1


@click.command("verify")
@click.argument("listener", metavar="HOST:PORT")
@click.argument("file", type=click.Path(path_type=Path, readable=False))
@click.option("--run", "run", help="Verify this run instead of the newest on FILE.")
@click.option("--size", type=Size(), help="Refuse unless the run had this size.")
@click.option("--same-boot", is_flag=True, help="Only the disk lost its power, not this host.")
@click.option("--device", default="", help="The file system's device, if its name changed.")
@click.option(
    "--min-acked",
    type=click.IntRange(1),
    default=MIN_ACKED,
    show_default=True,
    help="Fewer acknowledged writes prove nothing.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of the report.")
def verify_command(
    listener: str,
    file: Path,
    run: str | None,
    size: int | None,
    same_boot: bool,
    device: str,
    min_acked: int,
    as_json: bool,
) -> int:
    """Compare FILE with the record, after the power is back."""
    bar = Progress(
        TextColumn(" verifying"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=Console(stderr=True),
        transient=True,
        auto_refresh=False,  # no thread, as others are forked
        disable=as_json or not sys.stderr.isatty(),
    )
    with bar:
        result = verify(
            listener,
            file,
            run=run_id(run),
            size=size,
            same_boot=same_boot,
            device=device,
            min_acked=min_acked,
            progress=_Drawn(bar),
        )
    result.facts = hostfacts.gather(file)
    try:
        keep(listener, result)
    except DiskCheckerError as error:
        click.echo(f"disk-checker: the report is kept nowhere but here: {error}", err=True)
    if as_json:
        click.echo(json.dumps(result.as_json(), indent=1))
    else:
        print_report(result, Console())
    return result.exit_code


class _Drawn:
    """A bar, drawn ten times a second."""

    def __init__(self, bar: Progress) -> None:
        self._bar, self._drawn = bar, 0.0
        self._task = bar.add_task("verify", total=None)

    def __call__(self, done: int, of: int) -> None:
        now = time.monotonic()
        refresh = now - self._drawn >= _DRAW_S
        if refresh:
            self._drawn = now
        self._bar.update(self._task, completed=done, total=of, refresh=refresh)

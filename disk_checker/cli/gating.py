"""`disk-checker gate`: may this host hold data?  Asked by whoever puts data on its disks."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from disk_checker.gate import judge


@click.command()
@click.argument("reports", type=click.Path(path_type=Path), metavar="REPORTS")
@click.argument("disks", nargs=-1, metavar="[DISK]...")
@click.option(
    "--cycles",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Clean cycles that a disk must show.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of sentences.")
def gate(reports: Path, disks: tuple[str, ...], cycles: int, as_json: bool) -> int:
    """Say whether the reports in REPORTS allow to put data on DISKs.

    REPORTS is the folder with one host's reports, as `run --json` and the playbook write them.
    A DISK is a device (/dev/sdb, /dev/sdb1, /dev/disk/by-id/...), a mount point or a path that
    was tested; without one every disk that has a report counts.  Nothing is opened but reports,
    so the host itself need not be up.

    Exit codes: 0 yes; 1 a disk lost or damaged data; 2 a disk was not tested, not often enough,
    or could not be told; 3 a report cannot be read.
    """
    answer = judge(reports, disks, cycles)
    if as_json:
        click.echo(json.dumps(answer.as_json(), indent=1))
    else:
        console = Console()
        for opinion in answer.opinions:
            console.print(f"{opinion.disk}: {opinion.sentence}", soft_wrap=True, markup=False)
        if not answer.opinions:
            console.print(
                f"{reports}: no reports: no disk was tested.  playbooks/disk_check.yml tests and "
                "writes them, or `disk-checker run --json ... > FILE.json`",
                soft_wrap=True,
                markup=False,
            )
    return answer.exit_code

"""``lj disks``: the disk checker from the operator's desk.

The checker stands alone; this only starts its command, ``disk-checker``, and says its
verdict in this command's exit codes.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from lj_services.cli.output import CommandError, Output, json_option
from lj_services.daemon import ExitCode

_CODES = {0: ExitCode.DONE, 1: ExitCode.FAILED, 2: ExitCode.FAILED, 3: ExitCode.USAGE}


def _program() -> str:
    """The command that was installed with this one, else the one on PATH.

    Raises:
        CommandError: there is none.
    """
    beside = Path(sys.executable).with_name("disk-checker")
    found = str(beside) if beside.exists() else shutil.which("disk-checker")
    if found is None:
        raise CommandError("disk-checker is not installed here: install the kit with pip")
    return found


@click.group()
def command() -> None:
    """Prove that disks keep what fsync promised."""


@command.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def check(words: tuple[str, ...]) -> None:
    """Write, pull the power, come back, verify: `disk-checker run` with these words.

    For example: lj disks check --victim db1 --listen 10.0.0.9:5400 --state var/data/disks
    --power-off 'ipmitool -H bmc-$HOST chassis power cycle' /srv/mysql/check 2G
    """
    process = subprocess.Popen([_program(), "run", *(words or ("--help",))])
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    raise SystemExit(_CODES.get(_patiently(process), ExitCode.FAILED))


def _patiently(process: subprocess.Popen[bytes]) -> int:
    """Wait; who is interrupted at a terminal is so together with the checker, which tells then
    what has to be done by hand, and ends its listener."""
    while True:
        with suppress(KeyboardInterrupt):
            return process.wait()


@command.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@json_option
def reports(folder: Path, as_json: bool) -> None:
    """List the verdicts in FOLDER: a listener's state, or the playbook's reports."""
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.json")):
        try:
            report = json.loads(path.read_text())
            last = report["reports"][-1] if "reports" in report else report
            rows.append(
                {
                    "host": last["plan"]["hostname"],
                    "target": last["plan"]["target"],
                    "run": last["run"],
                    "verdict": report["verdict"],
                    "headline": report["headline"],
                }
            )
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise CommandError(f"{path}: not a report of disk-checker ({error})") from None
    Output(as_json).table(["host", "target", "run", "verdict", "headline"], rows)
    if any(row["verdict"] not in ("honest", "unknown") for row in rows):
        raise SystemExit(ExitCode.FAILED)

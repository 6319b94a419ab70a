"""`disk-checker run`: whole cycles from the operator's desk."""

from __future__ import annotations

import json
import shlex
import signal
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from disk_checker.cli.options import as_words, writing_options
from disk_checker.cycle import Settings, Tell, own_listener, run_cycles, series
from disk_checker.errors import DiskCheckerError
from disk_checker.uplink import parse_address
from disk_checker.victim import LocalVictim, SshVictim, Switch, Victim


@click.command("run")
@click.argument("file")
@click.argument("size")
@click.option(
    "--victim",
    default="",
    metavar="[USER@]HOST[:PORT]",
    help="Host with the disk, by ssh.  Default: this one.",
)
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder of the record, on this host.",
)
@click.option(
    "--listen",
    "address",
    default="127.0.0.1:0",
    show_default=True,
    metavar="HOST:PORT",
    help="Where this host's listener is; the victim must reach it.",
)
@click.option(
    "--reach",
    default="",
    metavar="HOST:PORT",
    help="Where the victim reaches it, if elsewhere (listening on 0.0.0.0, behind NAT).",
)
@click.option(
    "--power-off",
    required=True,
    metavar="COMMAND",
    help="Shell command of this host "
    "that pulls the power.  It finds HOST, TARGET, RUN, CYCLE (and PID, the writer's "
    "process here) in its environment.",
)
@click.option("--power-on", default="", metavar="COMMAND", help="... that gives it back.")
@click.option(
    "--cycles",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="How often the power is cut; 60 clean ones tell of a loss below 5 % per cut.",
)
@click.option(
    "--write-seconds",
    type=click.FloatRange(0.1),
    default=30.0,
    show_default=True,
    help="How long it writes before each cut.",
)
@click.option(
    "--back-seconds",
    type=click.FloatRange(1),
    default=900.0,
    show_default=True,
    help="How long the victim may take to come back.",
)
@click.option("--same-boot", is_flag=True, help="Only the disk loses its power, not the victim.")
@click.option("--device", default="", help="The file system's device after the cut.")
@click.option(
    "--program", default="", help="How the victim starts this command, if not from its PATH."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document with all reports.")
@writing_options
def run_command(
    file: str,
    size: str,
    victim: str,
    state: Path,
    address: str,
    reach: str,
    power_off: str,
    power_on: str,
    cycles: int,
    write_seconds: float,
    back_seconds: float,
    same_boot: bool,
    device: str,
    program: str,
    as_json: bool,
    **options: Any,
) -> int:
    """Whole cycles: write, pull the power, come back, verify; N times."""
    if not victim and not same_boot:
        raise click.UsageError(
            "say --victim HOST; or --same-boot, if only a disk of this host loses its power"
        )
    host, _ = parse_address(address)
    if victim and not reach and host in ("0.0.0.0", "::"):  # noqa: S104 - refused
        raise click.UsageError(
            f"{victim} can't reach {host}: say --reach ADDRESS:PORT of this host"
        )
    console = Console(stderr=as_json)
    reports: list[dict[str, Any]] = []
    # As an interrupt: the listener is ended, and a host without power is told.
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def tell(step: str, facts: dict[str, Any]) -> None:
        if step == "verified":
            console.print(
                f"cycle {facts['cycle']}/{cycles}: {facts['report']['headline']}",
                soft_wrap=True,
                markup=False,
            )
        elif step == "writing":
            status.update(
                f"cycle {facts['cycle']}/{cycles}: writing, {facts['seconds']} s, "
                f"{facts['acked']:,} acknowledged, {facts['rate']:,}/s"
            )
        else:
            status.update(f"cycle {facts['cycle']}/{cycles}: {step}")

    with own_listener(address, state) as listener, console.status("starting") as status:
        error = _tried(
            SshVictim(victim) if victim else LocalVictim(),
            Settings(
                target=file,
                size=size,
                listener=listener,
                reach=reach,
                switch=Switch(power_off, power_on),
                cycles=cycles,
                seconds=write_seconds,
                words=as_words(options),
                same_boot=same_boot,
                back_s=back_seconds,
                program=shlex.split(program),
                verify_words=["--device", device] if device else [],
            ),
            tell,
            reports,
        )
    outcome = series(reports, error)
    if as_json:
        click.echo(json.dumps(outcome, indent=1))
    elif reports:
        console.print(outcome["headline"], soft_wrap=True, markup=False)
    if error is not None:
        click.echo(f"disk-checker: {error}", err=True)
    return int(outcome["exit_code"])


def _tried(
    victim: Victim, settings: Settings, tell: Tell, reports: list[dict[str, Any]]
) -> DiskCheckerError | None:
    """Run all cycles; what ended them too early."""
    try:
        run_cycles(victim, settings, tell, reports)
    except DiskCheckerError as error:
        return error
    return None

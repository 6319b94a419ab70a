"""The command `disk-checker`."""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, Literal, get_args

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from disk_checker import hostfacts
from disk_checker.cycle import (
    LocalVictim,
    Settings,
    SshVictim,
    Switch,
    own_listener,
    run_cycles,
    series,
)
from disk_checker.errors import DAMAGED, SETUP, UNKNOWN, DiskCheckerError
from disk_checker.ledger import Ledger, run_name
from disk_checker.listener import serve
from disk_checker.plan import SyncName, WorkloadName, parse_size
from disk_checker.report import print_report
from disk_checker.result import MIN_ACKED
from disk_checker.target import claim
from disk_checker.uplink import Uplink, parse_address
from disk_checker.verify import keep, note_cut, verify
from disk_checker.writer import Writer

EPILOG = """\b
Exit codes:
  0  honest: everything acknowledged is there
  1  data was lost or damaged
  2  could not tell
  3  usage or set-up

\b
Those who know diskchecker.pl:
  diskchecker.pl -l                          disk-checker listen --state DIR
  diskchecker.pl -s HOST create FILE 500     disk-checker create HOST FILE 500M
  diskchecker.pl -s HOST verify FILE         disk-checker verify HOST FILE
"""


class Group(click.Group):
    """Usage errors end with 3, as every error of the set-up; 2 means "could not tell"."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        try:
            sys.exit(super().main(*args, **kwargs) or 0)
        except click.ClickException as error:
            error.show()
            sys.exit(SETUP)
        except click.Abort:
            sys.exit(UNKNOWN)
        except DiskCheckerError as error:
            click.echo(f"disk-checker: {error}", err=True)
            sys.exit(error.exit_code)
        except Exception:
            # Python would end with 1, which here says "data was lost".
            traceback.print_exc()
            sys.exit(SETUP)


class Size(click.ParamType[int]):
    """A size as 512, 16k, 64M, 2G."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else parse_size(str(value))
        except DiskCheckerError as error:
            self.fail(str(error), param, ctx)


@click.group(cls=Group, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Prove that a disk keeps what fsync promised: write, pull the power, check."""


@main.command()
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


def writing_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a run, shared by `create` and `run`."""
    options = [
        click.option(
            "--workload",
            type=click.Choice(get_args(WorkloadName)),
            default="overwrite",
            show_default=True,
            help="Where it writes.",
        ),
        click.option(
            "--sync",
            type=click.Choice(get_args(SyncName)),
            default="fsync",
            show_default=True,
            help="How it asks for durability; sync_file_range and "
            "none promise nothing and are there to show that.",
        ),
        click.option("--direct", is_flag=True, help="O_DIRECT: past the page cache."),
        click.option(
            "--block-size",
            type=Size(),
            default="16k",
            show_default=True,
            help="512 to 1M, a multiple of 512.",
        ),
        click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True),
        click.option(
            "--depth",
            type=click.IntRange(1, 1024),
            default=1,
            show_default=True,
            help="Writes of a thread before each sync.",
        ),
        click.option(
            "--fill",
            is_flag=True,
            help="Write every block once first, so that the "
            "file's metadata is not at stake as well.",
        ),
        click.option(
            "--read-back",
            type=click.IntRange(0),
            default=100,
            show_default=True,
            help="Read an old block back after so many writes; 0: never.",
        ),
        click.option(
            "--on-error",
            type=click.Choice(["stop", "continue"]),
            default="stop",
            show_default=True,
            help="After an I/O error.",
        ),
        click.option(
            "--force",
            is_flag=True,
            help="Overwrite data that is not disk-checker's.  "
            "A device in use is refused all the same.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return wraps(function)(function)


@main.command()
@click.argument("listener", metavar="HOST:PORT")
@click.argument("file", type=click.Path(path_type=Path))
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
        click.echo(f"disk-checker: run {run_name(line.run)}")
        target.prepare()
        writer = Writer(
            target.plan, line, target.open, read_back=read_back, go_on=on_error == "continue"
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: writer.stop.set())
        writer.start()
        _watch(writer, target.plan.size, seconds)
        writer.join()
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
            f"disk-checker: read back block {finding.block}: {finding.cls}: {finding.found}",
            err=True,
        )
    click.echo(f"disk-checker: stopped; {progress.acked} writes acknowledged")
    return DAMAGED if progress.errors or progress.findings else 0


def _watch(writer: Writer, size: int, seconds: float | None) -> None:
    """A line a second, as it always was, until the writer ends."""
    begun = time.monotonic()
    said, acked = begun, 0
    while writer.alive:
        # Not an endless wait: a signal's handler runs between these.
        writer.stop.wait(0.05)
        now = time.monotonic()
        if seconds is not None and now - begun >= seconds:
            writer.stop.set()
        if now - said >= 1:
            done = writer.progress.acked
            rate = (done - acked) / (now - said)
            click.echo(
                f"  disk-checker: running {now - begun:.0f} sec, {done} writes acknowledged "
                f"of {size >> 20} MB; {rate:.0f}/s"
            )
            with suppress(OSError):
                sys.stdout.flush()
            said, acked = now, done
        if writer.stop.is_set():
            return


@main.command("verify")
@click.argument("listener", metavar="HOST:PORT")
@click.argument("file", type=click.Path(path_type=Path))
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
        disable=as_json or not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task("verify", total=None)
        result = verify(
            listener,
            file,
            run=_run_id(run),
            size=size,
            same_boot=same_boot,
            device=device,
            min_acked=min_acked,
            progress=lambda done, of: bar.update(task, completed=done, total=of),
        )
    result.facts = hostfacts.gather(file)
    keep(listener, result)
    if as_json:
        click.echo(json.dumps(result.as_json(), indent=1))
    else:
        print_report(result, Console())
    return result.exit_code


def _run_id(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(text, 16)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a run's id (16 hexadecimal digits)") from None


def _words(options: dict[str, Any]) -> list[str]:
    """Options of a run as `create` reads them."""
    words: list[str] = []
    for name, value in options.items():
        if value is True:
            words.append(f"--{name.replace('_', '-')}")
        elif value not in (False, None):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


@main.command("run")
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
@click.option("--cycles", type=click.IntRange(1), default=1, show_default=True)
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
    console = Console(stderr=as_json)

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
        reports = run_cycles(
            SshVictim(victim) if victim else LocalVictim(),
            Settings(
                target=file,
                size=size,
                listener=listener,
                reach=reach,
                switch=Switch(power_off, power_on),
                cycles=cycles,
                seconds=write_seconds,
                words=_words(options),
                same_boot=same_boot,
                back_s=back_seconds,
                program=shlex.split(program),
                verify_words=["--device", device] if device else [],
            ),
            tell,
        )
    outcome = series(reports)
    if as_json:
        click.echo(json.dumps(outcome, indent=1))
    else:
        console.print(outcome["headline"], soft_wrap=True, markup=False)
    return int(outcome["exit_code"])


@main.command()
@click.argument("listener", metavar="HOST:PORT")
@click.argument("run")
def cut(listener: str, run: str) -> int:
    """Note that the power of RUN's disk is being cut now.

    For power switches that leave the host alive: errors from here on are the cut's.
    """
    note_cut(listener, _run_id(run) or 0)
    return 0


if __name__ == "__main__":
    main()

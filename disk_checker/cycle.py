"""`disk-checker run`: whole cycles from the operator's desk.

One cycle: start `create` on the victim, let it write, note the cut in the record, pull
the power, give it back, wait until the victim answers again with another boot id, then
`verify` there.  The listener is a process of this host; see :mod:`disk_checker.victim` for
the others.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from disk_checker.errors import (
    DAMAGED,
    SETUP,
    CycleError,
    DiskCheckerError,
    ListenerFailed,
    VictimRefused,
)
from disk_checker.statistics import loss_bound
from disk_checker.verify import note
from disk_checker.victim import SshVictim, Switch, Victim

_RUN = re.compile(r"disk-checker: run ([0-9a-f]{16})")
_RATE = re.compile(r"running (\d+) sec, (\d+) writes acknowledged of .*; (\d+)/s")
_NO_PROGRAM = (126, 127)
"""A shell's exit codes for a command that cannot be started."""

_NO_SSH = 255
"""The exit code of the ssh program when there is no connection."""

_BOOT = "cat /proc/sys/kernel/random/boot_id"


@dataclass
class Settings:
    """A series of cycles."""

    target: str
    size: str
    listener: str
    """the address that this host reaches the listener at"""
    switch: Switch
    reach: str = ""
    """the address that the victim reaches it at, if another"""
    cycles: int = 1
    seconds: float = 30.0
    """how long it writes before each cut"""
    words: Sequence[str] = ()
    """options of `create`"""
    same_boot: bool = False
    back_s: float = 900.0
    """how long the victim may take to come back"""
    program: Sequence[str] = ()
    """how the victim starts this command; empty: this Python here, `disk-checker` by ssh"""
    verify_words: Sequence[str] = ()
    environment: dict[str, str] = field(default_factory=dict)


Tell = Callable[[str, dict[str, Any]], None]
"""Called with the step's name ("writing", "cut", "waiting", "verifying", "verified") and facts."""


@contextmanager
def own_listener(address: str, state: Path) -> Iterator[str]:
    """A listener on this host for the length of the block; its address."""
    log = state / "listener.log"
    try:
        state.mkdir(parents=True, exist_ok=True)
        log.touch()
    except OSError as error:
        raise ListenerFailed(f"{state}: {error.strerror}: give another --state") from None
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "disk_checker.cli", "listen"),
                *("--listen", address, "--state", str(state)),
            ],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            process_group=0,  # an interrupt at the desk is not the listener's
        )
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        if "listening on " not in said:
            last = log.read_text(errors="replace").strip().rpartition("\n")[2]
            raise ListenerFailed(
                f"The listener did not start: {last.removeprefix('disk-checker: ')}"
            )
        yield said.split("listening on ")[1].split(",")[0]
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def run_cycles(
    victim: Victim, settings: Settings, tell: Tell, reports: list[dict[str, Any]]
) -> None:
    """All cycles.  Stops at the first that lost something.

    :param reports: one is added as soon as it is there.
    :raises CycleError: when a step did not work.
    """
    for number in range(1, settings.cycles + 1):
        report = _cycle(victim, settings, number, tell)
        reports.append(report)
        tell("verified", {"cycle": number, "report": report})
        if report["exit_code"] == DAMAGED:
            break


def _cycle(victim: Victim, settings: Settings, number: int, tell: Tell) -> dict[str, Any]:
    boot = "" if settings.same_boot else _insist(victim, _BOOT, 30)[1].strip()
    program = settings.program or victim.program
    listener = settings.reach or settings.listener
    words = [*program, "create", listener, settings.target, settings.size]
    try:
        process = victim.start(shlex.join([*words, *settings.words]))
    except OSError as error:
        raise VictimRefused(f"{program[0]}: {error.strerror}: look at --program") from None
    environment = {
        "HOST": victim.name,
        "TARGET": settings.target,
        "CYCLE": str(number),
        **settings.environment,
    }
    try:
        run, failed = _watch(process, victim, settings.seconds, number, tell)
        environment["RUN"] = run
        environment["PID"] = str(process.pid)
        if not failed:
            note(settings.listener, int(run, 16), "cut")
            tell("cut", {"cycle": number, "run": run})
            _pull(settings, victim, environment)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if not failed:
        _give_back(settings, victim, environment)
        tell("waiting", {"cycle": number})
        if not settings.same_boot:
            _wait_back(victim, boot, settings.back_s)
    tell("verifying", {"cycle": number})
    verify = [*program, "verify", listener, settings.target, "--json"]
    verify += ["--run", run, *(["--same-boot"] if settings.same_boot else [])]
    verify += settings.verify_words
    code, out, errors = _insist(victim, shlex.join(verify), 24 * 3600)
    report: dict[str, Any] = json.loads(out) if out.lstrip().startswith("{") else {}
    if code not in (0, 1, 2) or "plan" not in report:
        raise CycleError(f"verify on {victim.name} ended with {code}: {errors.strip()}")
    return report


def _pull(settings: Settings, victim: Victim, environment: dict[str, str]) -> None:
    """The power goes.

    :raises CycleError: it does not, which the run's record then says too.
    """
    try:
        settings.switch.throw(settings.switch.off, environment)
    except CycleError as error:
        with contextlib.suppress(DiskCheckerError):
            note(settings.listener, int(environment["RUN"], 16), "stopped")
        raise CycleError(
            f"The power was not cut: {error}.  Try the --power-off command by hand, with "
            f"HOST={victim.name} in its environment; nothing was tested."
        ) from None
    except KeyboardInterrupt:
        raise _interrupted(settings, victim) from None


def _give_back(settings: Settings, victim: Victim, environment: dict[str, str]) -> None:
    """The power comes back.

    :raises CycleError: it does not; the text says how to go on by hand.
    """
    try:
        settings.switch.throw(settings.switch.on, environment)
    except CycleError as error:
        raise CycleError(
            f"The power did not come back: {error}.  Give it back by hand, then verify on "
            f"{victim.name} by hand (run {environment['RUN']})."
        ) from None
    except KeyboardInterrupt:
        raise _interrupted(settings, victim) from None


def _interrupted(settings: Settings, victim: Victim) -> CycleError:
    how = f": {settings.switch.on}" if settings.switch.on else ""
    return CycleError(f"Interrupted, and the power of {victim.name} may be off: give it back{how}")


def _insist(victim: Victim, command: str, timeout_s: float) -> tuple[int, str, str]:
    """Run a command on a victim that must answer; see :meth:`Victim.run`.

    :raises CycleError: it did not.
    """
    try:
        return victim.run(command, timeout_s)
    except OSError as error:
        raise CycleError(
            f"{error}: `ssh {victim.name}` must work from here without a password."
        ) from None
    except subprocess.TimeoutExpired:
        raise CycleError(
            f"{victim.name}: no answer within {timeout_s:.0f} s to: {command}"
        ) from None


def _watch(
    process: subprocess.Popen[str], victim: Victim, seconds: float, number: int, tell: Tell
) -> tuple[str, bool]:
    """Follow the writer for so long; the run's id, and whether the disk failed it already.

    :raises CycleError: it ended before the cut for another reason.
    """
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    os.set_blocking(descriptor, False)
    run, text, began = "", "", time.monotonic()
    deadline = began + 60
    while time.monotonic() < deadline:
        readable, _, _ = select.select([descriptor], [], [], 0.1)
        if readable:
            piece = os.read(descriptor, 65536).decode(errors="replace")
            if not piece:
                code = process.wait()
                if code == DAMAGED and run:
                    return run, True
                raise _ended(code, text, victim)
            text = (text + piece)[-8192:]
            if not run and (match := _RUN.search(text)):
                run = match[1]
                deadline = time.monotonic() + seconds
            if rates := _RATE.findall(piece):
                ran, acked, rate = map(int, rates[-1])
                tell("writing", {"cycle": number, "seconds": ran, "acked": acked, "rate": rate})
    if not run:
        raise CycleError(
            f"the writer on {victim.name} did not start within a minute: {text.strip()}"
        )
    return run, False


def _ended(code: int, text: str, victim: Victim) -> CycleError:
    """The writer ended before the cut."""
    said = text.strip()[-2000:]
    if code in _NO_PROGRAM:
        said += f" (where is disk-checker on {victim.name}?  Say --program)"
    if code == _NO_SSH and victim.program == SshVictim.program:
        said += f" (`ssh {victim.name}` must work from here without a password)"
    if "No listener at" in said:
        said += f"  From {victim.name} it must be reached: look at --listen and --reach."
    kind = VictimRefused if code == SETUP or code in _NO_PROGRAM else CycleError
    return kind(f"the writer on {victim.name} ended before the cut ({code}): {said}")


def _wait_back(victim: Victim, boot: str, back_s: float) -> None:
    """Until the victim answers with another boot id."""
    deadline = time.monotonic() + back_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            code, now, _ = victim.run(_BOOT, 20)
            if code == 0 and now.strip() and now.strip() != boot:
                return
        time.sleep(1)
    raise CycleError(
        f"{victim.name} did not come back with a new boot within {back_s:.0f} s: look at its "
        "console; verify by hand when it is back"
    )


def series(
    reports: Sequence[dict[str, Any]], error: DiskCheckerError | None = None
) -> dict[str, Any]:
    """What a series of cycles proves together.

    :param error: what ended it too early.
    """
    codes = [report["exit_code"] for report in reports]
    clean = codes.count(0)
    code = 1 if 1 in codes else 0 if clean and clean == len(codes) else 2
    bound = loss_bound(clean)
    if code == 1:
        bad = next(report for report in reports if report["exit_code"] == 1)
        headline = f"cycle {codes.index(1) + 1} of {len(codes)}: {bad['headline']}"
    elif clean:
        headline = (
            f"{clean} of {len(codes)} cycles clean: loss probability per cut under 3/{clean} "
            f"at 95 % (exactly: {bound:.3f})"
        )
    else:
        headline = f"COULD NOT TELL: no cycle of {len(codes)} proved anything"
        if codes:
            headline += f" ({reports[-1]['headline'].removeprefix('COULD NOT TELL: ')})"
    if error is not None:
        code = error.exit_code
        headline = f"COULD NOT TELL after {len(codes)} cycles, {clean} of them clean: {error}"
    return {
        "exit_code": code,
        "verdict": bad["verdict"] if code == 1 else "honest" if code == 0 else "unknown",
        "headline": headline,
        "clean_cycles": clean,
        "cycles": len(codes),
        "loss_probability_below": bound,
        "reports": list(reports),
        **({} if error is None else {"error": str(error)}),
    }

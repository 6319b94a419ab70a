"""`disk-checker run`: whole cycles from the operator's desk.

One cycle: start `create` on the victim, let it write, note the cut in the record, pull
the power, give it back, wait until the victim answers again with another boot id, then
`verify` there.  The victim is this host (a rig, or a disk with its own power switch) or
one reached by ssh.  The listener is a process of this host.

The power commands are the operator's own: `ipmitool -H bmc chassis power off`, a PDU's
SNMP set, a relay, a lab's switch.  They run on this host, by the shell, with HOST,
TARGET, RUN and CYCLE in their environment.
"""

from __future__ import annotations

import contextlib
import json
import logging
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
from typing import Any, Protocol

from disk_checker.errors import CycleError, ListenerFailed
from disk_checker.statistics import loss_bound
from disk_checker.verify import note_cut

_RUN = re.compile(r"disk-checker: run ([0-9a-f]{16})")
_RATE = re.compile(r"running (\d+) sec, (\d+) writes acknowledged of .*; (\d+)/s")
_BOOT = "cat /proc/sys/kernel/random/boot_id"


class Victim(Protocol):
    """Where the disk is."""

    name: str
    program: Sequence[str]

    def start(self, command: str) -> subprocess.Popen[str]:
        """Start a command there; its output is read here."""

    def run(self, command: str, timeout_s: float) -> tuple[int, str, str]:
        """(exit code, stdout, stderr) of a command there; OSError when it can't be reached."""


class LocalVictim:
    """This host: only the disk's power is cut."""

    name = "localhost"
    program: Sequence[str] = (sys.executable, "-m", "disk_checker.cli")

    def start(self, command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            shlex.split(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, command: str, timeout_s: float) -> tuple[int, str, str]:
        done = subprocess.run(
            shlex.split(command), capture_output=True, text=True, timeout=timeout_s, check=False
        )
        return done.returncode, done.stdout, done.stderr


class SshVictim:
    """A host by ssh: writing runs through the ssh program, everything else through fabric.

    :param name: [user@]host[:port], as ssh and fabric both understand through ~/.ssh/config.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.program: Sequence[str] = ("disk-checker",)
        user_host, _, port = name.partition(":")
        self._words = ["ssh", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=2"]
        self._words += ["-o", "ServerAliveCountMax=3", *(["-p", port] if port else []), user_host]

    def start(self, command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self._words, command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str, timeout_s: float) -> tuple[int, str, str]:
        # Imported when used: hosts that only write or listen need no fabric.
        from fabric import Connection  # type: ignore[import-untyped]

        # A host without power is what is waited for here, no error to print.
        logging.getLogger("paramiko").setLevel(logging.CRITICAL)

        try:
            with Connection(self.name, connect_timeout=5) as connection:
                done = connection.run(command, hide=True, warn=True, timeout=timeout_s)
        except Exception as error:  # paramiko, invoke and sockets each have their own
            raise OSError(f"{self.name}: {error}") from error
        return done.return_code, done.stdout, done.stderr


@dataclass(frozen=True)
class Switch:
    """How the power goes and comes; shell commands of this host."""

    off: str
    on: str = ""

    def throw(self, command: str, environment: dict[str, str]) -> None:
        if not command:
            return
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise CycleError(f"{command!r} ended with {done.returncode}: {done.stderr.strip()}")


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
    state.mkdir(parents=True, exist_ok=True)
    log = state / "listener.log"
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "disk_checker.cli", "listen"),
                *("--listen", address, "--state", str(state)),
            ],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        if "listening on " not in said:
            last = log.read_text().strip().rpartition("\n")[2]
            raise ListenerFailed(f"The listener did not start: {last}")
        yield said.split("listening on ")[1].split(",")[0]
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def run_cycles(victim: Victim, settings: Settings, tell: Tell) -> list[dict[str, Any]]:
    """All cycles; the reports.  Stops at the first that lost something.

    :raises CycleError: when a step did not work; the reports so far are lost to the caller,
        not to the listener, which keeps each.
    """
    reports: list[dict[str, Any]] = []
    for number in range(1, settings.cycles + 1):
        report = _cycle(victim, settings, number, tell)
        reports.append(report)
        tell("verified", {"cycle": number, "report": report})
        if report["exit_code"] == 1:
            break
    return reports


def _cycle(victim: Victim, settings: Settings, number: int, tell: Tell) -> dict[str, Any]:
    boot = "" if settings.same_boot else _insist(victim, _BOOT, 30)[1].strip()
    program = settings.program or victim.program
    listener = settings.reach or settings.listener
    words = [*program, "create", listener, settings.target, settings.size]
    try:
        process = victim.start(shlex.join([*words, *settings.words]))
    except OSError as error:
        raise CycleError(f"{program[0]}: {error.strerror}: look at --program") from None
    environment = {
        "HOST": victim.name,
        "TARGET": settings.target,
        "CYCLE": str(number),
        **settings.environment,
    }
    try:
        run = _watch(process, settings.seconds, number, tell)
        environment["RUN"] = run
        environment["PID"] = str(process.pid)
        note_cut(settings.listener, int(run, 16))
        tell("cut", {"cycle": number, "run": run})
        settings.switch.throw(settings.switch.off, environment)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    settings.switch.throw(settings.switch.on, environment)
    tell("waiting", {"cycle": number})
    if not settings.same_boot:
        _wait_back(victim, boot, settings.back_s)
    tell("verifying", {"cycle": number})
    verify = [*program, "verify", listener, settings.target, "--json"]
    verify += ["--run", run, *(["--same-boot"] if settings.same_boot else [])]
    verify += settings.verify_words
    code, out, errors = _insist(victim, shlex.join(verify), 24 * 3600)
    if code not in (0, 1, 2) or not out.lstrip().startswith("{"):
        raise CycleError(f"verify on {victim.name} ended with {code}: {errors.strip()}")
    report: dict[str, Any] = json.loads(out)
    return report


def _insist(victim: Victim, command: str, timeout_s: float) -> tuple[int, str, str]:
    """Run a command on a victim that must answer; see :meth:`Victim.run`.

    :raises CycleError: it did not.
    """
    try:
        return victim.run(command, timeout_s)
    except OSError as error:
        raise CycleError(
            f"{error}: `ssh {victim.name}` must work from here without a password"
        ) from None
    except subprocess.TimeoutExpired:
        raise CycleError(
            f"{victim.name}: no answer within {timeout_s:.0f} s to: {command}"
        ) from None


def _watch(process: subprocess.Popen[str], seconds: float, number: int, tell: Tell) -> str:
    """Follow the writer for so long; the run's id.

    :raises CycleError: it ended before the cut.
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
                process.wait()
                said = text.strip()[-2000:]
                raise CycleError(f"the writer ended before the cut ({process.returncode}): {said}")
            text = (text + piece)[-8192:]
            if not run and (match := _RUN.search(text)):
                run = match[1]
                deadline = time.monotonic() + seconds
            if rates := _RATE.findall(piece):
                ran, acked, rate = map(int, rates[-1])
                tell("writing", {"cycle": number, "seconds": ran, "acked": acked, "rate": rate})
    if not run:
        raise CycleError(f"the writer did not start within a minute: {text.strip()}")
    return run


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


def series(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a series of cycles proves together."""
    codes = [report["exit_code"] for report in reports]
    clean = codes.count(0)
    code = 1 if 1 in codes else 0 if clean and clean == len(codes) else 2
    bound = loss_bound(clean)
    verdict = "honest" if code == 0 else "unknown"
    if code == 1:
        bad = next(report for report in reports if report["exit_code"] == 1)
        verdict = bad["verdict"]
        headline = f"cycle {codes.index(1) + 1} of {len(codes)}: {bad['headline']}"
    elif clean:
        headline = (
            f"{clean} of {len(codes)} cycles clean: loss probability per cut under 3/{clean} "
            f"at 95 % (exactly: {bound:.3f})"
        )
    else:
        headline = f"COULD NOT TELL: no cycle of {len(codes)} proved anything"
    return {
        "exit_code": code,
        "verdict": verdict,
        "headline": headline,
        "clean_cycles": clean,
        "cycles": len(codes),
        "loss_probability_below": bound,
        "reports": list(reports),
    }

"""What a cycle works with: the host that has the disk, and the switch of its power.

The victim is this host (a rig, or a disk with its own power switch) or one reached by ssh.

The power commands are the operator's own: `ipmitool -H bmc chassis power off`, a PDU's
SNMP set, a relay, a lab's switch.  They run on this host, by the shell, with HOST,
TARGET, RUN and CYCLE in their environment.
"""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from disk_checker.errors import CycleError

_SWITCH_S = 600.0


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

    program: Sequence[str] = ("disk-checker",)

    def __init__(self, name: str) -> None:
        self.name = name
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
        """Run one of the commands.

        :raises CycleError: it failed, or did not end within ten minutes.
        """
        if not command:
            return
        # A file and no pipe: a command may leave something running, which would hold that.
        with tempfile.TemporaryFile() as output:
            try:
                code = subprocess.run(
                    ["/bin/sh", "-c", command],
                    env={**os.environ, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    timeout=_SWITCH_S,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                raise CycleError(f"{command!r} did not end within {_SWITCH_S:.0f} s") from None
            output.seek(0)
            said = output.read()[-2000:].decode(errors="replace").strip()
        if code:
            raise CycleError(f"{command!r} ended with {code}: {said or 'it said nothing'}")

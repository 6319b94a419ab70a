"""A stand-in for a host of a pair: the programs that the kit's scripts call, and what they say."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.box import CHECKOUT

PLACES = (
    "/etc/ha.d",
    "/proc",
    "/usr/libexec/heartbeat",
    "/usr/share/heartbeat",
    "/var/lib/heartbeat",
)
"""What scripts name by their whole path; below a folder of the test here."""


class Host:
    """A folder in the place of a host's.

    Args:
        folder: of the test.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._calls = folder / "calls"
        self._calls.touch()
        (folder / "bin").mkdir()
        self.answers("logger", "")
        self.answers("sleep", "")

    @property
    def path(self) -> str:
        """Where programs are looked for: here first."""
        return f"{self._folder}/bin:{os.environ['PATH']}"

    def file(self, path: str) -> Path:
        """Where a file is that a script knows as `path`."""
        at = self._folder / path.lstrip("/")
        at.parent.mkdir(parents=True, exist_ok=True)
        return at

    def answers(self, program: str, script: str) -> None:
        """A program that does what a script of sh says; its calls are counted.

        Args:
            program: its name, or its whole path.
            script: what it does with its arguments.
        """
        at = self.file(program if "/" in program else f"bin/{program}")
        at.write_text(f'#!/bin/sh\necho "{Path(program).name} $*" >>{self._calls}\n{script}\n')
        at.chmod(0o755)

    def calls(self, program: str) -> list[str]:
        """The arguments of each call of a program."""
        lines = self._calls.read_text().splitlines()
        return [line.removeprefix(f"{program} ") for line in lines if line.startswith(program)]

    def install(self, source: str, at: str, **variables: str) -> None:
        """Put a file of the role there, as it finds its paths here."""
        text = (CHECKOUT / "roles/heartbeat" / source).read_text()
        for name, value in variables.items():
            text = text.replace("{{ " + name + " }}", value)
        assert "{{" not in text, text
        for place in (*PLACES, "/usr/local/sbin"):
            text = text.replace(f"{place}/", f"{self._folder}{place}/")
        text = text.replace("run=/run/lj-shoot", f"run={self._folder}/run/lj-shoot")
        self.file(at).write_text(text)
        self.file(at).chmod(0o755)

    def run(self, path: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run what was installed there."""
        return subprocess.run(
            [self.file(path), *words],
            env={**os.environ, "PATH": self.path, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)

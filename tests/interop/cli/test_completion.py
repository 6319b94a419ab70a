"""Completion of ``lj`` in real shells, loaded by the lines that ``lj --help`` shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from lj_services.cli import GROUPS, main
from tests.support.terminal import Terminal

pytestmark = pytest.mark.interop

PROMPT = "ready> "


def line_for(shell: str) -> str:
    """The line of the help that loads the completion."""
    told = CliRunner().invoke(main, ["--help"]).output
    found = re.search(rf"^ +{shell} +(.*)$", told, re.MULTILINE)
    assert found, told
    return found[1]


def environment(home: Path) -> dict[str, str]:
    """A person's who has the kit's programs on PATH, and no settings of their own."""
    programs = Path(sys.executable).parent
    return {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(home), "LC_ALL": "C.UTF-8"}


def start(shell: list[str], home: Path) -> Iterator[Terminal]:
    with Terminal(shell, environment(home)) as terminal:
        terminal.type(f"PS1='{PROMPT[:2]}''{PROMPT[2:]}'\r")
        terminal.wait_for(PROMPT)
        terminal.type(line_for(Path(shell[0]).name) + "\r")
        terminal.wait_for(PROMPT)
        yield terminal


@pytest.fixture
def bash(tmp_path: Path) -> Iterator[Terminal]:
    yield from start(["bash", "--noprofile", "--norc", "-i"], tmp_path)


@pytest.fixture
def zsh(tmp_path: Path) -> Iterator[Terminal]:
    yield from start(["zsh", "--no-rcs", "-i"], tmp_path)


class TestBash:
    def test_finishes_names_of_groups_commands_and_options(self, bash: Terminal) -> None:
        bash.type("lj memc\t")
        bash.wait_for("lj memcached ")
        bash.type("ri\t")
        bash.wait_for("ring ")
        bash.type("--js\t")
        bash.wait_for("--json ")

    def test_knows_files_and_choices(self, bash: Terminal, tmp_path: Path) -> None:
        (tmp_path / "my-site.toml").touch()
        bash.type("lj --site ~/my-\t")
        bash.wait_for("my-site.toml ")
        bash.type("users readonly bob of\t")
        bash.wait_for("off ")

    def test_lists_what_there_is(self, bash: Terminal) -> None:
        bash.type("lj \t\t")
        shown = bash.wait_for(PROMPT)
        assert sorted(shown.split()[1:]) == sorted(GROUPS)


class TestZsh:
    def test_finishes_names_of_groups_commands_and_options(self, zsh: Terminal) -> None:
        zsh.type("lj memc\t")
        zsh.wait_for("memcached ")
        zsh.type("ri\t")
        zsh.wait_for("ring ")
        zsh.type("--js\t")
        zsh.wait_for("--json ")

    def test_lists_what_there_is_and_what_it_is_for(self, zsh: Terminal) -> None:
        zsh.type("lj \t")
        for name, help_ in sorted(GROUPS.items()):
            assert name in zsh.wait_for(help_)


class TestFish:
    def test_finishes_names_and_says_what_they_are_for(self, tmp_path: Path) -> None:
        said = fish(tmp_path, "lj memc", "lj memcached ri", "lj memcached ring --js")
        assert said == [
            f"memcached\t{GROUPS['memcached']}",
            "ring\tOn which cache server each KEY lies.",
            "--json\tPrint one JSON document for machines.",
        ]

    def test_lists_what_there_is(self, tmp_path: Path) -> None:
        said = fish(tmp_path, "lj ")
        assert [line.split("\t")[0] for line in said] == sorted(GROUPS)


def fish(home: Path, *typed: str) -> list[str]:
    """What fish offers for each of the lines `typed`, as its own completion lists it."""
    asked = "\n".join(f"complete --do-complete '{words}'" for words in typed)
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"{line_for('fish')}\n{asked}"],
        env=environment(home),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.splitlines()

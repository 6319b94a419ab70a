"""`make lab-again` fails where another run would change something, and says what."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.box import BIN, CHECKOUT

pytestmark = [pytest.mark.roles, pytest.mark.timeout(900)]

SCENARIO = {
    "molecule.yml": "prerun: false\ndriver: {name: default}\nplatforms: []\n"
    "provisioner: {name: ansible}\n"
    "scenario: {converge_sequence: [converge], check_sequence: [check]}\n",
    "converge.yml": """
- name: Have nothing to do
  hosts: localhost
  gather_facts: false
  vars:
    differs: "{{ lookup('ansible.builtin.env', 'DIFFERS') }}"
  tasks:
    - name: Differ where it is told so
      ansible.builtin.debug:
      changed_when: differs == ('check' if ansible_check_mode else 'run')
""",
}


def make(folder: Path, target: str, differs: str = "") -> subprocess.CompletedProcess[str]:
    """Run a target about labs on a scenario that has no hosts but this one."""
    venv = BIN.parent
    words = ["make", "-f", CHECKOUT / "Makefile", f"VENV={venv}", f"VAR={folder}/var"]
    alone = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MAKELEVEL"}}
    return subprocess.run(
        # The environment is there; what it was made of is not in this folder.
        [*words, "SCENARIO=own", f"--assume-old={venv}/.test", target],
        cwd=folder,
        env={**alone, "HOME": str(folder), "DIFFERS": differs, "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def test_a_run_or_a_check_that_would_change_something_fails_and_is_named(tmp_path: Path) -> None:
    scenario = tmp_path / "molecule/own"
    scenario.mkdir(parents=True)
    for name, text in SCENARIO.items():
        (scenario / name).write_text(text)
    up = make(tmp_path, "lab-up")
    assert up.returncode == 0, up.stdout

    same = make(tmp_path, "lab-again")
    assert same.returncode == 0, same.stdout
    for differs in ("run", "check"):
        told = make(tmp_path, "lab-again", differs)
        assert told.returncode != 0, told.stdout
        assert ("-- --check" in told.stdout) == (differs == "check")
        assert "=> Differ where it is told so" in " ".join(told.stdout.split())

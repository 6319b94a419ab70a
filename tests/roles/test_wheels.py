"""Building the wheels: playbooks that run at once on one control host, builds that fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.box import BIN, CHECKOUT

pytestmark = [pytest.mark.roles, pytest.mark.timeout(300)]

PLAYBOOK = f"""
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.include_role:
        name: {CHECKOUT}/roles/runtime
        tasks_from: "{{{{ item }}}}"
      loop: [name.yml, build.yml]
"""
# Stands for Python and its pip.  Ends when as many builds as `builds` says have begun.
PIP = f"""#!/bin/sh
set -eu
test "$1" != -c || exec {sys.executable} "$@"
here=$(dirname "$0")
for word; do case $word in --wheel-dir=*) wheels=${{word#*=}};; esac; done
mkdir "$wheels"
echo made > "$wheels/kit.whl"
touch "$here/begun.$$"
patience=1200
until test "$(ls "$here" | grep -c begun)" -ge "$(cat "$here/builds")"; do
  patience=$((patience - 1))
  test $patience -gt 0
  sleep 0.05
done
test -s "$wheels/kit.whl"
exit "$(cat "$here/exit")"
"""


def build(folder: Path) -> subprocess.Popen[str]:
    """Start a playbook that builds the wheels below `folder`."""
    (folder / "playbook.yml").write_text(PLAYBOOK)
    pip = folder / "pip"
    if not pip.exists():
        pip.write_text(PIP)
        pip.chmod(0o755)
    variables = {
        "lj_control_dir": folder / "control",
        "lj_runtime_dir": folder / "runtime",
        "runtime_build_python": pip,
    }
    return subprocess.Popen(
        [
            *(BIN / "ansible-playbook", "-i", "localhost,", folder / "playbook.yml"),
            *(word for name, value in variables.items() for word in ("-e", f"{name}={value}")),
        ],
        cwd=CHECKOUT,
        env={
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "ANSIBLE_HOME": str(folder / "ansible"),
            "ANSIBLE_NOCOLOR": "1",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_builds_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    (tmp_path / "builds").write_text("2")
    (tmp_path / "exit").write_text("0")
    running = [build(tmp_path), build(tmp_path)]
    for one in running:
        output, _ = one.communicate()
        assert one.returncode == 0, output
    wheels = tmp_path / "control/wheels"
    (made,) = (path for path in wheels.iterdir() if path.name != ".building")
    assert sorted(path.name for path in made.iterdir()) == ["all.tar", "kit.whl"]
    assert list((wheels / ".building").iterdir()) == []


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "builds").write_text("1")
    (tmp_path / "exit").write_text("1")
    running = build(tmp_path)
    output, _ = running.communicate()
    assert running.returncode != 0, output
    wheels = tmp_path / "control/wheels"
    assert [path.name for path in wheels.iterdir()] == [".building"]
    assert list((wheels / ".building").iterdir()) == []


def test_what_a_killed_build_left_is_dropped_after_a_day(tmp_path: Path) -> None:
    (tmp_path / "builds").write_text("1")
    (tmp_path / "exit").write_text("0")
    building = tmp_path / "control/wheels/.building"
    for name, age_s in (("old", 2 * 86_400), ("new", 60)):
        (building / name / "wheels").mkdir(parents=True)
        then = building.stat().st_mtime - age_s
        os.utime(building / name, (then, then))
    running = build(tmp_path)
    output, _ = running.communicate()
    assert running.returncode == 0, output
    assert [path.name for path in building.iterdir()] == ["new"]

"""The disk checker's role and playbook, on this machine as a disk with a switch of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.roles

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def play(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    inventory = folder / "hosts.json"
    host = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "ansible_remote_tmp": str(folder / "ansible"),
        "lj_control_dir": str(folder / "control"),
        "lj_runtime_dir": str(folder / "runtime"),
        "disk_checker_control_program": str(BIN / "disk-checker"),
        "disk_checker_same_boot": True,
        "disk_checker_cycles": 1,
        "disk_checker_write_seconds": 1,
        "disk_checker_power_off": f'echo "$HOST $TARGET" >> {folder}/cuts',
        "disk_checker_targets": [
            {"path": str(folder / "target"), "size": "1M", "options": ["--block-size", "4k"]}
        ],
    }
    inventory.write_text(json.dumps({"all": {"hosts": {"box1": host}}}))
    return subprocess.run(
        [BIN / "ansible-playbook", "-i", inventory, ROOT / "playbooks/disk_check.yml", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
    )


def test_a_disk_is_tested_once_reported_and_a_liar_refused(tmp_path: Path) -> None:
    first = play(tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    reports = list((tmp_path / "control/disk-checker/reports/box1").glob("*.json"))
    assert len(reports) == 1
    report = json.loads(reports[0].read_text())
    assert report["verdict"] == "honest"
    assert (tmp_path / "cuts").read_text() == f"localhost {tmp_path}/target\n"

    for words in ([], ["--check", "--diff"]):
        again = play(tmp_path, *words)
        assert again.returncode == 0, again.stdout
        assert "changed=0" in again.stdout, again.stdout
    assert len((tmp_path / "cuts").read_text().splitlines()) == 1

    reports[0].write_text(json.dumps(report | {"exit_code": 1, "headline": "LYING: it did"}))
    refused = play(tmp_path)
    assert refused.returncode != 0
    assert "box1 must not hold data" in refused.stdout
    assert "LYING: it did" in refused.stdout
    assert play(tmp_path, "-e", "disk_checker_override=true").returncode == 0

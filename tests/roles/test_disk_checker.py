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


def play(
    folder: Path, *words: str, book: Path = ROOT / "playbooks/disk_check.yml"
) -> subprocess.CompletedProcess[str]:
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
        [BIN / "ansible-playbook", "-i", inventory, book, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_ROLES_PATH": str(ROOT / "roles"),
        },
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
    # What is said is to be typed so; a word is not true because it is one.
    assert "-e disk_checker_again=true" in refused.stdout
    assert play(tmp_path, "-e", "disk_checker_override=false").returncode != 0
    assert play(tmp_path, "-e", "disk_checker_override=true").returncode == 0
    again = play(tmp_path, "-e", "disk_checker_again=true", "-e", "disk_checker_cycles=2")
    assert again.returncode == 0, again.stdout
    assert json.loads(reports[0].read_text())["clean_cycles"] == 2


def refuse(folder: Path, **variables: object) -> subprocess.CompletedProcess[str]:
    """A role that puts data on disks asks."""
    book = folder / "storage.yml"
    task = {"ansible.builtin.include_role": {"name": "disk_checker", "tasks_from": "refuse"}}
    book.write_text(
        json.dumps([{"hosts": "all", "gather_facts": False, "vars": variables, "tasks": [task]}])
    )
    return play(folder, "--check", book=book)


def test_a_role_that_puts_data_on_disks_asks_about_its_own(tmp_path: Path) -> None:
    assert refuse(tmp_path, disk_checker_disks=["/dev/sdb"]).returncode == 0
    untested = refuse(tmp_path, disk_checker_disks=["/dev/sdb"], disk_checker_required=True)
    assert untested.returncode != 0
    assert "/dev/sdb: was not tested" in untested.stdout

    reports = tmp_path / "control/disk-checker/reports/box1"
    reports.mkdir(parents=True)
    for device, code in (("/dev/sdb", 0), ("/dev/sdc", 1)):
        plan = {"target": device, "facts": {}}
        report = {"exit_code": code, "headline": "so it is", "clean_cycles": 1, "plan": plan}
        (reports / f"{Path(device).name}.json").write_text(json.dumps(report))
    honest = refuse(tmp_path, disk_checker_disks=["/dev/sdb"], disk_checker_required=True)
    assert honest.returncode == 0, honest.stdout
    lying = refuse(tmp_path, disk_checker_disks=["/dev/sdb", "/dev/sdc"])
    assert lying.returncode != 0
    assert "/dev/sdc: must not hold data: so it is" in lying.stdout

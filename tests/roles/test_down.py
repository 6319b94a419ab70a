"""`playbooks/down.yml` on a pair: its group stops in order, and nobody starts it again.

Both hosts are this machine, with a systemd, DRBD and Heartbeat that are only played: what counts
is what they are told, and when.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.box import BIN, CHECKOUT

pytestmark = pytest.mark.roles

SERVER, WATCH = "lj-mysql-cluster1.service", "lj-mysql-watch-cluster1.service"
GROUP = {SERVER, WATCH}
PLAYED = '''
"""Plays a host of a pair: units that run are files of a folder, `told` is what was done."""

import os
import sys
from pathlib import Path

name, *words = Path(sys.argv[0]).name, *sys.argv[1:]
pair = Path(sys.argv[0]).parent.parent
host = os.environ["PLAYED_HOST"]
peer = {"left": "right", "right": "left"}[host]
server, watch = "lj-mysql-cluster1.service", "lj-mysql-watch-cluster1.service"


def runs(unit, where=host):
    return (pair / where / unit).exists()


def state(unit):
    return "active" if runs(unit) else "inactive"


def tell(what):
    with (pair / "told").open("a") as file:
        file.write(f"{host}: {what}\\n")


def stop(unit):
    tell(f"stop {unit}")
    (pair / host / unit).unlink(missing_ok=True)
    if unit == server and runs(watch):
        tell("the watcher starts it again")
        (pair / host / unit).touch()
    if unit == "heartbeat.service" and runs(server):
        for one in (watch, server):
            (pair / host / one).unlink()
        if runs(unit, peer):
            tell("the peer takes over")
            for one in (watch, server):
                (pair / peer / one).touch()


if name == "systemctl":
    unit = words[-1]
    if words[0] == "list-units":
        for one in sorted(path.name for path in (pair / host).glob("lj-*")):
            print(one, "loaded active running It")
    elif words[0] == "show":
        print(f"Id={unit}", "LoadState=loaded", f"ActiveState={state(unit)}", sep="\\n")
    elif words[0] == "is-active":
        print(state(unit))
    elif words[0] == "stop":
        stop(unit)
elif name == "drbdadm" and words[0] == "role":
    print("Primary/Secondary" if runs(server) else "Secondary/Primary")
elif name == "ip" and runs(server):
    print("2: eth0    inet 192.0.2.1/24")
'''


@dataclass(frozen=True)
class Pair:
    """Two hosts, `left` and `right`; which units run on them are files."""

    root: Path

    def start(self, holder: str, *beside: str) -> None:
        """Both run Heartbeat, one of them its group; and both what is beside it."""
        (self.root / "told").unlink(missing_ok=True)
        for host in ("left", "right"):
            folder = self.root / host
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            group = GROUP if host == holder else set()
            for unit in ("heartbeat.service", *group, *beside):
                (folder / unit).touch()

    def down(self, *words: str) -> str:
        """What the playbook prints."""
        run = subprocess.run(
            [
                *(BIN / "ansible-playbook", "-i", self.root / "hosts.json"),
                *("playbooks/down.yml", *words),
            ],
            cwd=CHECKOUT,
            env={
                "PATH": f"{self.root / 'bin'}:{BIN}:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME": str(self.root),
                "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
                "ANSIBLE_HOME": str(self.root / "ansible"),
                "ANSIBLE_NOCOLOR": "1",
                "LC_ALL": "C.UTF-8",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    @property
    def told(self) -> list[str]:
        """What was done to the hosts, in that order."""
        return (self.root / "told").read_text().splitlines()

    def running(self, host: str) -> set[str]:
        return {path.name for path in (self.root / host).iterdir()}


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("systemctl", "drbdadm", "cl_status", "ip"):
        (programs / name).write_text(f"#!{BIN / 'python'}{PLAYED}")
        (programs / name).chmod(0o755)
    hosts = {}
    for host in ("left", "right"):
        # By what Ansible's modules run with they know where they are.
        python = programs / f"python-{host}"
        python.write_text(f'#!/bin/sh\nPLAYED_HOST={host} exec {BIN / "python"} "$@"\n')
        python.chmod(0o755)
        hosts[host] = {"ansible_python_interpreter": str(python)}
    both = {
        "ansible_connection": "local",
        "service_manager": "systemd",
        "drbd_resource": "cluster1",
        "heartbeat_address": "192.0.2.1/24",
        "heartbeat_interface": "eth0",
        "heartbeat_crossover_interface": "eth1",
        "lj_secrets_dir": str(tmp_path / "secrets"),
        "lj_run_dir": str(tmp_path),
    }
    groups = {"pairs": {"children": {"pair_cluster1": {"hosts": hosts, "vars": both}}}}
    kit = {"kit": {"children": groups}}
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"children": kit}}))
    return Pair(tmp_path)


@pytest.mark.parametrize("holder", ["left", "right"])
def test_a_pair_stops_and_nothing_moves(pair: Pair, holder: str) -> None:
    pair.start(holder, "lj-mover-host.service")
    spare = {"left": "right", "right": "left"}[holder]
    assert "changed=0" not in pair.down("--check")
    assert not (pair.root / "told").exists()
    pair.down()
    assert pair.told[:2] == [
        f"{spare}: stop heartbeat.service",
        f"{holder}: stop heartbeat.service",
    ]
    assert sorted(pair.told[2:]) == [
        f"{host}: stop lj-mover-host.service" for host in ("left", "right")
    ]
    assert pair.running("left") == pair.running("right") == set()
    assert pair.down().count("changed=0") == 2


def test_one_host_of_a_pair_hands_its_group_over(pair: Pair) -> None:
    pair.start("left", "lj-mover-host.service")
    pair.down("--limit", "left")
    assert pair.told == [
        "left: stop heartbeat.service",
        "left: the peer takes over",
        "left: stop lj-mover-host.service",
    ]
    assert pair.running("left") == set()
    assert pair.running("right") == {"heartbeat.service", "lj-mover-host.service", *GROUP}


def test_a_group_that_heartbeat_has_lost_stops_all_the_same(pair: Pair) -> None:
    pair.start("left")
    for host in ("left", "right"):
        (pair.root / host / "heartbeat.service").unlink()
    pair.down()
    assert pair.told == [f"left: stop {WATCH}", f"left: stop {SERVER}"]
    assert pair.running("left") == set()

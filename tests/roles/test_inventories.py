"""The inventories that come with the kit: what they say is what roles and lab make of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.box import BIN, CHECKOUT
from tools.lab.plan import read_inventory

pytestmark = [pytest.mark.roles]


def ansible(folder: Path, inventory: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "ansible-playbook", "-i", f"inventory/{inventory}", *words],
        cwd=CHECKOUT,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
            "ANSIBLE_HOME": str(folder / "home"),
            "ANSIBLE_NOCOLOR": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )


def worked_out(folder: Path, inventory: str, host: str, values: dict[str, str]) -> Any:
    """Variables of a host as roles see them, once these find it fit; nobody is connected to."""
    play = {
        "hosts": host,
        "connection": "local",
        "gather_facts": False,
        "tasks": [
            *(
                {
                    "ansible.builtin.include_role": {
                        "name": role,
                        "tasks_from": "preflight",
                        "public": True,
                    }
                }
                for role in ("database", "mysql", "mover")
            ),
            {
                "ansible.builtin.copy": {
                    "content": "{{ told | to_json }}",
                    "dest": str(folder / "told.json"),
                    "mode": "0600",
                },
                "vars": {"told": values, "ansible_become": False},
            },
        ],
    }
    (folder / "play.json").write_text(json.dumps([play]))
    told = {"ansible_python_interpreter": sys.executable, "ansible_become": False}
    run = ansible(folder, inventory, folder / "play.json", "-e", json.dumps(told))
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads((folder / "told.json").read_text())


@pytest.mark.parametrize(
    "inventory", ["datacenter", "ha_pair", "ha_slave", "lab", "onebox", "storage"]
)
def test_playbooks_read_it(inventory: str, tmp_path: Path) -> None:
    playbooks = sorted((CHECKOUT / "playbooks").glob("*.yml"))
    run = ansible(tmp_path, inventory, *playbooks, "--list-tasks")  # which checks syntax first
    assert run.returncode == 0, run.stderr
    assert [path for path in playbooks if f"playbook: {path}" not in run.stdout] == []


def test_the_lab_has_a_global_database_and_two_user_clusters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{BIN}:{os.environ['PATH']}")
    hosts = {host.name: host.address for host in read_inventory(CHECKOUT / "inventory/lab").hosts}
    values = {"roles": "{{ database_roles }}", "coordinator": "{{ mover_coordinator_address }}"}
    told = worked_out(tmp_path, "lab", "web1", values)
    assert told["roles"] == {
        role: {"writer": f"mariadb://lj@{hosts[name]}:3306/lj_{role}"}
        for role, name in {
            "global": "db-global",
            "cluster1": "db-cluster1",
            "cluster2": "db-cluster2",
        }.items()
    }
    assert told["coordinator"] == f"{hosts['web1']}:2789"


def test_the_lab_watches_the_disks_of_user_clusters(tmp_path: Path) -> None:
    values = {"watched": "{{ mover_watched }}"}
    found = worked_out(tmp_path, "lab", "db-cluster2", values)
    assert found == {"watched": [{"cluster": 2, "data": "/var/lib/lj/mysql/cluster2/data"}]}
    assert worked_out(tmp_path, "lab", "db-global", values) == {"watched": []}

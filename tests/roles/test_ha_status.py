"""What `lj ha status` is told of hosts that are down, and of what a host can't tell."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lj_services.cli import ha
from tests.support.box import BIN, CHECKOUT
from tests.support.process import free_port

pytestmark = pytest.mark.roles


@pytest.fixture
def said(tmp_path: Path) -> list[dict[str, Any]]:
    """What the playbook writes of a pair and a slave: one host is this machine, two are down."""
    down = {"ansible_host": "127.0.0.1", "ansible_port": free_port()}
    here = {"ansible_connection": "local"}
    instance = {"role": "cluster9", "server_id": 9}
    pair = {
        "drbd_resource": "cluster9",
        "crossover_address": "127.0.0.1",
        "heartbeat_address": "127.0.0.77/8",
        "heartbeat_interface": "lo",
        "heartbeat_crossover_interface": "nic1",
        "mysql_instances": [instance | {"mount": "/srv/cluster9"}],
    }
    slave = {
        "mysql_instances": [instance | {"replica": True}],
        "mysql_replication_sources": {"cluster9": "pair_cluster9"},
    }
    groups = {
        "pairs": {
            "children": {"pair_cluster9": {"hosts": {"left": here, "right": down}, "vars": pair}}
        },
        "slaves": {"hosts": {"behind": here, "far": down}, "vars": slave},
        "mysql": {"children": {"pairs": {}, "slaves": {}}},
    }
    common = {
        "ansible_python_interpreter": str(BIN / "python"),
        "lj_secrets_dir": str(tmp_path / "secrets"),
        "lj_run_dir": str(tmp_path),
        "lj_data_dir": str(tmp_path),
    }
    inventory = tmp_path / "inventory.json"
    inventory.write_text(json.dumps({"all": {"children": groups, "vars": common}}))
    file = tmp_path / "said.json"
    asked = f"ha_status_file={file}"
    run = subprocess.run(
        [BIN / "ansible-playbook", "-i", inventory, "playbooks/ha_status.yml", "-e", asked],
        cwd=CHECKOUT,
        env={
            **os.environ,
            "HOME": str(tmp_path),
            "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
            "ANSIBLE_HOME": str(tmp_path / "ansible"),
            "ANSIBLE_NOCOLOR": "1",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert file.exists(), run.stdout + run.stderr
    assert not (tmp_path / "secrets").exists()
    found: list[dict[str, Any]] = json.loads(file.read_text())
    return found


def test_hosts_that_are_down_are_told_from_those_that_are_not_well(
    said: list[dict[str, Any]],
) -> None:
    assert {row["host"]: row["trouble"] for row in ha.pairs(said)} == {
        "left": "disks are not known",
        "right": "can't be reached",
    }
    assert {row["slave"]: row["trouble"] for row in ha.slaves(said)} == {
        "behind/cluster9": "does not replicate",
        "far/cluster9": "can't be reached",
    }
    (left,) = [each["state"] for each in said if each["host"] == "left"]
    assert {name: told for name, told in left.items() if told is None} == {}

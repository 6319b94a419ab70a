"""Where the servers of several hosts are, as the role database works it out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.box import BIN, CHECKOUT

pytestmark = [pytest.mark.roles]

SERVERS = {
    "db1": {"ansible_host": "10.0.1.11", "mysql_instances": [{"role": "global"}]},
    "db2": {
        "ansible_host": "10.0.1.21",
        "database_address": "10.0.1.20",
        "mysql_instances": [{"role": "cluster1", "port": 3307}, {"role": "cluster12"}],
        "mysql_port": 3400,
    },
}


def worked_out(
    folder: Path, more: dict[str, Any] | None = None, **variables: object
) -> dict[str, Any]:
    """The role's variables on a web host."""
    site = {
        "database_engine": "mariadb",
        "lj_secrets_dir": str(folder / "secrets"),
        "lj_data_dir": "/var/lib/lj",
        "lj_etc_dir": "/etc/lj",
        "lj_user": "lj",
        "lj_group": "lj",
    }
    children = {"mysql": {"hosts": {**SERVERS, **(more or {})}}, "journal": {"hosts": {"web1": {}}}}
    (folder / "hosts.json").write_text(json.dumps({"all": {"children": children}}))
    role = CHECKOUT / "roles/database"
    names = ("roles", "accounts", "written_site_files", "secrets")
    values = {name: f"{{{{ database_{name} }}}}" for name in names}
    play = {
        "hosts": "journal",
        "connection": "local",
        "gather_facts": False,
        "vars_files": [str(role / "defaults/main.yml"), str(role / "vars/main.yml")],
        "vars": {"ansible_python_interpreter": sys.executable, "told": values},
        "tasks": [
            {
                "ansible.builtin.copy": {
                    "content": "{{ told | to_json }}",
                    "dest": str(folder / "told.json"),
                    "mode": "0600",
                }
            }
        ],
    }
    (folder / "play.json").write_text(json.dumps([play]))
    run = subprocess.run(
        [
            *(BIN / "ansible-playbook", "-i", folder / "hosts.json", folder / "play.json"),
            *("-e", json.dumps({**site, **variables})),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=CHECKOUT,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
            "ANSIBLE_REMOTE_TMP": str(folder / "tmp"),
            "ANSIBLE_NOCOLOR": "1",
        },
    )
    assert run.returncode == 0, run.stdout + run.stderr
    told: dict[str, Any] = json.loads((folder / "told.json").read_text())
    return told


def test_every_server_of_the_group_is_known_at_its_address(tmp_path: Path) -> None:
    told = worked_out(tmp_path)
    assert told["roles"] == {
        "global": {"writer": "mariadb://lj@10.0.1.11:3306/lj_global"},
        "cluster1": {"writer": "mariadb://lj@10.0.1.20:3307/lj_cluster1"},
        "cluster12": {"writer": "mariadb://lj@10.0.1.20:3400/lj_cluster12"},
    }
    assert told["accounts"] == {"mover": "lj_mover", "schema": "lj_schema"}
    assert told["written_site_files"] == ["/etc/lj/site.toml", "/etc/lj/site-mover.toml"]


def test_both_hosts_of_a_pair_are_one_writer_and_slaves_are_readers(tmp_path: Path) -> None:
    pair = {"database_address": "10.0.1.30", "mysql_instances": [{"role": "cluster2"}]}
    slave = [{"role": "cluster2", "replica": True}]
    more = {
        "db3-a": {"ansible_host": "10.0.1.31", **pair},
        "db3-b": {"ansible_host": "10.0.1.32", **pair},
        "db3-s": {"ansible_host": "10.0.1.33", "mysql_instances": slave},
    }
    told = worked_out(tmp_path, more)
    assert told["roles"]["cluster2"] == {
        "writer": "mariadb://lj@10.0.1.30:3306/lj_cluster2",
        "readers": [{"url": "mariadb://lj@10.0.1.33:3306/lj_cluster2"}],
    }
    assert "readers" not in told["roles"]["cluster1"]


def test_a_slave_that_is_a_pair_is_one_reader(tmp_path: Path) -> None:
    slave = {"mysql_instances": [{"role": "cluster12", "replica": True}]}
    pair = {"database_address": "10.0.1.40", **slave}
    more = {
        "db4-a": {"ansible_host": "10.0.1.41", **pair},
        "db4-b": {"ansible_host": "10.0.1.42", **pair},
        "db4-s": {"ansible_host": "10.0.1.43", **slave},
    }
    assert worked_out(tmp_path, more)["roles"]["cluster12"]["readers"] == [
        {"url": "mariadb://lj@10.0.1.40:3306/lj_cluster12"},
        {"url": "mariadb://lj@10.0.1.43:3306/lj_cluster12"},
    ]


def test_passwords_are_made_once_unless_they_are_given(tmp_path: Path) -> None:
    given = {"cluster1": {"mover": "from the vault"}}
    secrets = worked_out(tmp_path, mysql_passwords=given)["secrets"]
    assert len(secrets) == 3 * 3
    (mover,) = [
        each for each in secrets if (each["role"], each["account"]) == ("cluster1", "mover")
    ]
    assert mover["password"] == "from the vault"
    assert worked_out(tmp_path, mysql_passwords=given)["secrets"] == secrets
    kept = list((tmp_path / "secrets/mysql").iterdir())
    assert "cluster1-mover" not in {path.name for path in kept}
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}


def test_servers_described_by_hand_have_the_sites_account_alone(tmp_path: Path) -> None:
    roles = {"global": {"writer": "mariadb://lj@db:3306/lj"}}
    told = worked_out(tmp_path, database_roles=roles, database_passwords={"global": "secret"})
    assert told["accounts"] == {}
    assert told["secrets"] == [{"account": "site", "role": "global", "password": "secret"}]
    assert told["written_site_files"] == ["/etc/lj/site.toml"]
    assert not (tmp_path / "secrets").exists()

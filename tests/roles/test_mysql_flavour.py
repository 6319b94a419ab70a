"""MySQL in the place of MariaDB: what is refused, and what its servers are told.

Debian has no packages of MySQL, so no server of it runs here.
"""

from __future__ import annotations

import configparser
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.box import CHECKOUT, Box, Run

pytestmark = [pytest.mark.roles]

ROLE = CHECKOUT / "roles/mysql"


def play(box: Box, folder: Path, tasks: list[dict[str, Any]], **variables: object) -> Run:
    """Run tasks on a box that is to have MySQL."""
    file = folder / "play.json"
    file.write_text(
        json.dumps(
            [
                {
                    "hosts": "mysql",
                    "gather_facts": True,
                    "gather_subset": ["!all", "!min", "user", "service_mgr"],
                    "tasks": tasks,
                }
            ]
        )
    )
    wanted = {"database_engine": "mariadb", "database_clusters": 1, "mysql_flavour": "mysql"}
    return box.play(str(file), **{**wanted, **variables})


PREFLIGHT = {"ansible.builtin.include_role": {"name": "mysql", "tasks_from": "preflight"}}


def test_a_site_whose_host_has_no_mysql_is_refused_before_anything_is_changed(fresh: Box) -> None:
    run = fresh.play("playbooks/site.yml", database_engine="mariadb", mysql_flavour="mysql")
    assert run.exit_code != 0
    assert run.count("changed") == 0
    assert "mysql_flavour is mysql, but this host has none" in run.output
    assert "is of another kind" in run.output
    assert "Set mysql_flavour to mariadb" in run.output
    assert not fresh.root.exists()


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"mysql_server_program": "/nowhere/mysqld"}, "/nowhere/mysqld is not there"),
        ({"service_manager": "systemd"}, "its package sources have no mysql-server"),
        ({"mysql_semi_sync": "true"}, "mysql_semi_sync is MariaDB's"),
    ],
)
def test_why_it_is_refused(fresh: Box, tmp_path: Path, variables: dict[str, str], why: str) -> None:
    run = play(fresh, tmp_path, [PREFLIGHT], **variables)
    assert run.exit_code != 0
    assert why in run.output


def test_a_slave_of_mysql_is_refused(fresh: Box, tmp_path: Path) -> None:
    look = {"name": "mysql_replication", "tasks_from": "preflight"}
    slave = [{"role": "cluster1", "replica": True}]
    run = play(
        fresh,
        tmp_path,
        [{"ansible.builtin.include_role": look}],
        mysql_instances=slave,
        mysql_replication_sources={"cluster1": "mysql"},
    )
    assert run.exit_code != 0
    assert "slaves are MariaDB's: leave out mysql_replication_sources" in run.output


def test_a_host_that_has_mysql(fresh: Box, tmp_path: Path) -> None:
    program = tmp_path / "mysqld"
    program.write_text(
        "#!/bin/sh\necho '/usr/sbin/mysqld  Ver 8.4.3 for Linux on x86_64 (MySQL Community Server)'"
    )
    program.chmod(0o755)
    configuration = {
        "ansible.builtin.template": {
            "src": str(ROLE / "templates/server.cnf.j2"),
            "dest": f"{tmp_path}/{{{{ mysql_flavour }}}}.cnf",
            "mode": "0600",
        },
        "vars": {"mysql_instance": {"role": "cluster1", "port": 13307}},
    }
    read = [
        {"ansible.builtin.include_vars": str(ROLE / f"{folder}/main.yml")}
        for folder in ("defaults", "vars")
    ]
    run = play(
        fresh, tmp_path, [PREFLIGHT, *read, configuration], mysql_server_program=str(program)
    )
    assert run.exit_code == 0, run.output
    run = play(fresh, tmp_path, [*read, configuration], mysql_flavour="mariadb")
    assert run.exit_code == 0, run.output

    def settings(flavour: str, section: str) -> dict[str, str]:
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(tmp_path / f"{flavour}.cnf")
        assert parser.sections() == [section]
        return dict(parser[section])

    mysql, mariadb = settings("mysql", "mysqld"), settings("mariadb", "mariadbd")
    assert {name: value for name, value in mysql.items() if mariadb.get(name) != value} == {
        "gtid_mode": "ON",
        "enforce_gtid_consistency": "ON",
        "innodb_redo_log_capacity": "96M",
        "log_replica_updates": "ON",
        "binlog_transaction_compression": "OFF",
        "plugin_load_add": "auth_socket.so",
        "mysqlx": "OFF",
    }
    assert mariadb.keys() - mysql.keys() == {
        "gtid_domain_id",
        "gtid_strict_mode",
        "innodb_log_file_size",
        "log_slave_updates",
        "log_bin_compress",
        "loose_wsrep_node_address",
        "symbolic_links",
    }


class Answers:
    """In the place of a connection: answers questions, and remembers what is changed."""

    def __init__(self, module: Any, grants: list[str], password: int | None) -> None:
        self.server = module.Server(None, "mysql", True)
        self.grants, self.password = grants, password
        self.server.ask = self.ask

    def ask(self, statement: str, parameters: tuple[str, ...] = ()) -> list[tuple[Any, ...]]:
        if statement.startswith("SHOW GRANTS"):
            return [(line,) for line in self.grants]
        return [] if self.password is None else [(self.password,)]


@pytest.mark.parametrize(
    ("password", "grants", "done"),
    [
        (
            None,
            [],
            ["account lj@h", "lj@h may REPLICATION CLIENT on *.*", "lj@h may SELECT on `d`.*"],
        ),
        (
            1,
            [
                "GRANT REPLICATION CLIENT ON *.* TO `lj`@`h`",
                "GRANT CONNECTION_ADMIN ON *.* TO `lj`@`h`",
                "GRANT SELECT ON `d`.* TO `lj`@`h`",
            ],
            ["lj@h no longer CONNECTION_ADMIN on *.*"],
        ),
        (
            0,
            ["GRANT USAGE ON *.* TO `lj`@`h`", "GRANT SELECT ON `d`.* TO `lj`@`h`"],
            ["password of lj@h", "lj@h may REPLICATION CLIENT on *.*"],
        ),
    ],
)
def test_accounts_on_mysql(password: int | None, grants: list[str], done: list[str]) -> None:
    spec = importlib.util.spec_from_file_location("accounts", ROLE / "files/accounts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    answers = Answers(module, grants, password)
    account = {
        "user": "lj",
        "password": "p",
        "everywhere": ["REPLICATION CLIENT"],
        "database": ["SELECT"],
    }
    module.have_account(answers.server, account, "h", "d")
    assert answers.server.done == done

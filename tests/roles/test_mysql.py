"""One box on MariaDB: a private server for each database role, with accounts of their own."""

from __future__ import annotations

import json
import select
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.box import Box
from tests.support.process import free_ports

pytestmark = [pytest.mark.roles, pytest.mark.timeout(900)]
SITE = "playbooks/site.yml"
ENGINE: dict[str, Any] = {"database_engine": "mariadb", "database_clusters": 1}
ADDED = 2


@pytest.fixture(scope="module")
def mysql_box(short_directory: Path, wheels: None) -> Iterator[Box]:
    box = Box(short_directory / "mysql")
    box.ports["mysql_port"] = free_ports(1 + ADDED)
    try:
        run = box.play(SITE, **ENGINE)
        assert run.exit_code == 0, run.output
        yield box
    finally:
        box.play("playbooks/down.yml", **ENGINE)
        shutil.rmtree(box.root, ignore_errors=True)


def as_admin(box: Box, role: str, *statements: str) -> list[str]:
    """What a server answers whoever runs the playbook, through its socket; lines."""
    run = subprocess.run(
        [
            *("mariadb", "--no-defaults", "--batch", "--skip-column-names"),
            *("--socket", box.root / f"run/mysql-{role}.sock", "--execute", ";".join(statements)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def moved(box: Box, name: str, cluster: int) -> dict[str, Any]:
    """Have a user moved by the worker that runs there, and tell how it went."""
    look = box.command(
        "users", "move", name, str(cluster), "--dry-run", "--json", site="site-mover.toml"
    )
    assert look.returncode == 0, look.stderr
    assert "the binary log" in look.stdout
    run = box.command(
        "users", "move", name, str(cluster), "--wait", "--json", site="site-mover.toml"
    )
    assert run.returncode == 0, run.stderr
    (move,) = json.loads(box.command("moves", "list", "--json", site="site-mover.toml").stdout)[-1:]
    assert isinstance(move, dict)
    return move


def test_the_site_works(mysql_box: Box) -> None:
    smoke = mysql_box.command("smoke")
    assert smoke.returncode == 0, smoke.stdout + smoke.stderr
    servers = {"mysql-global", "mysql-cluster1"}
    assert set(mysql_box.pids()) == {
        *("gearman-worker", "gearmand", "gofer", "journal", "memcached"),
        *("mover-coordinator", "mover-host", "mover-worker", "perlbal"),
        *servers,
    }


def test_what_supervisor_writes_to_is_open_as_long_as_its_programs_run(mysql_box: Box) -> None:
    """MariaDB closes its standard input.  Of a pipe that nobody reads poll() tells each time it
    is asked, at once: supervisor, where it asks, would never rest."""
    supervisor = Path(f"/proc/{int(mysql_box.supervisorctl('pid'))}/fd")
    pipes = [end for end in supervisor.iterdir() if str(end.readlink()).startswith("pipe:")]
    # The one of each program's two that supervisor's end may write to.
    written = [end for end in pipes if end.lstat().st_mode & stat.S_IWUSR]
    assert len(written) == len(mysql_box.pids())
    told = select.poll()
    with ExitStack() as opened:
        for end in written:
            told.register(opened.enter_context(end.open("wb", buffering=0)), 0)
        assert told.poll(0) == []


@pytest.mark.parametrize(("role", "number"), [("global", "1"), ("cluster1", "2")])
def test_what_was_committed_stays_and_can_be_followed(
    mysql_box: Box, role: str, number: str
) -> None:
    wanted = {
        "innodb_flush_log_at_trx_commit": "1",
        "sync_binlog": "1",
        "log_bin": "1",
        "binlog_format": "ROW",
        "binlog_row_metadata": "FULL",
        "gtid_strict_mode": "1",
        "gtid_domain_id": number,
        "server_id": number,
        "collation_server": "utf8mb4_bin",
    }
    columns = ", ".join(f"@@global.{name}" for name in wanted)
    (found,) = as_admin(mysql_box, role, f"SELECT {columns}")
    assert dict(zip(wanted, found.split("\t"), strict=True)) == wanted


def test_accounts_may_do_what_they_have_to_and_nothing_else(mysql_box: Box) -> None:
    def rights(user: str, role: str) -> set[str]:
        lines = as_admin(mysql_box, role, f"SHOW GRANTS FOR {user}@'127.0.0.1'")
        return {line.removeprefix("GRANT ").split(" TO ")[0] for line in lines}

    everyday = "SELECT, INSERT, UPDATE, DELETE"
    assert rights("lj", "cluster1") == {"SLAVE MONITOR ON *.*", f"{everyday} ON `lj_cluster1`.*"}
    assert rights("lj_mover", "cluster1") == {
        "REPLICATION SLAVE, BINLOG MONITOR, SLAVE MONITOR ON *.*",
        f"{everyday}, TRIGGER ON `lj_cluster1`.*",
    }
    assert rights("lj_mover", "global") == {"SLAVE MONITOR ON *.*", f"{everyday} ON `lj_global`.*"}
    users = as_admin(mysql_box, "global", "SELECT user FROM mysql.user ORDER BY user")
    assert [user for user in users if user.startswith("lj")] == ["lj", "lj_mover", "lj_schema"]
    assert "" not in users
    assert mysql_box.command("db", "migrate").returncode == 0  # nothing to do


def test_secrets_are_for_their_owner_alone(mysql_box: Box) -> None:
    kept = sorted((mysql_box.root / "secrets/mysql").iterdir())
    written = sorted((mysql_box.root / "etc/secrets").glob("database-*"))
    assert len(kept) == len(written) == 2 * 3
    assert {path.stat().st_mode & 0o777 for path in [*kept, *written]} == {0o600}
    assert len({path.read_text() for path in kept}) == len(kept)
    shown = "".join(path.read_text() for path in (mysql_box.root / "etc").rglob("*.toml"))
    assert not [path for path in kept if path.read_text().strip() in shown]


def test_rights_that_came_and_went_are_set_right_and_nothing_else_is_changed(
    mysql_box: Box,
) -> None:
    pids = mysql_box.pids()
    account = "lj@'127.0.0.1'"
    as_admin(
        mysql_box,
        "cluster1",
        f"GRANT FILE ON *.* TO {account}",
        f"REVOKE DELETE ON lj_cluster1.* FROM {account}",
        f"ALTER USER {account} IDENTIFIED BY 'another'",
        "CREATE USER lj@'%'",
    )
    told = mysql_box.play(SITE, "--check", "--diff", **ENGINE)
    assert told.changed_tasks == ["mysql : Have the database and its accounts"], told.output
    mended = mysql_box.play(SITE, "--tags=mysql", **ENGINE)
    assert mended.exit_code == 0, mended.output
    assert mended.changed_tasks == ["mysql : Have the database and its accounts"], mended.output
    hosts = as_admin(mysql_box, "cluster1", "SELECT host FROM mysql.user WHERE user = 'lj'")
    assert hosts == ["127.0.0.1"]
    grants = "\n".join(as_admin(mysql_box, "cluster1", f"SHOW GRANTS FOR {account}"))
    assert "FILE" not in grants
    assert "DELETE" in grants
    assert mysql_box.pids() == pids
    assert mysql_box.command("db", "status").returncode == 0


def test_a_user_cluster_is_added_and_users_move_to_it(mysql_box: Box) -> None:
    refused = mysql_box.play("playbooks/add_user_cluster.yml", cluster=ADDED, **ENGINE)
    assert refused.exit_code != 0
    assert "the inventory has no cluster2" in refused.output
    assert refused.count("changed") == 0

    before = mysql_box.pids()
    added = {**ENGINE, "database_clusters": ADDED, "cluster": ADDED}
    run = mysql_box.play("playbooks/add_user_cluster.yml", **added)
    assert run.exit_code == 0, run.output
    after = mysql_box.pids()
    told = {"gofer", "journal", "mover-coordinator", "mover-host", "mover-worker"}
    assert {name for name in after if after[name] == before.get(name)} == before.keys() - told
    assert after.keys() - before.keys() == {"mysql-cluster2"}

    smoke = mysql_box.command("smoke")
    assert smoke.returncode == 0, smoke.stdout + smoke.stderr
    users = json.loads(mysql_box.command("users", "list", "--json").stdout)
    move = moved(mysql_box, users[0]["name"], ADDED)
    assert (move["state"], move["to"]) == ("switched", ADDED)
    assert move["rows"] > 0
    assert mysql_box.command("smoke").returncode == 0

    again = mysql_box.play("playbooks/add_user_cluster.yml", **added)
    assert again.exit_code == 0, again.output
    assert again.count("changed") == 0, again.changed_tasks

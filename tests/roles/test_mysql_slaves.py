"""Slaves: they follow, semi-synchronously where asked; their backups are tried, and restored.

A server, its slave and that one's own slave on this machine, from the roles that racks have.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lj_services.cli import ha
from tests.support.box import BIN, CHECKOUT
from tests.support.process import free_ports, wait_for

DELAY_S = 2
"""Seconds that the slave of the slave stays behind."""

LAG_S = 3
"""What more it may be behind to count as one that has caught up."""

SUM = "CHECKSUM TABLE lj_cluster1.posts"

pytestmark = [pytest.mark.roles, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Site:
    """Hosts, all of them this machine, each with folders of its own.

    `its-slave` follows `one`, as a pair may follow another one; `far-slave` follows `its-slave`,
    and stays behind on purpose.
    """

    root: Path
    port: int

    def prepare(self) -> None:
        """Folders, the runtime, the inventory and the play that makes servers."""
        for name in ("one", "its-slave", "far-slave"):
            for folder in ("etc", "data", "log", "run", "runtime"):
                (self.root / name / folder).mkdir(parents=True)
            (self.root / name / "runtime/current").symlink_to(BIN.parent)
        both = {
            "ansible_connection": "local",
            "ansible_python_interpreter": str(BIN / "python"),
            "ansible_host": "127.0.0.1",
            "lj_root": f"{self.root}/{{{{ inventory_hostname }}}}",
            "lj_control_dir": str(self.root / "control"),
            "lj_secrets_dir": str(self.root / "secrets"),
            **{f"lj_{name}_dir": f"{{{{ lj_root }}}}/{name}" for name in ("etc", "data", "log")},
            **{f"lj_{name}_dir": f"{{{{ lj_root }}}}/{name}" for name in ("run", "runtime")},
            "lj_user": "",
            "lj_group": "",
            "service_manager": "supervisor",
            "mysql_buffer_pool": "32M",
            "mysql_redo_log": "16M",
            # Many servers at once would share out the kernel's room for native requests.
            "mysql_semi_sync": True,
            "mysql_semi_sync_timeout_ms": 30_000,
            "mysql_settings": {"innodb_use_native_aio": "OFF"},
            "mysql_backup_dir": "{{ lj_root }}/backups",
            "mysql_backup_kept": 2,
        }
        server = {"role": "cluster1", "server_id": 201}
        hosts = {
            # First, though what it follows comes later.
            "far-slave": {
                "mysql_port": self.port + 2,
                "mysql_instances": [server | {"server_id": 203, "replica": True}],
                "mysql_replication_sources": {"cluster1": "slaves"},
                "mysql_replication_delay_s": DELAY_S,
            },
            "one": {"mysql_port": self.port, "mysql_instances": [server | {"replicated": True}]},
            "its-slave": {
                "mysql_port": self.port + 1,
                "mysql_instances": [
                    server | {"server_id": 202, "replica": True, "replicated": True}
                ],
                "mysql_replication_sources": {"cluster1": "sources"},
            },
        }
        children = {
            "kit": {"children": {"mysql": {"hosts": hosts}}},
            "sources": {"hosts": {"one": {}}},
            "slaves": {"hosts": {"its-slave": {}}},
        }
        (self.root / "hosts.json").write_text(
            json.dumps({"all": {"children": children, "vars": both}})
        )
        subset = ["!all", "!min", "python", "platform", "service_mgr", "user"]
        servers = {
            "hosts": "mysql",
            "gather_facts": True,
            "gather_subset": subset,
            "serial": 1,
            "roles": ["mysql"],
        }
        # All at once: a slave's source may be a slave that does not follow yet.
        follow = {
            "hosts": "mysql",
            "gather_facts": False,
            "tasks": [
                {
                    "ansible.builtin.include_role": {"name": "mysql_replication"},
                    "when": "mysql_replication_sources is defined",
                }
            ],
        }
        (self.root / "servers.json").write_text(json.dumps([servers, follow]))
        follow |= {"gather_facts": True, "gather_subset": subset}
        (self.root / "follow.json").write_text(json.dumps([follow]))
        caught_up = {"name": "mysql_replication", "tasks_from": "follows"}
        tasks = [{"ansible.builtin.include_role": caught_up}]
        (self.root / "follows.json").write_text(json.dumps([follow | {"tasks": tasks}]))

    def begin_play(self, book: str | Path, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [BIN / "ansible-playbook", "-i", self.root / "hosts.json", book, *words],
            cwd=CHECKOUT,
            env={
                **os.environ,
                "PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin",
                "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
                "ANSIBLE_ROLES_PATH": str(CHECKOUT / "roles"),
                "ANSIBLE_HOME": str(self.root / "ansible"),
                "ANSIBLE_REMOTE_TMP": str(self.root / "ansible/tmp"),
                "ANSIBLE_NOCOLOR": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def play(self, book: str | Path, *words: str) -> subprocess.CompletedProcess[str]:
        with self.begin_play(book, *words) as run:
            out, error = run.communicate()
        return subprocess.CompletedProcess(run.args, run.returncode, out, error)

    def backup(self, *words: str) -> subprocess.CompletedProcess[str]:
        told = ("-e", "server=cluster1", "--limit", "its-slave")
        return self.play("playbooks/backup.yml", *told, *words)

    def restore(self, *words: str) -> subprocess.CompletedProcess[str]:
        told = ("-e", "server=cluster1", "--limit", "its-slave")
        return self.play("playbooks/restore.yml", *told, *words)

    def begin(self, host: str, *statements: str) -> subprocess.Popen[str]:
        """A client who says something to a server."""
        words = ["mariadb", "--no-defaults", "--batch", "--skip-column-names"]
        words += ["--database", "lj_cluster1", "--execute", ";".join(statements)]
        words += ["--socket", str(self.root / host / "run/mysql-cluster1.sock")]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def ask(self, host: str, *statements: str) -> list[str]:
        """Lines that a server answers."""
        with self.begin(host, *statements) as client:
            out, error = client.communicate()
        assert client.returncode == 0, error
        return out.splitlines()

    def together(self, slave: str = "its-slave") -> None:
        """Wait until a slave has what the source has."""
        (position,) = self.ask("one", "SELECT @@gtid_binlog_pos")
        assert self.ask(slave, f"SELECT MASTER_GTID_WAIT('{position}', 60)") == ["0"]

    def status(self, host: str, name: str) -> int:
        """A counter of a server."""
        (line,) = self.ask(host, f"SHOW GLOBAL STATUS LIKE '{name}'")
        return int(line.split()[1])

    def slave(self, host: str) -> dict[str, str]:
        """How a slave says it is."""
        words = ["mariadb", "--no-defaults", "--batch", "--vertical"]
        words += ["--socket", str(self.root / host / "run/mysql-cluster1.sock")]
        words += ["--execute", "SHOW SLAVE STATUS"]
        told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        columns = (line.strip().partition(":") for line in told.splitlines())
        return {name: value.strip() for name, _, value in columns}

    @contextmanager
    def held(self, host: str) -> Iterator[None]:
        """Nobody writes to the table there, nor does what it has from its source."""
        words = ["mariadb", "--no-defaults", "--batch", "--skip-column-names", "--unbuffered"]
        words += ["--socket", str(self.root / host / "run/mysql-cluster1.sock")]
        pipe = subprocess.PIPE
        with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, bufsize=1) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write("LOCK TABLES lj_cluster1.posts READ; SELECT 'held';\n")
            assert client.stdout.readline() == "held\n"
            yield

    @contextmanager
    def written_to(self) -> Iterator[None]:
        """The source, some times a second, for the length of the block."""
        done = threading.Event()

        def write() -> None:
            for number in itertools.count(10_000):
                self.ask("one", f"INSERT INTO posts VALUES ({number}, 'more')")
                if done.wait(0.2):
                    break

        writer = threading.Thread(target=write)
        writer.start()
        try:
            yield
        finally:
            done.set()
            writer.join()
            self.ask("one", "DELETE FROM posts WHERE id >= 10000")

    def state(self) -> dict[str, Any]:
        """What `lj ha status` says of the slave."""
        file = self.root / "state.json"
        run = self.play(
            "playbooks/ha_status.yml",
            "--limit",
            "its-slave,localhost",
            "-e",
            f"ha_status_file={file}",
        )
        assert run.returncode == 0, run.stdout
        (row,) = [
            row
            for row in ha.slaves(json.loads(file.read_text()))
            if row["slave"] == "its-slave/cluster1"
        ]
        return row

    @property
    def backups(self) -> list[Path]:
        """Of the slave, oldest first."""
        return sorted((self.root / "its-slave/backups/cluster1").glob("2*Z"))

    @property
    def datadir(self) -> Path:
        return self.root / "its-slave/data/mysql/cluster1/data"


@contextmanager
def small(folder: Path) -> Iterator[Path]:
    """A file system of 16 MB there."""
    if os.geteuid() != 0:
        pytest.fail(
            "a small file system is mounted as root: run the tests as root, or -m 'not roles'"
        )
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="module")
def site(short_directory: Path) -> Iterator[Site]:
    made = Site(short_directory / "backup", free_ports(3))
    made.prepare()
    try:
        run = made.play(made.root / "servers.json")
        assert run.returncode == 0, run.stdout + run.stderr
        rows = "INSERT INTO lj_cluster1.posts SELECT seq, SHA2(seq, 256) FROM seq_1_to_2000"
        made.ask("one", "CREATE TABLE lj_cluster1.posts (id INT PRIMARY KEY, text TEXT)", rows)
        made.together()
        yield made
    finally:
        made.play("playbooks/down.yml")
        shutil.rmtree(made.root, ignore_errors=True)


def test_a_commit_waits_until_a_slave_has_it(site: Site) -> None:
    for source in ("one", "its-slave"):
        assert site.status(source, "Rpl_semi_sync_master_clients") == 1
    had = site.status("one", "Rpl_semi_sync_master_yes_tx")
    alone = site.status("one", "Rpl_semi_sync_master_no_tx")  # before there was a slave
    site.ask("one", "INSERT INTO posts VALUES (-1, 'on two servers')")
    assert site.status("one", "Rpl_semi_sync_master_yes_tx") == had + 1
    assert site.status("one", "Rpl_semi_sync_master_no_tx") == alone
    # Nobody answers: the commit waits.
    site.ask("its-slave", "STOP SLAVE IO_THREAD")
    waiting = site.begin("one", "INSERT INTO posts VALUES (-2, 'waits')")
    wait_for(
        lambda: site.status("one", "Rpl_semi_sync_master_wait_sessions") == 1,
        "the commit to wait for a slave",
    )
    assert waiting.poll() is None
    site.ask("its-slave", "START SLAVE IO_THREAD")
    assert waiting.wait(timeout=20) == 0
    assert site.status("one", "Rpl_semi_sync_master_no_tx") == alone
    site.together()
    assert site.ask("its-slave", "SELECT text FROM posts WHERE id < 0") == [
        "waits",
        "on two servers",
    ]


def test_a_slave_of_a_slave_stays_behind_on_purpose(site: Site) -> None:
    site.ask("one", "INSERT INTO posts VALUES (-3, 'a mistake')")
    began = time.monotonic()
    site.together()
    site.together("far-slave")
    # Times of events are in whole seconds.
    assert time.monotonic() - began > DELAY_S - 1
    assert site.ask("far-slave", "SELECT text FROM posts WHERE id = -3") == ["a mistake"]
    assert site.ask("far-slave", "SELECT @@read_only") == ["1"]
    assert site.ask("far-slave", SUM) == site.ask("one", SUM)


def test_a_slave_has_caught_up_while_its_source_is_written_to(site: Site) -> None:
    words = ("--limit", "far-slave", "-e", f"mysql_replication_lag_s={LAG_S}")

    def behind_s() -> int:
        return int(site.slave("far-slave")["Seconds_Behind_Master"])

    site.together("far-slave")
    with site.written_to():
        with site.held("far-slave"):
            wait_for(lambda: behind_s() > DELAY_S + LAG_S, "the slave to fall behind")
            run = site.begin_play(site.root / "follows.json", *words)
            assert run.stdout is not None
            said = ""
            while "FAILED - RETRYING" not in said:
                line = run.stdout.readline()
                assert line, said
                said += line
        try:
            out, error = run.communicate(timeout=300)
        finally:
            run.kill()
        assert run.returncode == 0, out + error
        assert behind_s() > 0


def test_a_slave_follows_by_gtid(site: Site) -> None:
    words = (site.root / "follow.json", "--limit", "far-slave")
    site.together("far-slave")
    file, position = site.ask("its-slave", "SHOW MASTER STATUS")[0].split("\t")[:2]
    by_position = f"master_use_gtid = no, master_log_file = '{file}', master_log_pos = {position}"
    site.ask("far-slave", "STOP SLAVE", f"CHANGE MASTER TO {by_position}", "START SLAVE")
    told = site.play(*words, "--check")
    assert re.search(r"far-slave .* changed=[1-9]", told.stdout), told.stdout
    assert site.slave("far-slave")["Using_Gtid"] == "No"
    mended = site.play(*words)
    assert mended.returncode == 0, mended.stdout
    assert site.slave("far-slave")["Using_Gtid"] == "Slave_Pos"
    assert "changed=0" in site.play(*words).stdout
    site.ask("one", "INSERT INTO posts VALUES (-4, 'by its number')")
    site.together("far-slave")
    assert site.ask("far-slave", "SELECT text FROM posts WHERE id = -4") == ["by its number"]

    # Who does not know where it is would begin with everything.
    (had,) = site.ask("far-slave", "STOP SLAVE", "SELECT @@gtid_slave_pos")
    lost = f"CHANGE MASTER TO {by_position}", "RESET MASTER", "SET GLOBAL gtid_slave_pos = ''"
    site.ask("far-slave", *lost)
    refused = site.play(*words)
    assert refused.returncode != 0
    assert "far-slave: the slave follows by a file and a position, and has no gtid_slave_pos" in (
        " ".join(refused.stdout.split())
    )
    site.ask("far-slave", f"SET GLOBAL gtid_slave_pos = '{had}'")
    mended = site.play(*words)
    assert mended.returncode == 0, mended.stdout
    site.together("far-slave")
    assert site.ask("far-slave", SUM) == site.ask("one", SUM)


def test_what_was_lost_comes_back_and_follows_on(site: Site) -> None:
    told = site.backup("--check")
    assert told.returncode == 0, told.stdout
    assert site.backups == []

    made = site.backup()
    assert made.returncode == 0, made.stdout
    assert "a server came up on it and read 1 tables" in made.stdout
    (backup,) = site.backups
    assert sorted(path.name for path in backup.parent.iterdir() if path.is_dir()) == [backup.name]
    (then,) = site.ask("its-slave", SUM)
    assert (backup / "lj-checksums").read_text() == then + "\n"

    # What happens afterwards is in the source's binary log; the slave's disk is ruined.
    site.ask("one", "DELETE FROM lj_cluster1.posts WHERE id % 3 = 0")
    site.together()
    (before,) = site.ask("its-slave", "SELECT @@gtid_slave_pos")
    for table in site.datadir.glob("lj_cluster1/posts.*"):
        table.unlink()
    restored = site.restore()
    assert restored.returncode == 0, restored.stdout
    assert "1 tables are what they were" in restored.stdout
    site.together()
    assert site.ask("its-slave", SUM) == site.ask("one", SUM) != [then]
    assert site.ask("its-slave", "SELECT @@gtid_slave_pos") == [before]
    (kept,) = site.datadir.parent.glob("data.before-*")
    assert (kept / "ibdata1").exists()
    shutil.rmtree(kept)

    site.ask("one", "INSERT INTO lj_cluster1.posts VALUES (9999, 'after')")
    site.together()
    assert site.ask("its-slave", "SELECT text FROM lj_cluster1.posts WHERE id = 9999") == ["after"]


def test_what_can_not_be_is_refused(site: Site) -> None:
    pid = site.ask("its-slave", "SELECT @@server_uid")
    source = site.backup("--limit", "one")
    assert source.returncode != 0
    assert "None of these hosts (one) has a slave of cluster1" in " ".join(source.stdout.split())
    everywhere = site.play("playbooks/restore.yml", "-e", "server=cluster1")
    several = site.restore("--limit", "its-slave,far-slave")
    for refused in (everywhere, several):
        assert refused.returncode != 0
        assert "Add -e server=cluster1 --limit HOST, which now is" in refused.stdout
    absent = site.restore("-e", "mysql_backup_name=20200101T000000Z")
    assert absent.returncode != 0
    assert "has no backup 20200101T000000Z: copy one there" in absent.stdout
    assert site.ask("its-slave", "SELECT @@server_uid") == pid
    assert not list(site.datadir.parent.glob("data.*"))


def test_a_backup_that_does_not_come_back_is_none(site: Site) -> None:
    backups = site.backups
    folder = site.root / "its-slave/backups/cluster1"
    # A table of the slave alone, whose pages are copied as they are; no server can read them.
    site.ask(
        "its-slave",
        "SET SESSION sql_log_bin = 0",
        "CREATE TABLE broken (id INT PRIMARY KEY) ENGINE=Aria",
        "INSERT INTO broken SELECT seq FROM seq_1_to_5000",
        "FLUSH TABLES broken",
    )
    pages = site.datadir / "lj_cluster1/broken.MAD"
    good = pages.read_bytes()
    pages.write_bytes(good[:8192] + bytes(8192) + good[16384:])
    failed = site.backup()
    assert failed.returncode != 0, failed.stdout
    assert f"see {folder}/last.log" in failed.stdout
    assert site.backups == backups
    assert not [*folder.glob(".part"), *folder.glob(".trial")]
    assert site.state()["trouble"].endswith(
        f"Z: tables of the copy are damaged: see {folder}/last.log"
    )
    site.ask("its-slave", "SET SESSION sql_log_bin = 0", "DROP TABLE broken")
    made = site.backup()
    assert made.returncode == 0, made.stdout
    state = site.state()
    assert state["trouble"] == ""
    assert (
        state["backup"].replace("-", "").replace(" ", "T").replace(":", "")
        == site.backups[-1].name[:13]
    )


def test_a_backup_that_has_no_room_is_not_begun(site: Site) -> None:
    backups = site.backups
    with small(site.root / "its-slave/small") as folder:
        failed = site.backup("-e", f"mysql_backup_dir={folder}")
        told = " ".join(failed.stdout.split())
        assert failed.returncode != 0
        assert re.search(
            rf"no room: a backup and its trial take \d+ MB, and {folder}/cluster1 has \d+ MB", told
        )
        assert "no room" in (folder / "cluster1/failed").read_text()
    assert site.backups == backups


def test_a_source_is_restored_over_on_purpose_alone(site: Site) -> None:
    (site.root / "one/backups/cluster1").mkdir(parents=True)
    backup = shutil.copytree(
        site.backups[-1], site.root / "one/backups/cluster1" / site.backups[-1].name
    )
    had = site.ask("one", SUM, "SELECT @@gtid_binlog_pos")
    refused = site.restore("--limit", "one")
    told = " ".join(refused.stdout.split())
    assert refused.returncode != 0
    assert "cluster1 is no slave here (`replica: true`)" in told
    assert "-e mysql_backup_over_source=true; nothing was changed" in told
    assert site.ask("one", SUM, "SELECT @@gtid_binlog_pos") == had

    site.ask("one", "INSERT INTO lj_cluster1.posts VALUES (-9, 'lost')")
    restored = site.restore("--limit", "one", "-e", "mysql_backup_over_source=true")
    assert restored.returncode == 0, restored.stdout
    assert site.ask("one", SUM) == [(backup / "lj-checksums").read_text().rstrip()]
    # It goes on with numbers that nobody has had.
    (position,) = site.ask("one", "SELECT @@gtid_slave_pos")
    site.ask("one", "DELETE FROM posts WHERE id = 1")
    (now,) = site.ask("one", "SELECT @@gtid_binlog_pos")
    assert int(now.split("-")[2]) == int(position.split("-")[2]) + 1

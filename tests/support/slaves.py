"""A server, its slave and that one's own slave on this machine, from the roles that racks have."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lj_services.cli import ha
from tests.support.box import BIN, CHECKOUT

DELAY_S = 2
"""Seconds that the slave of the slave stays behind."""


@dataclass(frozen=True)
class ThreeServers:
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

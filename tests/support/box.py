"""One box in a directory of its own, driven as an operator would: by Ansible and molecule."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support.process import free_port, wait_for

CHECKOUT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Run:
    """What a playbook did: its output and the recap of its only host."""

    exit_code: int
    output: str

    def count(self, what: str) -> int:
        """A figure of the recap: ``ok``, ``changed``, ``failed`` ..."""
        found = re.search(rf"^localhost\s.*\b{what}=(\d+)", self.output, re.MULTILINE)
        assert found is not None, self.output
        return int(found[1])

    @property
    def changed_tasks(self) -> list[str]:
        """Names of the tasks that changed something."""
        tasks = self.output.split("\nTASK [")[1:]
        return [
            task.split("]")[0] for task in tasks if re.search(r"^changed: ", task, re.MULTILINE)
        ]


@dataclass(frozen=True)
class Box:
    """A directory and ports for one site, below nothing that belongs to another."""

    root: Path
    ports: dict[str, int] = field(
        default_factory=lambda: {
            name: free_port()
            for name in (
                "perlbal_port",
                "perlbal_console_port",
                "perlbal_metrics_port",
                "journal_port",
                "journal_metrics_port",
                "memcached_port",
                "memcached_metrics_port",
                "gearmand_port",
                "gearmand_metrics_port",
                "gearman_worker_gofer_metrics_port",
                "mover_port",
                "mover_metrics_port",
                "mover_worker_metrics_port",
            )
        }
    )

    @property
    def environment(self) -> dict[str, str]:
        """For ansible and molecule; their own scratch files lie in the checkout's var/."""
        return {
            **os.environ,
            **{name.upper(): str(port) for name, port in self.ports.items()},
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
            "ANSIBLE_HOME": str(CHECKOUT / "var/ansible"),
            "ANSIBLE_NOCOLOR": "1",
            # `make up` installs ansible-core and no collections; these tests' venv has some.
            "ANSIBLE_COLLECTIONS_SCAN_SYS_PATH": "False",
            "ANSIBLE_COLLECTIONS_PATH": str(self.root / "collections"),
            "NO_COLOR": "1",
            "LJ_MOLECULE_ROOT": str(self.root),
            "MOLECULE_EPHEMERAL_DIRECTORY": f"{self.root}.molecule",
        }

    def play(self, playbook: str, *words: str, **variables: object) -> Run:
        """Run a playbook on this box.

        Args:
            playbook: its path in the checkout.
            words: more words for ansible-playbook.
            variables: what the inventory says otherwise.
        """
        extra = {"lj_root": str(self.root), **self.ports, **variables}
        run = subprocess.run(
            [
                *(BIN / "ansible-playbook", "-i", "inventory/onebox", playbook),
                *("-e", yaml.safe_dump(extra, default_flow_style=True, width=10_000)),
                *words,
            ],
            cwd=CHECKOUT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Run(run.returncode, run.stdout)

    def molecule(self, action: str) -> str:
        """Run one action of the scenario `onebox` and return what it printed."""
        run = subprocess.run(
            [BIN / "molecule", action, "--scenario-name", "onebox"],
            cwd=CHECKOUT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stdout
        return run.stdout

    def command(self, *words: str, site: str = "site.toml") -> subprocess.CompletedProcess[str]:
        """Run the installed `lj` with one of the box's site files."""
        return subprocess.run(
            [self.root / "runtime/current/bin/lj", "--site", self.root / "etc" / site, *words],
            capture_output=True,
            text=True,
            check=False,
        )

    def lj(self, *words: str) -> Any:
        """What the installed `lj` prints as JSON."""
        run = self.command(*words, "--json")
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout)

    def supervisorctl(self, *words: str) -> str:
        """What supervisor's own command prints."""
        program = self.root / "runtime/current/bin/supervisorctl"
        return subprocess.run(
            [program, "-c", self.root / "etc/supervisord.conf", *words],
            capture_output=True,
            text=True,
            check=False,
        ).stdout

    def pids(self) -> dict[str, int]:
        """Service -> process id, of those that run; one that is starting is waited for."""
        wait_for(lambda: "STARTING" not in self.supervisorctl("status"), "services to start")
        status = self.supervisorctl("status")
        return {
            name: int(pid)
            for name, pid in re.findall(r"^(\S+)\s+RUNNING\s+pid (\d+)", status, re.MULTILINE)
        }

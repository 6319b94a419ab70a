"""A host for roles that need root: this machine, with files and a network of its own.

What a role writes below `OWN` lies in memory and is gone with the sandbox, and so are its mounts,
its network and the rules and settings of that.  The kernel is this machine's, and so are its disks.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.box import BIN, CHECKOUT, Run

OWN = ("/dev", "/etc", "/srv", "/usr/local", "/usr/sbin", "/var/lib")
OWN_FILES = """
own_files() {  # MEMORY FOLDER...: what is written below the folders lies in memory
  local memory=$1 folder above
  shift
  mount -t tmpfs -o mode=0755 lj-sandbox "$memory"
  for folder in "$@"; do
    above=$memory/$folder
    mkdir -p "$above/upper" "$above/work"
    mount -t overlay -o "lowerdir=$folder,upperdir=$above/upper,workdir=$above/work" \
      lj-sandbox "$folder"
  done
}
"""
"""A shell function, for who has a mount namespace of its own."""
_BEGIN = """
set -e
own_files "$0" "$@"
mkdir -p /dev/shm
mount -t tmpfs lj-sandbox /dev/shm
ip link set lo up
echo ready
exec sleep infinity
"""


@dataclass
class Sandbox:
    """A running sandbox.

    Attributes:
        folder: for what Ansible keeps; this machine's.
        pid: the process whose namespaces it is.
        variables: of its only host, which is called localhost.
        groups: that this host is in.
    """

    folder: Path
    pid: int
    variables: dict[str, Any]
    groups: Sequence[str] = ()

    def inside(self, *words: str | Path) -> list[str]:
        """The command that runs another one in here."""
        return ["nsenter", f"--target={self.pid}", "--mount", "--net", "--", *map(str, words)]

    def run(
        self, *words: str | Path, check: bool = True, **how: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in here."""
        run = subprocess.run(
            self.inside(*words), capture_output=True, text=True, check=False, **how
        )
        assert not check or run.returncode == 0, run.stdout + run.stderr
        return run

    def read(self, path: str) -> str:
        """The text of a file as it is in here."""
        return self.run("cat", path).stdout

    def play(
        self,
        tasks: Sequence[Mapping[str, Any]],
        *words: str,
        hosts: Mapping[str, Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> Run:
        """Run tasks on the host, as root.

        Args:
            tasks: of the play.
            words: more words for ansible-playbook.
            hosts: other hosts of the inventory, by group: their variables by name.
            variables: more, or others, of the host.
        """
        own = {
            "ansible_connection": "local",
            "ansible_python_interpreter": str(BIN / "python"),
            "lj_control_dir": str(self.folder / "control"),
            "lj_secrets_dir": str(self.folder / "secrets"),
            **self.variables,
            **variables,
        }
        children: dict[str, Any] = {
            group: {"hosts": {name: {} for name in members}}
            for group, members in (hosts or {}).items()
        }
        for group in self.groups:
            children.setdefault(group, {"hosts": {}})["hosts"]["localhost"] = {}
        all_hosts: dict[str, Any] = {"localhost": own}
        for members in (hosts or {}).values():
            all_hosts.update({name: value for name, value in members.items() if value})
        inventory = self.folder / "inventory.json"
        inventory.write_text(json.dumps({"all": {"hosts": all_hosts, "children": children}}))
        play = self.folder / "play.json"
        subset = ["!all", "!min", "platform", "python", "service_mgr", "user"]
        play.write_text(
            json.dumps(
                [
                    {
                        "hosts": "localhost",
                        "gather_facts": True,
                        "gather_subset": subset,
                        "tasks": tasks,
                    }
                ]
            )
        )
        run = subprocess.run(
            self.inside(BIN / "ansible-playbook", "-i", inventory, play, *words),
            cwd=CHECKOUT,
            env={
                "PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME": str(self.folder),
                "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
                "ANSIBLE_ROLES_PATH": str(CHECKOUT / "roles"),
                "ANSIBLE_HOME": str(self.folder / "ansible"),
                "ANSIBLE_REMOTE_TMP": str(self.folder / "ansible/tmp"),
                "ANSIBLE_NOCOLOR": "1",
                "LC_ALL": "C.UTF-8",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Run(run.returncode, run.stdout)

    def refusals(self, *tasks: Mapping[str, Any], **how: Any) -> list[str]:
        """What each of the tasks says when it fails; all of them have to, and change nothing."""
        said = self.folder / "said.json"
        note = "{{ (said | default([])) + [ansible_failed_result | to_json] }}"
        play: list[Mapping[str, Any]] = [
            {
                "block": [task, {"ansible.builtin.set_fact": {"passed": number}}],
                "rescue": [{"ansible.builtin.set_fact": {"said": note}}],
            }
            for number, task in enumerate(tasks)
        ]
        keep = {"content": "{{ said | to_json }}", "dest": str(said), "mode": "0600"}
        play += [
            {"ansible.builtin.assert": {"that": "passed is not defined"}},
            {"ansible.builtin.copy": keep},
        ]
        run = self.play(play, **how)
        assert run.exit_code == 0, run.output
        assert len(run.changed_tasks) == 1, run.output
        return [str(one) for one in json.loads(said.read_text())]


def role(
    name: str, tasks_from: str = "main", public: bool = False, **variables: Any
) -> dict[str, Any]:
    """A task that runs an entry point of a role; `public`: later tasks know its variables."""
    how = {"name": name, "tasks_from": tasks_from, "public": public}
    task: dict[str, Any] = {"ansible.builtin.include_role": how}
    return {**task, "vars": variables} if variables else task


@contextmanager
def sandbox(folder: Path, groups: Sequence[str] = (), **variables: Any) -> Iterator[Sandbox]:
    """A sandbox for the length of the block.

    Args:
        folder: for what belongs to it on this machine; empty.
        groups: that its host is in.
        variables: of its host.
    """
    root = folder / "root"
    root.mkdir()
    keeper = subprocess.Popen(
        ["unshare", "--mount", "--net", "bash", "-c", OWN_FILES + _BEGIN, root, *OWN],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == "ready\n"
        yield Sandbox(folder, keeper.pid, variables, groups)
    finally:
        os.kill(keeper.pid, signal.SIGKILL)
        keeper.wait()
        if keeper.stdout is not None:
            keeper.stdout.close()

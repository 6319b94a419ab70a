"""Hosts of a lab without virtual machines: namespaces of this machine, reached by ssh.

Each host has a network, processes and files of its own; what roles write below `OWN` lies in
memory and is gone with it.  `/opt`, where releases of the kit are, is one folder for all of them,
so that a release is installed once.  The kernel is this machine's, and there is no systemd:
services are supervisor's.  Everything else is the lab's: its inventory, addresses, names and keys.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.box import BIN, CHECKOUT
from tests.support.process import wait_for
from tests.support.sandbox import OWN_FILES
from tools.lab import seed
from tools.lab.plan import GATEWAY, Host, Plan

OWN = ("/etc", "/srv", "/usr/local", "/var/lib", "/var/log")
_SSHD = {
    "UsePAM": "no",
    "PidFile": "none",
    "StrictModes": "no",
    "PermitRootLogin": "yes",
    "UseDNS": "no",
    "Subsystem": "sftp internal-sftp",
}
# It ends, and all that runs in it, when nobody holds the other end of its standard input.
_BEGIN = """
set -e
memory=$0 name=$1 hosts=$2 opt=$3; shift 3
own_files "$memory" "$@"
mount --bind "$opt" /opt
for folder in /root /run; do  # nobody's shell starts what is root's on this machine
  mount -t tmpfs -o mode=0755 lj-sandbox "$folder"
done
mkdir /run/sshd
cat "$hosts" >/etc/hosts
hostname "$name"
ip link set lo up
sysctl --quiet net.ipv4.ip_unprivileged_port_start=0
echo ready
read -r
"""


@dataclass(frozen=True)
class Rack:
    """Hosts that run.

    Attributes:
        folder: what the lab's tool would keep in its state folder, and what Ansible keeps.
        plan: the hosts.
    """

    folder: Path
    plan: Plan

    def ssh(self, host: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command on a host, as root."""
        return subprocess.run(
            ["ssh", "-F", self.folder / "ssh_config", host, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def play(
        self, playbook: str, *words: str | Path, **variables: object
    ) -> subprocess.CompletedProcess[str]:
        """Run a playbook with `inventory/lab`; `words` may name a second inventory."""
        told = {
            "service_manager": "supervisor",
            "lj_secrets_dir": str(self.folder / "secrets"),
            **variables,
        }
        return subprocess.run(
            [
                *(BIN / "ansible-playbook", "-i", "inventory/lab", playbook),
                *("-e", json.dumps(told), *words),
            ],
            cwd=CHECKOUT,
            env={
                **os.environ,
                "PATH": f"{BIN}:{os.environ['PATH']}",
                "LJ_LAB_STATE": str(self.folder),
                "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
                "ANSIBLE_HOME": str(self.folder / "ansible"),
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.folder / "cp"),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def hang_up(self) -> None:
        """End the connections that Ansible has kept for its next play."""
        for kept in (self.folder / "cp").glob("*"):
            subprocess.run(
                ["ssh", "-O", "exit", f"-oControlPath={kept}", "lab"],
                check=False,
                capture_output=True,
            )


@contextmanager
def _alone(*words: str | Path, namespaces: Sequence[str]) -> Iterator[psutil.Process]:
    """Run a program in namespaces of its own, once it has said that it is ready."""
    outer = subprocess.Popen(
        ["unshare", *namespaces, "--pid", "--fork", "--kill-child", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert outer.stdin is not None
    assert outer.stdout is not None
    with outer.stdin, outer.stdout:
        try:
            assert outer.stdout.readline() == "ready\n"
            (inner,) = psutil.Process(outer.pid).children()
            yield inner
        finally:
            outer.kill()
            outer.wait()


def _network(plan: Plan, keeper: int, hosts: dict[str, int]) -> None:
    """A cable from each host to the keeper's bridge."""

    def ip(pid: int, words: str) -> None:
        command = ["nsenter", f"--target={pid}", "--net", "ip", *words.split()]
        subprocess.run(command, check=True, capture_output=True)

    ip(keeper, "link add rack type bridge forward_delay 0")
    ip(keeper, "link set rack up")
    ip(keeper, f"address add {GATEWAY} dev rack")
    for host in plan.hosts:
        (link,) = host.links
        cable = f"link add {link.tap} type veth peer name eth0 address {link.mac}"
        ip(keeper, f"{cable} netns {hosts[host.name]}")
        ip(keeper, f"link set {link.tap} master rack up")
        ip(hosts[host.name], f"address add {link.address} dev eth0")
        ip(hosts[host.name], "link set eth0 up")


def _serve_ssh(rack: Rack, host: Host, pid: int) -> None:
    keys = rack.folder / "keys"
    settings = {**_SSHD, "HostKey": keys / "host", "AuthorizedKeysFile": keys / "login.pub"}
    subprocess.run(
        [
            *("nsenter", f"--target={pid}", "--mount", "--net", "--pid"),
            *("/usr/sbin/sshd", "-f", "/dev/null", "-E", rack.folder / f"{host.name}.log"),
            *(f"-o{name}={value}" for name, value in settings.items()),
        ],
        check=True,
    )


@contextmanager
def rack(folder: Path, plan: Plan) -> Iterator[Rack]:
    """The hosts of a plan for the length of the block.

    Args:
        folder: for what belongs to them on this machine; empty, and its path short.
        plan: what they are; their memory and disks do not matter.
    """
    made = Rack(folder, plan)
    keys = folder / "keys"
    keys.mkdir()
    seed.make_keys(keys)
    (folder / "known_hosts").write_text(f"lab {(keys / 'host.pub').read_text()}")
    shared = (folder / "hosts", folder / "opt")
    shared[0].write_text(seed.hosts_file(plan))
    shared[1].mkdir()
    with ExitStack() as stack:
        ready = ("sh", "-c", "ip link set lo up; echo ready; read -r _")
        keeper = stack.enter_context(_alone(*ready, namespaces=["--net"]))
        (folder / "ssh_config").write_text(seed.ssh_config(plan, folder, keeper.pid))
        pids = {}
        for host in plan.hosts:
            memory = folder / host.name
            memory.mkdir()
            begin = ("bash", "-c", OWN_FILES + _BEGIN, memory, host.name, *shared, *OWN)
            own = ["--net", "--uts", "--mount", "--mount-proc"]
            pids[host.name] = stack.enter_context(_alone(*begin, namespaces=own)).pid
        _network(plan, keeper.pid, pids)
        for host in plan.hosts:
            _serve_ssh(made, host, pids[host.name])
        for host in plan.hosts:
            wait_for(
                lambda host=host: made.ssh(host.name, "true").returncode == 0,  # type: ignore[misc]
                f"{host.name} to let somebody in",
            )
        stack.callback(made.hang_up)
        yield made

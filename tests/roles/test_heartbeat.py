"""What a host of a pair is refused for, and what the role heartbeat writes down, without Heartbeat.

The host is a sandbox with two interfaces; its peer has nothing but a name.  A neighbour is a
network on the cable of one of them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.box import CHECKOUT
from tests.support.process import wait_for
from tests.support.sandbox import Sandbox, role, sandbox

pytestmark = pytest.mark.roles

FLOATING = "10.98.1.20/24"
HOST = {"eth0": "10.98.1.21/24", "eth1": "10.98.2.1/30"}
PEER = {
    "ansible_connection": "local",
    "ansible_host": "10.98.9.22",
    "heartbeat_host_address": "10.98.1.22",
    "crossover_address": "10.98.2.2",
}
POWER = {"plugin": "external/ipmi", "parameters": ["a-bmc", "its-password"]}
GIVEN = {
    "ansible_host": "10.98.1.21",
    "lj_run_dir": "/run/lj",
    "lj_user": "",
    "crossover_address": "10.98.2.1",
    "drbd_resource": "cluster9",
    "heartbeat_address": FLOATING,
    "heartbeat_interface": "eth0",
    "heartbeat_crossover_interface": "eth1",
    "heartbeat_ping": ["10.98.1.1"],
    "heartbeat_stonith": {"localhost": POWER, "peer": POWER},
    "mysql_instances": [{"role": "cluster9", "mount": "/srv/cluster9"}],
    "mysql_listen_address": "0.0.0.0",
    "mysql_client_hosts": ["10.98.1.%"],
}
LINE = (
    "here drbddisk::cluster9 lj_mount::/dev/drbd0::/srv/cluster9::ext4::noatime "
    f"lj_unit::lj-mysql-cluster9 lj_address::{FLOATING}::eth0 lj_unit::lj-mysql-watch-cluster9"
)
FACTS = {
    "ansible.builtin.setup": {"gather_subset": ["!all", "!min", "platform", "python"]},
    "delegate_to": "peer",
    "delegate_facts": True,
}
OTHER = "10.98.1.30/24"
TAKEN = "10.98.1.40/24"
THEIRS = "10.98.1.50/24"
MAC = "02:00:00:00:00:50"
ANSWERS = """
import runpy, sys
probe = runpy.run_path(sys.argv[1])
print(probe["answers"](sys.argv[2], probe["addresses"]()))
"""
ELSEWHERE = "/srv/elsewhere"
INSTANCE = {"role": "cluster9", "mount": ELSEWHERE}
REPLICA = {"role": "cluster9", "mount": "/srv/cluster9", "replica": True}
STOPPED: dict[str, tuple[dict[str, Any], str]] = {
    "as it was": ({}, ""),
    "another floating address": ({"heartbeat_address": OTHER}, ""),
    "one that somebody has": (
        {"heartbeat_address": TAKEN},
        "somebody answers at heartbeat_address 10.98.1.40 already: choose a free address",
    ),
    "an address that Ansible alone knows": (
        {"ansible_host": "10.98.9.9"},
        "the peer sends to 10.98.9.9 (ansible_host, or else heartbeat_host_address), which no",
    ),
    "its own address beside that": (
        {"ansible_host": "10.98.9.9", "heartbeat_host_address": "10.98.1.21"},
        "",
    ),
    "a cross-over link that is none": (
        {"crossover_address": "10.98.1.21"},
        "10.98.1.21 (crossover_address), which eth0 has, but heartbeat_crossover_interface is eth1",
    ),
    "a mirrored disk that is not where the server is": (
        {"drbd_mount": ELSEWHERE},
        f"heartbeat_mount is {ELSEWHERE}, drbd_mount {ELSEWHERE}, and the mount of cluster9 in "
        "mysql_instances /srv/cluster9",
    ),
    "a mount that is not where the mirrored disk is": (
        {"heartbeat_mount": ELSEWHERE},
        f"heartbeat_mount is {ELSEWHERE}, drbd_mount /srv/cluster9, and",
    ),
    "a server that is not on the mirrored disk": (
        {"mysql_instances": [INSTANCE]},
        f"and the mount of cluster9 in mysql_instances {ELSEWHERE}: all of them are where the",
    ),
    "a server on a disk of the host": (
        {"mysql_instances": [{"role": "cluster9"}]},
        "and the mount of cluster9 in mysql_instances not given: all of them are where the",
    ),
    "a server on loopback": (
        {"mysql_listen_address": "127.0.0.1"},
        "localhost: mysql_listen_address is 127.0.0.1, where nobody is served at heartbeat_address "
        f"{FLOATING}: set it to 0.0.0.0 for both hosts of the pair",
    ),
    "a server on an address that is not there yet when it starts": (
        {"mysql_listen_address": "10.98.1.20"},
        "localhost: mysql_listen_address is 10.98.1.20, where nobody is served at",
    ),
    "a server on every address": ({"mysql_listen_address": "::"}, ""),
    "clients on loopback": (
        {"mysql_client_hosts": ["127.0.0.1", "localhost", "::1"]},
        "localhost: mysql_client_hosts has no address but loopback, so nobody could log in at "
        f"heartbeat_address {FLOATING}: name the network that clients and slaves come from",
    ),
    "a slave, whose accounts are its source's": (
        {"mysql_client_hosts": ["127.0.0.1"], "mysql_instances": [REPLICA]},
        "",
    ),
    "a server of somebody else, which is asked for nothing": (
        {"heartbeat_service": "postgresql", "mysql_listen_address": "127.0.0.1"},
        "",
    ),
    "a mirrored disk elsewhere, and all that is on it": (
        {"drbd_mount": ELSEWHERE, "mysql_instances": [INSTANCE]},
        "",
    ),
}
"""What may be said of a pair where Heartbeat is stopped: variables, and a refusal or nothing."""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A host with an address that nobody else may have, in the group of a pair."""
    folder = tmp_path_factory.mktemp("heartbeat")
    with sandbox(folder, ("pair_cluster9",), **GIVEN) as made:
        for name, address in HOST.items():
            made.run("ip", "link", "add", name, "type", "bridge")
            made.run("ip", "address", "add", address, "dev", name)
            made.run("ip", "link", "set", name, "up")
        made.run("ip", "address", "add", TAKEN, "dev", "eth0")
        yield made


def configured(host: Sandbox, line: str, heartbeat: str) -> None:
    """Have the host configured, by an earlier release, and Heartbeat running or not."""
    program = "/usr/sbin/systemctl"
    host.run("sh", "-c", f"printf '#!/bin/sh\necho {heartbeat}\n' >{program}; chmod 755 {program}")
    host.run("sh", "-c", f"mkdir -p /etc/ha.d; echo '{line}' >/etc/ha.d/haresources")


def play(host: Sandbox, tasks: list[dict[str, Any]], *words: str, **variables: Any) -> str:
    run = host.play(tasks, *words, hosts={"pair_cluster9": {"peer": PEER}}, **variables)
    assert run.exit_code == 0, run.output
    return run.output


def preflights(host: Sandbox, *cases: dict[str, Any], peer: bool = True) -> list[str]:
    """What is refused, with other variables each time; empty where nothing is.

    Args:
        cases: the variables.
        peer: is in this run, too.
    """
    said = host.folder / "said.json"
    told = "{{ (said | default([])) + [ansible_failed_result | to_json] }}"
    none = "{{ (said | default([])) + [''] }}"
    tasks: list[dict[str, Any]] = [
        {
            "block": [
                role("heartbeat", "preflight", **case),
                {"ansible.builtin.set_fact": {"said": none}},
            ],
            "rescue": [{"ansible.builtin.set_fact": {"said": told}}],
        }
        for case in cases
    ]
    keep = {"content": "{{ said | to_json }}", "dest": str(said), "mode": "0600"}
    facts = [FACTS] if peer else []
    play(host, [*facts, *tasks, {"ansible.builtin.copy": keep}])
    return [str(one) for one in json.loads(said.read_text())]


def test_a_group_that_runs_is_brought_to_this_release_and_to_no_other_address(
    host: Sandbox,
) -> None:
    configured(host, LINE, "active")
    allowed, refused = preflights(host, {}, {"heartbeat_address": OTHER})
    assert allowed == ""
    assert f"not with heartbeat_address {OTHER}: it would stop what it has not" in refused


def test_a_peer_whose_name_is_not_known_is_not_guessed(host: Sandbox) -> None:
    configured(host, LINE, "inactive")
    (refused,) = preflights(host, {}, peer=False)
    assert "peer is not in this run, so it is not known what it calls itself" in refused
    assert "run this for both hosts, --limit pair_cluster9" in refused


def test_a_peer_that_is_dead_is_called_what_it_was_called(host: Sandbox) -> None:
    configured(host, LINE, "inactive")
    names = f"node {os.uname().nodename} its-own-name "
    host.run("sh", "-c", f"printf 'use_logd yes\n{names}\n' >/etc/ha.d/ha.cf")
    known = {"content": "{{ heartbeat_peer_node }}", "dest": str(host.folder / "its")}
    tasks = [role("heartbeat", "preflight", public=True), {"ansible.builtin.copy": known}]
    try:
        play(host, tasks)
        assert (host.folder / "its").read_text() == "its-own-name"
    finally:
        host.run("rm", "/etc/ha.d/ha.cf")


@pytest.fixture(scope="module")
def stopped(host: Sandbox) -> dict[str, str]:
    """What is said where Heartbeat is stopped."""
    configured(host, LINE, "inactive")
    return dict(zip(STOPPED, preflights(host, *(own for own, _ in STOPPED.values())), strict=True))


@pytest.mark.parametrize("case", STOPPED)
def test_what_may_be_changed_where_heartbeat_is_stopped(stopped: dict[str, str], case: str) -> None:
    told = STOPPED[case][1]
    assert told in stopped[case]
    assert (stopped[case] == "") == (told == "")


def test_a_group_that_is_here_has_its_own_address(host: Sandbox) -> None:
    configured(host, LINE.replace(FLOATING, TAKEN), "active")
    assert preflights(host, {"heartbeat_address": TAKEN}) == [""]


@pytest.fixture
def neighbour(host: Sandbox) -> Iterator[Callable[..., None]]:
    """Somebody else on the cable of eth0, with an address and a firewall: runs commands there."""
    own = Path("/proc/self/ns/net").readlink()
    other = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])

    def there(*words: str) -> None:
        subprocess.run(
            ["nsenter", f"--target={other.pid}", "--net", *words], check=True, capture_output=True
        )

    try:
        wait_for(
            lambda: Path(f"/proc/{other.pid}/ns/net").readlink() != own, "a network for a neighbour"
        )
        cable = ("link", "add", "cable", "type", "veth", "peer", "name", "there")
        host.run("ip", *cable, "netns", str(other.pid))
        host.run("ip", "link", "set", "cable", "master", "eth0", "up")
        there("ip", "address", "add", THEIRS, "dev", "there")
        there("ip", "link", "set", "there", "up")
        there(
            "nft",
            "add table inet deaf; add chain inet deaf input "
            "{ type filter hook input priority 0; policy drop; }",
        )
        yield there
    finally:
        # The cable goes with its other end.
        other.kill()
        other.wait()


def test_an_address_that_a_neighbour_has_is_not_taken_from_it(
    host: Sandbox, neighbour: Callable[..., None]
) -> None:
    configured(host, LINE, "inactive")
    theirs, of_nobody = preflights(
        host, {"heartbeat_address": THEIRS}, {"heartbeat_address": OTHER}
    )
    assert "somebody answers at heartbeat_address 10.98.1.50 already: choose a free" in theirs
    assert of_nobody == ""

    # One that was heard of a while ago is asked again, and may be gone.
    address = THEIRS.split("/")[0]
    words = ("-c", ANSWERS, str(CHECKOUT / "roles/heartbeat/files/probe.py"), address)

    def answers() -> str:
        host.run(
            "ip", "neighbour", "replace", address, "dev", "eth0", "lladdr", MAC, "nud", "stale"
        )
        return host.run(sys.executable, *words).stdout.strip()

    neighbour("ip", "link", "set", "there", "address", MAC)
    assert answers() == "True"
    neighbour("ip", "address", "del", THEIRS, "dev", "there")
    assert answers() == "False"


def test_what_it_takes_from_the_inventory(host: Sandbox) -> None:
    configured(host, LINE, "inactive")
    cluster9 = INSTANCE | {"mount": "/srv/cluster9"}
    known = {"port": "{{ heartbeat_port }}", "socket": "{{ heartbeat_socket }}"}
    keep = {"content": "{{ known | to_json }}", "dest": str(host.folder / "known"), "mode": "0600"}
    template = str(CHECKOUT / "roles/heartbeat/templates/ha.cf.j2")
    write = {"src": template, "dest": str(host.folder / "ha.cf"), "mode": "0600"}
    tasks: list[dict[str, Any]] = [
        FACTS,
        role("heartbeat", "preflight", public=True),
        {"ansible.builtin.copy": keep, "vars": {"known": known}},
        {"ansible.builtin.template": write},
    ]
    play(host, tasks, mysql_instances=[cluster9])
    assert json.loads((host.folder / "known").read_text()) == {
        "port": 3306,
        "socket": "/run/lj/mysql-cluster9.sock",
    }
    lines = (host.folder / "ha.cf").read_text().splitlines()
    # Both are this machine.
    name = os.uname().nodename
    assert [line.split() for line in lines if line.startswith("node ")] == [["node", name, name]]
    assert sorted(line for line in lines if line.startswith("ucast ")) == [
        "ucast eth0 10.98.1.21",
        "ucast eth0 10.98.1.22",
        "ucast eth1 10.98.2.1",
        "ucast eth1 10.98.2.2",
    ]
    other = {"port": 3307, "socket": "/run/its.sock"}
    play(host, tasks, mysql_instances=[cluster9 | other])
    assert json.loads((host.folder / "known").read_text()) == other


def test_a_check_of_a_fresh_host_makes_and_shows_no_secret(host: Sandbox) -> None:
    host.run("rm", "-rf", "/etc/ha.d", "/usr/sbin/systemctl")
    shutil.rmtree(host.folder / "secrets", ignore_errors=True)
    # Without what brings packages.
    copied = host.folder / "heartbeat"
    shutil.copytree(CHECKOUT / "roles/heartbeat", copied)
    (copied / "tasks/fencing.yml").write_text("[]\n")
    tasks = [FACTS, role(str(copied), "preflight"), role(str(copied))]
    said = play(host, tasks, "--check", "--diff", lj_user="nobody-yet")
    assert "+++ after: " in said
    assert "Give both hosts the same secret" in said
    assert not [secret for secret in ("1 sha1", "ucast", "its-password") if secret in said]
    assert not (host.folder / "secrets").exists()

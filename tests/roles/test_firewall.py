"""The role `firewall` between two networks of this machine's kernel: who gets in, who does not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from tests.support.box import CHECKOUT
from tests.support.process import wait_for
from tests.support.sandbox import Sandbox, role, sandbox

pytestmark = [pytest.mark.roles, pytest.mark.timeout(900)]

HOST, WEB, BALANCER, PEER, STRANGER = (f"10.99.0.{number}" for number in (1, 2, 3, 4, 9))
TASKS = [role("firewall", "preflight"), role("firewall")]
PORTS = (22, 80, 2222, 3307, 7788, 8080, 9101)
LISTEN = """
import select, socket, sys
held = [socket.create_server(("0.0.0.0", int(port)), backlog=64) for port in sys.argv[1:]]
print("ready", flush=True)
while True:
    for each in select.select(held, [], [])[0]:
        each.accept()[0].close()
"""
CONNECT = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor

def reached(pair):
    try:
        socket.create_connection(("10.99.0.1", pair[1]), 1.5, (pair[0], 0)).close()
    except TimeoutError:
        return False
    return True

pairs = json.loads(sys.argv[1])
with ThreadPoolExecutor(32) as pool:
    print(json.dumps(list(pool.map(reached, pairs))))
"""


@dataclass
class Site:
    """A database host in a sandbox, and a network beside it that has everybody else's addresses."""

    host: Sandbox
    others: int

    def reached(self, *sources: str) -> dict[str, set[int]]:
        """Which ports of the host each address gets through to."""
        pairs = [(source, port) for source in sources for port in PORTS]
        words = ["nsenter", f"--target={self.others}", "--net", sys.executable, "-c", CONNECT]
        run = subprocess.run(
            [*words, json.dumps(pairs)], capture_output=True, text=True, check=True
        )
        got = [pair for pair, well in zip(pairs, json.loads(run.stdout), strict=True) if well]
        return {source: {port for who, port in got if who == source} for source in sources}

    @property
    def inventory(self) -> dict[str, dict[str, dict[str, str]]]:
        return {
            "journal": {"web1": {"ansible_host": WEB}},
            "perlbal": {"lb1": {"ansible_host": BALANCER}},
            "pair_cluster1": {"localhost": {}, "db2": {"ansible_host": PEER}},
        }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    given = {
        "ansible_host": HOST,
        "lj_etc_dir": "/etc/lj",
        "mysql_instances": [{"role": "cluster1", "port": 3307}],
        "drbd_resource": "cluster1",
        "firewall_ssh_from": [BALANCER + "/32"],
        "firewall_more_services": [
            {"name": "backups", "group": "all", "ports": ["2222"], "from": ["10.99.0.2/31"]}
        ],
    }
    groups = ("kit", "mysql", "pairs")
    others = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    with sandbox(tmp_path_factory.mktemp("firewall"), groups, **given) as host:
        own = Path("/proc/self/ns/net").readlink()
        wait_for(
            lambda: Path(f"/proc/{others.pid}/ns/net").readlink() != own, "a network for the others"
        )
        cable = ("link", "add", "here", "type", "veth", "peer", "name", "there")
        host.run("ip", *cable, "netns", str(others.pid))
        host.run("ip", "address", "add", f"{HOST}/24", "dev", "here")
        host.run("ip", "link", "set", "here", "up")
        there = ("nsenter", f"--target={others.pid}", "--net", "ip")
        for address in (WEB, BALANCER, PEER, STRANGER):
            subprocess.run([*there, "address", "add", f"{address}/24", "dev", "there"], check=True)
        subprocess.run([*there, "link", "set", "there", "up"], check=True)
        listener = subprocess.Popen(
            host.inside(sys.executable, "-c", LISTEN, *map(str, PORTS)), stdout=subprocess.PIPE
        )
        try:
            assert listener.stdout is not None
            assert listener.stdout.readline() == b"ready\n"
            yield Site(host, others.pid)
        finally:
            for process in (listener, others):
                process.kill()
                process.wait()


def test_the_inventory_says_who_gets_in(site: Site) -> None:
    everybody = (WEB, BALANCER, PEER, STRANGER)
    assert site.reached(*everybody) == {who: set(PORTS) for who in everybody}
    told = site.host.play(TASKS, "--check", "--diff", hosts=site.inventory)
    assert told.exit_code == 0, told.output
    assert site.reached(STRANGER) == {STRANGER: set(PORTS)}

    made = site.host.play(TASKS, hosts=site.inventory)
    assert made.exit_code == 0, made.output
    assert site.reached(*everybody) == {
        WEB: {2222, 3307},
        BALANCER: {22, 2222},
        PEER: {7788},
        STRANGER: set(),
    }
    unit = site.host.run("systemd-analyze", "verify", "/etc/systemd/system/lj-firewall.service")
    assert unit.stderr == ""
    lines = site.host.read("/etc/systemd/system/lj-firewall.service").splitlines()
    assert "After=systemd-remount-fs.service" in lines
    assert "RequiresMountsFor=/etc/lj/firewall" in lines
    again = site.host.play(TASKS, hosts=site.inventory)
    assert again.exit_code == 0, again.output
    assert again.changed_tasks == []

    # Rules that somebody has added by hand are told, and go.
    by_hand = ("insert", "rule", "inet", "lj", "input", "tcp", "dport", "80", "accept")
    site.host.run("nft", *by_hand)
    assert site.reached(STRANGER) == {STRANGER: {80}}
    mended = site.host.play(TASKS, hosts=site.inventory)
    assert mended.changed_tasks == [
        "firewall : Load them for a while",
        "firewall : Keep them, having come in through them",
    ]
    assert site.reached(STRANGER) == {STRANGER: set()}


def test_rules_that_shut_everybody_out_take_themselves_back(site: Site) -> None:
    """Nobody comes in to keep them."""
    assert site.host.play(TASKS, hosts=site.inventory).exit_code == 0

    def firewall(*words: str) -> subprocess.CompletedProcess[str]:
        return site.host.run("lj-firewall", "/etc/lj/firewall", *words, check=False)

    good = site.host.read("/etc/lj/firewall/wanted.nft")
    shut = "table inet lj\ndelete table inet lj\ntable inet lj {\nchain input {\n"
    shut += "type filter hook input priority filter; policy drop;\n}\n}\n"
    site.host.run("tee", "/etc/lj/firewall/wanted.nft", input=shut)
    assert firewall("same").returncode == 1
    assert firewall("try", "900").returncode == 0
    assert firewall("try", "900").returncode == 3
    assert site.reached(BALANCER) == {BALANCER: set()}
    # The time is over.
    waits = psutil.Process(int(site.host.read("/etc/lj/firewall/armed")))
    wait_for(waits.children, "somebody who waits")
    waits.children()[0].kill()
    wait_for(
        lambda: site.host.run("test", "-e", "/etc/lj/firewall/armed", check=False).returncode != 0,
        "the rules to go",
    )
    assert site.reached(BALANCER) == {BALANCER: {22, 2222}}
    late = firewall("keep")
    assert late.returncode == 4
    assert "taken themselves back already: raise firewall_confirm_s" in late.stderr

    # At a boot, too, what was kept is what is loaded, however the last one came to its end.
    site.host.run("nft", "flush", "ruleset")
    site.host.run("tee", "/etc/lj/firewall/armed", input="1\n")
    site.host.run("mount", "--bind", "/etc/lj/firewall", "/etc/lj/firewall")
    site.host.run("mount", "-o", "remount,bind,ro", "/etc/lj/firewall")
    assert firewall("load").returncode == 0
    site.host.run("umount", "/etc/lj/firewall")
    assert site.reached(BALANCER, STRANGER) == {BALANCER: {22, 2222}, STRANGER: set()}
    assert firewall("load").returncode == 0
    site.host.run("test", "!", "-e", "/etc/lj/firewall/armed")
    assert site.reached(BALANCER, STRANGER) == {BALANCER: {22, 2222}, STRANGER: set()}
    site.host.run("tee", "/etc/lj/firewall/wanted.nft", input=good)
    assert firewall("same").returncode == 0
    assert firewall("off").returncode == 0
    assert site.reached(STRANGER) == {STRANGER: set(PORTS)}


def test_who_runs_the_playbooks_always_gets_in(site: Site) -> None:
    connection = {"firewall_connection": {"stdout": f"{STRANGER} 50000 {HOST} 22"}}
    write = {"src": str(CHECKOUT / "roles/firewall/templates/rules.nft.j2"), "dest": "/etc/x.nft"}
    given = {"firewall_control": "{{ firewall_connection.stdout.split() | first }}", **connection}
    tasks = [
        role("firewall", "preflight", public=True),
        {"ansible.builtin.template": {**write, "mode": "0644"}, "vars": given},
    ]
    run = site.host.play(tasks, hosts=site.inventory)
    assert run.exit_code == 0, run.output
    site.host.run("nft", "-f", "/etc/x.nft")
    assert site.reached(STRANGER, WEB) == {STRANGER: {22}, WEB: {2222, 3307}}
    site.host.run("nft", "delete", "table", "inet", "lj")


def test_what_can_be_no_rule_is_refused(site: Site) -> None:
    service = {"name": "odd", "group": "all", "ports": ["0"], "from": ["jornal"]}
    said = site.host.refusals(
        role("firewall", "preflight", firewall_more_services=[service]),
        role("firewall", "preflight", firewall_more_services=[service | {"from": ["any"]}]),
        hosts={**site.inventory, "journal": {"web1": {"ansible_host": "web1.example"}}},
    )
    assert "jornal, web1.example is neither a group of the inventory nor an address" in said[0]
    assert "set firewall_addresses" in said[0]
    assert "web1.example is neither" in said[1]
    said = site.host.refusals(
        role("firewall", "preflight", firewall_more_services=[service | {"from": ["any"]}]),
        hosts=site.inventory,
    )
    assert "0 is no port: write a number of 1 to 65535" in said[0]


def test_ports_are_those_of_the_roles() -> None:
    def defaults(name: str) -> dict[str, object]:
        told = yaml.safe_load((CHECKOUT / f"roles/{name}/defaults/main.yml").read_text())
        assert isinstance(told, dict)
        return told

    written = (CHECKOUT / "roles/firewall/defaults/main.yml").read_text()
    for name, variable in {
        "perlbal": "perlbal_port",
        "journal": "journal_port",
        "memcached": "memcached_port",
        "gearmand": "gearmand_port",
        "mover": "mover_port",
        "drbd": "drbd_port",
        "heartbeat": "heartbeat_udp_port",
    }.items():
        assert f"{variable} | default({defaults(name)[variable]})" in written
    assert "mysql_port | default(3306)" in (CHECKOUT / "roles/firewall/vars/main.yml").read_text()
    assert defaults("mysql")["mysql_port"] == 3306

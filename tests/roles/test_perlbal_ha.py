"""The role `perlbal_ha` on two hosts of networks of their own: who has the floating address, and
what clients notice when its host, its balancer or its operator says goodbye."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.box import CHECKOUT
from tests.support.perlbal import LJ
from tests.support.process import wait_for
from tests.support.sandbox import Sandbox, role, sandbox

pytestmark = [pytest.mark.roles, pytest.mark.timeout(300)]

FLOATING = "10.98.0.100"
SOURCES = {"lb1": "10.98.0.1", "lb2": "10.98.0.2"}
NODE = "10.98.0.9"
GIVEN = {
    "perlbal_ha_addresses": [f"{FLOATING}/24"],
    "perlbal_ha_interface": "eth0",
    "perlbal_listen_address": "0.0.0.0",
    "perlbal_ha_patience_s": 20,
}
BALANCER = f"""
CREATE POOL webs
  POOL webs ADD {NODE}:8080
CREATE SERVICE web
  SET role = reverse_proxy
  SET pool = webs
  SET persist_client = on
  SET persist_backend = on
  SET listen = 0.0.0.0:80
ENABLE web
"""
WEB_HOST = f"""
CREATE SERVICE node
  SET role = web_server
  SET docroot = FOLDER
  SET persist_client = on
  SET listen = {NODE}:8080
ENABLE node
"""
CLIENTS = f"""
import json, sys
from tests.support.http_load import HttpLoad

load = HttpLoad(80, "/page", 2, "{FLOATING}", keep=False, patience_s=2.0, pause_s=0.02)
load.go_on(50)
print("ready", flush=True)
sys.stdin.readline()
load.go_on(50)
load.stop()
told = {{"answered": load.answered, "lost": load.lost, "gap_s": load.longest_gap_s}}
print(json.dumps(told), flush=True)
"""


def plug_in(host: int, switch: int, name: str, address: str) -> None:
    """A cable from a network to the switch."""
    into = ("ip", "link", "add", name, "netns", str(switch), "type", "veth")
    subprocess.run([*into, "peer", "name", "eth0", "netns", str(host)], check=True)
    there = ("nsenter", f"--target={switch}", "--net", "ip", "link", "set", name)
    subprocess.run([*there, "master", "bridge"], check=True)
    subprocess.run([*there, "up"], check=True)
    here = ("nsenter", f"--target={host}", "--net", "ip")
    subprocess.run([*here, "link", "set", "lo", "up"], check=True)
    subprocess.run([*here, "address", "add", f"{address}/24", "dev", "eth0"], check=True)
    subprocess.run([*here, "link", "set", "eth0", "up"], check=True)


@contextmanager
def network() -> Iterator[int]:
    """A network of its own; gives the process that it ends with."""
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo ready; exec sleep infinity"],
        stdout=subprocess.PIPE,
    ) as keeper:
        try:
            assert keeper.stdout is not None
            assert keeper.stdout.readline() == b"ready\n"
            yield keeper.pid
        finally:
            keeper.kill()


@dataclass
class LoadBalancer:
    """A host with a balancer and keepalived on it."""

    name: str
    host: Sandbox
    folder: Path
    switch: int
    balancer: subprocess.Popen[bytes] | None = None
    keepalived: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start what does not run."""
        log = (self.folder / f"{self.name}.log").open("ab")
        with log:
            if self.balancer is None:
                config = self.folder / f"{self.name}.conf"
                config.write_text(BALANCER)
                words = ("perlbal", "serve", "--config", config, "--workers", "1")
                words += ("--set", "metrics_listen=127.0.0.1:9107")
                self.balancer = subprocess.Popen(
                    self.host.inside(LJ, *words), stdout=log, stderr=log
                )
            if self.keepalived is None:
                pids = [
                    f"--{kind}={self.folder}/{self.name}.{kind}" for kind in ("pid", "vrrp_pid")
                ]
                words = ("keepalived", "--dont-fork", "--log-console", "--vrrp", *pids)
                self.keepalived = subprocess.Popen(self.host.inside(*words), stdout=log, stderr=log)

    def end(self, which: str, number: signal.Signals) -> None:
        """End the balancer or keepalived by a signal."""
        process = getattr(self, which)
        if process is not None:
            process.send_signal(number)
            process.wait(20)
            setattr(self, which, None)

    @property
    def has_it(self) -> bool:
        """Whether the floating address is here."""
        told = self.host.run("ip", "-json", "address", "show", "dev", "eth0").stdout
        return FLOATING in {each["local"] for each in json.loads(told)[0]["addr_info"]}

    def cable(self, state: str) -> None:
        """Pull the cable (down) or plug it in (up)."""
        words = ["nsenter", f"--target={self.switch}", "--net", "ip", "link", "set"]
        subprocess.run([*words, self.name, state], check=True)


@dataclass
class Site:
    """Two balancers, and a network with the node and the clients."""

    first: LoadBalancer
    second: LoadBalancer
    clients: int

    def other(self, one: LoadBalancer) -> LoadBalancer:
        return self.second if one is self.first else self.first

    @property
    def holder(self) -> LoadBalancer:
        """Who has the address, when just one has."""
        wait_for(lambda: self.first.has_it != self.second.has_it, "one to have the address")
        return self.first if self.first.has_it else self.second

    @contextmanager
    def used(self) -> Iterator[dict[str, Any]]:
        """Clients that ask for the length of the block; their figures are there behind it."""
        told: dict[str, Any] = {}
        words = ["nsenter", f"--target={self.clients}", "--net", sys.executable, "-c", CLIENTS]
        with subprocess.Popen(
            words, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as clients:
            try:
                assert clients.stdin is not None
                assert clients.stdout is not None
                assert clients.stdout.readline() == b"ready\n"
                yield told
                clients.stdin.write(b"\n")
                clients.stdin.flush()
                told.update(json.loads(clients.stdout.readline()))
            finally:
                clients.kill()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("perlbal_ha")
    with ExitStack() as stack:
        switch, clients = (stack.enter_context(network()) for _ in range(2))
        bridge = ["nsenter", f"--target={switch}", "--net", "ip", "link"]
        subprocess.run([*bridge, "add", "bridge", "type", "bridge"], check=True)
        subprocess.run([*bridge, "set", "bridge", "up"], check=True)
        plug_in(clients, switch, "clients", NODE)
        config = folder / "node.conf"
        config.write_text(WEB_HOST.replace("FOLDER", str(folder)))
        (folder / "page").write_text("a page")
        words = ["nsenter", f"--target={clients}", "--net", LJ, "perlbal", "serve"]
        node = stack.enter_context(subprocess.Popen([*words, "--config", config]))
        stack.callback(node.kill)
        balancers = []
        for name, source in SOURCES.items():
            own = folder / name
            own.mkdir()
            priority = 150 - 10 * len(balancers)
            variables = {**GIVEN, "ansible_host": source, "perlbal_ha_priority": priority}
            host = stack.enter_context(sandbox(own, ("perlbal",), **variables))
            plug_in(host.pid, switch, name, source)
            configure(host, name)
            one = LoadBalancer(name, host, folder, switch)
            stack.callback(one.end, "balancer", signal.SIGTERM)
            stack.callback(one.end, "keepalived", signal.SIGTERM)
            one.start()
            balancers.append(one)
        yield Site(*balancers, clients)


def configure(host: Sandbox, name: str) -> None:
    """Have the role write its files for one of the two balancers."""
    others = {each: {"ansible_host": SOURCES[each]} for each in SOURCES if each != name}
    tasks = [role("perlbal_ha", "preflight"), role("perlbal_ha", "configure")]
    run = host.play(tasks, hosts={"perlbal": others})
    assert run.exit_code == 0, run.output
    if name == "lb1":
        return
    again = host.play(tasks, "--check", "--diff", hosts={"perlbal": others})
    assert (again.exit_code, again.changed_tasks) == (0, []), again.output


@pytest.mark.parametrize("what", ["balancer", "host", "operator"])
def test_the_address_moves_and_clients_go_on(site: Site, what: str) -> None:
    """Its balancer is killed, its host is cut off, or an operator stops keepalived there."""
    before = site.holder
    after = site.other(before)
    with site.used() as told:
        if what == "balancer":
            before.end("balancer", signal.SIGKILL)
        elif what == "host":
            before.cable("down")
        else:
            before.end("keepalived", signal.SIGTERM)
        wait_for(lambda: after.has_it, "the address at the other one")
    print(
        f"{what}: {len(told['lost'])} of {told['answered'] + len(told['lost'])} requests lost, "
        f"nobody was answered for {told['gap_s']:.2f} s"
    )
    assert told["answered"] >= 100
    before.cable("up")
    before.start()
    # It stays where it is when the first one is back.
    with site.used() as told:
        assert site.holder is after
    assert told["lost"] == []

"""A lab with one virtual machine: power, cables, and that nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.box import CHECKOUT
from tests.support.process import wait_for
from tools.lab import control
from tools.lab.plan import GATEWAY, POWER_PORT, plan_of

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]
HOST = {"lab_kind": "vm", "ansible_host": "10.77.0.11", "lab_disks": {"data": 16}}
CABLE = {"lab_crossover": "spare", "crossover_address": "10.78.1.1"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[control.State]:
    if os.geteuid() != 0:
        pytest.fail("labs of virtual machines need root: run the tests as root, or -m 'not lab'")
    state = control.State(tmp_path_factory.mktemp("lab") / "one")
    plan = plan_of({"_meta": {"hostvars": {"box": {**HOST, **CABLE}}}})
    control.start(state, plan, CHECKOUT / "var/cache/lab")
    try:
        control.wait_for_hosts(state)
        yield state
    finally:
        control.end(state)


def said(lab: control.State, words: str) -> str:
    run = control.ssh(lab, "box", words)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def boot(lab: control.State) -> str:
    control.wait_for_hosts(lab)
    return said(lab, "cat /proc/sys/kernel/random/boot_id")


def switch(lab: control.State, verb: str) -> str:
    """What the power switch answers to somebody in the lab's network."""
    key = lab.power_key.read_text().strip()
    return subprocess.run(
        control.inside(lab, ["nc", "-N", str(GATEWAY.ip), str(POWER_PORT)]),
        input=f"{key} {verb} box\n",
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def test_the_host_is_what_the_inventory_asked_for(lab: control.State) -> None:
    assert said(lab, "hostname; nproc").split() == ["box", "1"]
    assert said(lab, "cat /sys/block/vdc/size") == str(16 * 2048)
    addresses = said(lab, "ip -o -4 address show scope global")
    assert "10.77.0.11/24" in addresses
    assert "10.78.1.1/24" in addresses
    # Modules that the roles need, and that this machine's kernel need not have.
    said(lab, "modprobe -a drbd raid1 raid10 dm_flakey && test -e /proc/drbd")


def test_a_cable_that_is_cut_has_no_carrier(lab: control.State) -> None:
    carrier = "cat /sys/class/net/eth1/carrier"
    assert said(lab, carrier) == "1"
    control.ask(lab, "cut", "box", "spare")
    wait_for(lambda: said(lab, carrier) == "0", "the carrier to go", timeout_s=60)
    assert "10.78.1.1/24" in said(lab, "ip -o -4 address show dev eth1")
    control.ask(lab, "mend", "box", "spare")
    wait_for(lambda: said(lab, carrier) == "1", "the carrier to come back", timeout_s=60)
    with pytest.raises(control.LabError, match="box has no cable to moon, but to public, spare"):
        control.ask(lab, "cut", "box", "moon")


def test_power_is_pulled_and_what_was_flushed_is_there(lab: control.State) -> None:
    before = boot(lab)
    said(lab, "echo kept > /root/flushed && sync /root/flushed && echo kept > /dev/vdc && sync")
    control.ask(lab, "pull", "box")
    assert switch(lab, "status") == "ok off"
    assert switch(lab, "on") == "ok on"
    assert boot(lab) != before
    assert said(lab, "cat /root/flushed; head -c 4 /dev/vdc").split() == ["kept", "kept"]


def test_nothing_is_left_when_the_keeper_is_killed(lab: control.State) -> None:
    keeper = lab.keeper()
    assert keeper is not None
    machines = keeper.children()
    assert [each.name().startswith("qemu-system") for each in machines] == [True]
    os.kill(keeper.pid, signal.SIGKILL)
    gone, alive = psutil.wait_procs([keeper, *machines], timeout=60)
    assert not alive, gone
    assert "labbr" not in Path("/proc/net/dev").read_text()
    with pytest.raises(control.LabError, match="no lab runs"):
        control.ask(lab, "status")
    control.end(lab)
    assert not lab.folder.exists()
    assert not Path("/run/netns").exists() or not list(Path("/run/netns").glob("lab*"))

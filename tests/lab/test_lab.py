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
from tests.support.lab import said
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


def boot(lab: control.State) -> str:
    control.wait_for_hosts(lab)
    return said(lab, "box", "cat /proc/sys/kernel/random/boot_id")


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
    assert said(lab, "box", "hostname; nproc").split() == ["box", "1"]
    assert said(lab, "box", "cat /sys/block/vdc/size") == str(16 * 2048)
    addresses = said(lab, "box", "ip -o -4 address show scope global")
    assert "10.77.0.11/24" in addresses
    assert "10.78.1.1/24" in addresses
    # Modules that the roles need, and that this machine's kernel need not have.
    said(lab, "box", "modprobe -a drbd raid1 raid10 dm_flakey && test -e /proc/drbd")


def test_a_cable_that_is_cut_has_no_carrier(lab: control.State) -> None:
    carrier = "cat /sys/class/net/eth1/carrier"
    assert said(lab, "box", carrier) == "1"
    control.ask(lab, "cut", "box", "spare")
    wait_for(lambda: said(lab, "box", carrier) == "0", "the carrier to go", timeout_s=60)
    assert "10.78.1.1/24" in said(lab, "box", "ip -o -4 address show dev eth1")
    control.ask(lab, "mend", "box", "spare")
    wait_for(lambda: said(lab, "box", carrier) == "1", "the carrier to come back", timeout_s=60)
    with pytest.raises(control.LabError, match="box has no cable to moon, but to public, spare"):
        control.ask(lab, "cut", "box", "moon")


def test_power_is_pulled_and_what_was_flushed_is_there(lab: control.State) -> None:
    before = boot(lab)
    said(lab, "box", "echo kept > /root/flushed && sync /root/flushed")
    said(lab, "box", "echo kept > /dev/vdc && sync")
    control.ask(lab, "pull", "box")
    assert switch(lab, "status") == "ok off"
    assert switch(lab, "on") == "ok on"
    assert boot(lab) != before
    assert said(lab, "box", "cat /root/flushed; head -c 4 /dev/vdc").split() == ["kept", "kept"]


def test_a_disk_that_fails_answers_with_errors_until_it_is_healed(lab: control.State) -> None:
    said(lab, "box", "echo kept > /dev/vdc && sync")
    # And what the guest has not flushed yet.
    said(lab, "box", "dd if=/dev/zero of=/dev/vdc bs=512 seek=9 count=1 oflag=direct")
    read = "dd if=/dev/vdc bs=512 count=1 iflag=direct status=none | head -c 4"
    write = "dd if=/dev/zero of=/dev/vdc bs=512 count=1 oflag=direct"
    control.ask(lab, "fail", "box", "data")
    for words in (read, write):
        assert "Input/output error" in control.ssh(lab, "box", words).stderr
    assert control.ask(lab, "status")["box"]["failed"] == ["data"]
    control.ask(lab, "reset", "box")  # a boot does not mend it
    control.wait_for_hosts(lab)
    assert "Input/output error" in control.ssh(lab, "box", read).stderr
    control.ask(lab, "heal", "box", "data")
    assert said(lab, "box", read) == "kept"
    with pytest.raises(control.LabError, match="box has no disk moon, but data"):
        control.ask(lab, "fail", "box", "moon")


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

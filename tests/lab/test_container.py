"""A lab with one container: the same verbs as a virtual machine's, and nothing left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.box import CHECKOUT
from tests.support.lab import said
from tests.support.process import wait_for
from tools.lab import control
from tools.lab.container import groups
from tools.lab.plan import plan_of

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]
HOST = {"lab_kind": "container", "ansible_host": "10.77.0.11"}
CABLE = {"lab_crossover": "spare", "crossover_address": "10.78.1.1"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[control.State]:
    if os.geteuid() != 0:
        pytest.fail("labs need root: run the tests as root, or -m 'not lab'")
    state = control.State(tmp_path_factory.mktemp("lab") / "one")
    plan = plan_of({"_meta": {"hostvars": {"box": {**HOST, **CABLE}}}})
    control.start(state, plan, CHECKOUT / "var/cache/lab")
    try:
        control.wait_for_hosts(state)
        yield state
    finally:
        control.end(state)


def groups_of(lab: control.State) -> list[Path]:
    return [group for group in groups(lab.folder / "box") if group.exists()]


def test_the_host_is_what_the_inventory_asked_for(lab: control.State) -> None:
    assert said(lab, "box", "hostname; systemd-detect-virt --container").split() == [
        "box",
        "systemd-nspawn",
    ]
    wait_for(
        lambda: "running" in said(lab, "box", "systemctl is-system-running --wait; true"),
        "its systemd to be content",
        timeout_s=120,
    )
    addresses = said(lab, "box", "ip -o -4 address show scope global")
    assert "10.77.0.11/24" in addresses
    assert "10.78.1.1/24" in addresses
    assert groups_of(lab)


def test_a_cable_that_is_cut_has_no_carrier(lab: control.State) -> None:
    carrier = "cat /sys/class/net/eth1/carrier"
    assert said(lab, "box", carrier) == "1"
    control.ask(lab, "cut", "box", "spare")
    assert said(lab, "box", carrier) == "0"
    assert "10.78.1.1/24" in said(lab, "box", "ip -o -4 address show dev eth1")
    control.ask(lab, "reset", "box")  # it is still cut
    control.wait_for_hosts(lab)
    assert said(lab, "box", carrier) == "0"
    control.ask(lab, "mend", "box", "spare")
    assert said(lab, "box", carrier) == "1"


def test_power_is_pulled_pressed_and_the_machine_replaced(lab: control.State) -> None:
    said(lab, "box", "echo kept > /root/kept")
    assert control.ask(lab, "pull", "box")["on"] is False
    assert not groups_of(lab)  # no process of it lives
    control.ask(lab, "on", "box")
    control.wait_for_hosts(lab)
    assert said(lab, "box", "cat /root/kept") == "kept"
    with pytest.raises(control.LabError, match="box has power: pull it first"):
        control.ask(lab, "renew", "box")
    control.ask(lab, "press", "box")
    wait_for(lambda: not control.ask(lab, "status")["box"]["on"], "it to shut down", timeout_s=120)
    control.ask(lab, "renew", "box")
    control.ask(lab, "on", "box")
    control.wait_for_hosts(lab)
    assert said(lab, "box", "ls /root") == ""
    with pytest.raises(control.LabError, match="box has no disk data, but none"):
        control.ask(lab, "fail", "box", "data")


def test_power_comes_back_at_once_however_busy_the_network_was(lab: control.State) -> None:
    for _ in range(10):
        # What is open keeps the killed container's network for a moment.
        control.ask(lab, "reset", "box")
        control.wait_for_hosts(lab)
    assert control.ask(lab, "status")["box"]["on"]


def test_nothing_is_left_when_the_keeper_is_killed(lab: control.State) -> None:
    keeper = lab.keeper()
    assert keeper is not None
    inside = keeper.children(recursive=True)
    assert "systemd-nspawn" in {each.name() for each in inside}
    os.kill(keeper.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs([keeper, *inside], timeout=60)
    assert not alive
    image = str(lab.folder / "box/image")
    assert image not in Path("/proc/self/mounts").read_text()
    control.end(lab)
    assert not groups_of(lab)
    assert not lab.folder.exists()

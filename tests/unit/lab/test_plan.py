"""What an inventory asks a lab for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.box import CHECKOUT
from tools.lab.network import commands
from tools.lab.plan import BadPlan, Plan, plan_of, read_inventory

pytestmark = pytest.mark.unit


def listing(**hosts: dict[str, Any]) -> dict[str, Any]:
    named = {name.replace("_", "-"): each for name, each in hosts.items()}
    return {"_meta": {"hostvars": named}}


def vm(last: int, **more: Any) -> dict[str, Any]:
    return {"lab_kind": "vm", "ansible_host": f"10.77.0.{last}", **more}


def pair(**more: Any) -> Plan:
    cable = {"lab_crossover": "cluster1"}
    return plan_of(
        listing(
            db_a=vm(11, crossover_address="10.78.1.1", **cable, **more),
            db_b=vm(12, crossover_address="10.78.1.2", **cable, **more),
            elsewhere={"ansible_host": "192.0.2.1"},
        )
    )


def test_hosts_of_other_kinds_are_left_alone() -> None:
    assert [host.name for host in pair().hosts] == ["db-a", "db-b"]


def test_a_pair_has_a_cable_of_its_own() -> None:
    plan = pair(lab_disks={"data": 256}, lab_memory_mb=640)
    assert plan.networks == ("public", "cluster1")
    host = plan.host("db-b")
    assert [str(link.address) for link in host.links] == ["10.77.0.12/24", "10.78.1.2/24"]
    assert (host.memory_mb, host.disks) == (640, {"data": 256})


def test_a_container_brings_its_own_end_of_a_cable() -> None:
    made = [" ".join(words) for words in commands(pair(lab_kind="container"))]
    assert not [words for words in made if "tap" in words or "lab0n0" in words]
    assert pair().bridge("cluster1") == "labbr1"


def test_no_two_links_are_alike() -> None:
    links = [link for host in pair().hosts for link in host.links]
    assert len({link.mac for link in links}) == len({link.tap for link in links}) == len(links)
    assert max(len(link.tap) for link in links) <= 15


def test_the_keeper_is_on_the_public_network_alone() -> None:
    made = [" ".join(words) for words in commands(pair())]
    assert [words for words in made if " address add " in words] == [
        "ip address add 10.77.0.1/24 dev labbr0"
    ]
    assert "ip link set lab0n1 master labbr1 up" in made
    assert "ip link set lab1n1 master labbr1 up" in made


@pytest.mark.parametrize(
    ("hosts", "said"),
    [
        ({}, "no host of this inventory has a lab_kind"),
        ({"a": {"lab_kind": "vm"}}, "a: ansible_host must be a plain IPv4 address"),
        ({"a": {"lab_kind": "vm", "ansible_host": "10.1.0.1"}}, "must be in 10.77.0.0/24"),
        ({"a": vm(1)}, "and not 10.77.0.1"),
        ({"a": vm(2), "b": vm(2)}, "a and b both have the address 10.77.0.2"),
        ({"a": vm(2, lab_crossover="x")}, "a: crossover_address must be a plain"),
        ({"a": vm(2, lab_crossover="public")}, "lab_crossover names a cable"),
        ({"a": vm(2, lab_disks={"data": "1G"})}, "data has '1G' megabytes"),
        ({"a": vm(2, lab_disks={"A B": 1})}, "no serial number"),
        ({"a": vm(2, lab_memory_mb=64)}, "lab_memory_mb is a number of 256 or more"),
        ({"a": vm(2, lab_kind="pod")}, "a: lab_kind is vm or container, not 'pod'"),
        ({"a": vm(2, lab_kind="container", lab_disks={"data": 1})}, "a container has no lab_disks"),
        ({"A": vm(2)}, "A: a lab's host is named with small letters"),
    ],
)
def test_says_what_to_set(hosts: dict[str, Any], said: str) -> None:
    with pytest.raises(BadPlan, match=said):
        plan_of({"_meta": {"hostvars": hosts}})


def test_a_host_that_is_not_there() -> None:
    with pytest.raises(BadPlan, match="no host c in this lab; there are db-a, db-b"):
        pair().host("c")


def test_reads_the_inventory_of_a_scenario(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.box import BIN

    monkeypatch.setenv("PATH", f"{BIN}:/usr/bin:/bin")
    plan = read_inventory(CHECKOUT / "inventory/ha_pair")
    assert plan.networks == ("public", "cluster1")
    assert len(plan.hosts) == 3

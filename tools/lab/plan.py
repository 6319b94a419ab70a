"""What a lab consists of, read from an Ansible inventory.

These variables of a host are the lab's (plain values: they are read before any
template is filled in)::

    lab_kind: vm                  this host is to be made, as a virtual machine; or container
    ansible_host: 10.77.0.11      its address on the public network, 10.77.0.0/24
    lab_memory_mb: 512            memory of a virtual machine
    lab_disks: {data: 512}        its further disks: serial number -> megabytes
    lab_crossover: cluster1       the cable to its peer, by a name that both use
    crossover_address: 10.78.1.1  its address there, in a /24
"""

from __future__ import annotations

import ipaddress
import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GATEWAY = ipaddress.ip_interface("10.77.0.1/24")
"""The keeper's address on the public network."""
POWER_PORT = 8623
"""Where the keeper listens as the rack's power switch."""
KINDS = ("vm", "container")
NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


class BadPlan(Exception):
    """The inventory asks for something that can't be made; says which host and what to set."""


@dataclass(frozen=True)
class Link:
    """A cable from a host to a network.

    Attributes:
        network: name of the network, ``public`` or that of a cross-over cable.
        address: the host's address there.
        tap: name of the device on this machine's side; at most 15 characters.
        mac: hardware address.
    """

    network: str
    address: ipaddress.IPv4Interface
    tap: str
    mac: str


@dataclass(frozen=True)
class Host:
    """One machine: its links, memory in megabytes, disks (serial -> megabytes), and kind."""

    name: str
    links: tuple[Link, ...]
    memory_mb: int = 512
    disks: Mapping[str, int] = field(default_factory=dict)
    kind: str = "vm"

    @property
    def address(self) -> str:
        """Where it is reached on the public network."""
        return str(self.links[0].address.ip)


@dataclass(frozen=True)
class Plan:
    """All hosts of a lab."""

    hosts: tuple[Host, ...]

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the networks, the public one first."""
        crossovers = {link.network for host in self.hosts for link in host.links[1:]}
        return ("public", *sorted(crossovers))

    def bridge(self, network: str) -> str:
        """The device on this machine's side that a network is."""
        return f"labbr{self.networks.index(network)}"

    def host(self, name: str) -> Host:
        """The host of that name.

        Raises:
            BadPlan: there is none.
        """
        for host in self.hosts:
            if host.name == name:
                return host
        known = ", ".join(host.name for host in self.hosts)
        raise BadPlan(f"no host {name} in this lab; there are {known}")


def _link(network: str, address: ipaddress.IPv4Interface, number: int, which: int) -> Link:
    octets = address.ip.packed
    mac = ":".join(f"{octet:02x}" for octet in (0x52, 0x54, which, *octets[1:]))
    return Link(network, address, f"lab{number}n{which}", mac)


def _address(name: str, variable: str, value: Any) -> ipaddress.IPv4Interface:
    try:
        return ipaddress.IPv4Interface(f"{value}/24")
    except ValueError:
        raise BadPlan(f"{name}: {variable} must be a plain IPv4 address, not {value!r}") from None


def _host(name: str, variables: Mapping[str, Any], number: int) -> Host:
    if not NAME.fullmatch(name):
        raise BadPlan(f"{name}: a lab's host is named with small letters, digits and dashes")
    public = _address(name, "ansible_host", variables.get("ansible_host"))
    if public not in GATEWAY.network or public.ip == GATEWAY.ip:
        raise BadPlan(f"{name}: ansible_host must be in {GATEWAY.network} and not {GATEWAY.ip}")
    links = [_link("public", public, number, 0)]
    crossover = variables.get("lab_crossover")
    if crossover is not None:
        if not NAME.fullmatch(str(crossover)) or crossover == "public":
            raise BadPlan(f"{name}: lab_crossover names a cable: small letters, digits, dashes")
        address = _address(name, "crossover_address", variables.get("crossover_address"))
        links.append(_link(str(crossover), address, number, 1))
    disks = variables.get("lab_disks", {})
    for serial, size in disks.items():
        if not NAME.fullmatch(serial) or len(serial) > 20:
            raise BadPlan(f"{name}: lab_disks: {serial!r} is no serial number of a disk")
        if not isinstance(size, int) or size < 1:
            raise BadPlan(f"{name}: lab_disks: {serial} has {size!r} megabytes")
    kind = variables["lab_kind"]
    if disks and kind == "container":
        raise BadPlan(f"{name}: a container has no lab_disks; make it a machine, lab_kind: vm")
    memory = variables.get("lab_memory_mb", 512)
    if not isinstance(memory, int) or memory < 256:
        raise BadPlan(f"{name}: lab_memory_mb is a number of 256 or more, not {memory!r}")
    return Host(name, tuple(links), memory, dict(disks), kind)


def plan_of(listing: Mapping[str, Any]) -> Plan:
    """The plan that an inventory asks for.

    Args:
        listing: what ``ansible-inventory --list`` prints, parsed.

    Raises:
        BadPlan: there is no host to make, or two would be in each other's way.
    """
    hostvars = listing.get("_meta", {}).get("hostvars", {})
    kinds = {name: each["lab_kind"] for name, each in hostvars.items() if "lab_kind" in each}
    for name, kind in kinds.items():
        if kind not in KINDS:
            raise BadPlan(f"{name}: lab_kind is {' or '.join(KINDS)}, not {kind!r}")
    wanted = sorted(kinds)
    hosts = tuple(_host(name, hostvars[name], number) for number, name in enumerate(wanted))
    if not hosts:
        raise BadPlan("no host of this inventory has a lab_kind: vm or container")
    seen: dict[str, str] = {}
    for host in hosts:
        for link in host.links:
            other = seen.setdefault(str(link.address.ip), host.name)
            if other != host.name:
                raise BadPlan(f"{other} and {host.name} both have the address {link.address.ip}")
    return Plan(hosts)


def read_inventory(inventory: Path) -> Plan:
    """The plan of an inventory on disk.

    Raises:
        BadPlan: it can't be read, or asks for something that can't be made.
    """
    run = subprocess.run(
        ["ansible-inventory", "-i", inventory, "--list"],
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode != 0:
        raise BadPlan(f"{inventory}: {run.stderr.strip()}")
    return plan_of(json.loads(run.stdout))

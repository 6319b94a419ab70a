"""Bridges and taps, in the network namespace of whoever calls this: a keeper's."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from tools.lab.plan import GATEWAY, Plan


def commands(plan: Plan) -> list[list[str]]:
    """The ``ip`` commands that make a lab's networks.

    A network is a bridge; a virtual machine's link is a tap on it, which stays when it is
    off, and a container's is made when that starts.  The keeper has an address on the
    public network alone: nobody but its two hosts is on a cross-over cable.
    """
    found = ["link set lo up"]
    bridges = {network: plan.bridge(network) for network in plan.networks}
    for bridge in bridges.values():
        found += [f"link add {bridge} type bridge forward_delay 0", f"link set {bridge} up"]
    found.append(f"address add {GATEWAY} dev {bridges['public']}")
    for host in plan.hosts:
        for link in host.links if host.kind == "vm" else ():
            found += [
                f"tuntap add dev {link.tap} mode tap",
                f"link set {link.tap} master {bridges[link.network]} up",
            ]
    return [["ip", *words.split()] for words in found]


def make(plan: Plan, run: Sequence[str] = ()) -> None:
    """Make a lab's networks.

    Args:
        plan: the lab.
        run: words before each command.

    Raises:
        subprocess.CalledProcessError: one of the commands failed.
    """
    for words in commands(plan):
        subprocess.run([*run, *words], check=True, capture_output=True)

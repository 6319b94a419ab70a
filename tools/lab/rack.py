"""Which kind of machine a host of a lab is."""

from __future__ import annotations

from tools.lab import container
from tools.lab.container import Container
from tools.lab.machine import Frame, Machine
from tools.lab.plan import Host, Plan
from tools.lab.virtual import VirtualMachine


def machine(plan: Plan, host: Host, frame: Frame) -> Machine:
    """The machine of one host of the plan."""
    if host.kind == "container":
        return Container(host, frame, {name: plan.bridge(name) for name in plan.networks})
    return VirtualMachine(host, frame)


def prepare(plan: Plan, host: Host, frame: Frame, seed: bytes) -> None:
    """Make what a machine that has never run has: its disks, and what makes it this host.

    Args:
        plan: the lab.
        host: one of its hosts.
        frame: where its files go; the folder is made.
        seed: see ``tools.lab.seed``.
    """
    frame.folder.mkdir(parents=True)
    frame.seed.write_bytes(seed)
    machine(plan, host, frame).make()


def drop(host: Host, frame: Frame) -> None:
    """Remove what a host has left outside its folder, when its keeper was killed."""
    if host.kind == "container":
        container.drop_groups(frame.folder)

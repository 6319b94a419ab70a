"""SHOW, NODES, QUEUES, STATES, BACKENDS, PENDING, NOVERIFY, PLUGINS, REPROXY_STATE, DUMPCONFIG.

The answers have the original's form, as other programs read them.

Source: Perlbal::Manual::Management, and Perlbal 1.80's answers.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Final

from lj_services.perlbal.errors import CommandError
from lj_services.perlbal.language import Command
from lj_services.perlbal.nodes import Address, Node, parse_address
from lj_services.perlbal.proxy.role import ProxyRole

if TYPE_CHECKING:
    from lj_services.perlbal.balancer import Balancer
    from lj_services.perlbal.service import Service

_SHOW = re.compile(r"show (service|pool)(?: (\w+))?")
_NODES = re.compile(r"nodes?(?: (\S+))?")
_STATES = re.compile(r"states(?: (.+))?")
_STATE = re.compile(r"state changes")


def show(balancer: Balancer, command: Command) -> None:
    """``SHOW {SERVICE|POOL} [name]``."""
    what, name = command.match(_SHOW).groups()
    if what == "pool":
        _show_pool(balancer, command, name)
    elif name is None:
        for each in _by_name(balancer):
            state = "ENABLED" if each.enabled else "DISABLED"
            command.out(f"{each.name} {each.where} {state}")
    else:
        if name not in balancer.services:
            raise CommandError("Unknown service")
        for line in describe(balancer.services[name]):
            command.out(line)
    command.end()


def _show_pool(balancer: Balancer, command: Command, name: str | None) -> None:
    if name is None:
        for _, pool in sorted(balancer.pools.items()):
            command.out(f"{pool.name} nodes {len(pool.nodes)}")
            command.out(f"{pool.name} services {pool.services}")
        return
    found = balancer.pools.get(name)
    if found is None:
        raise CommandError(f"pool '{name}' does not exist")
    for node in found.weights():
        command.out(f"{node} {found.used[node]}")
    for node, seconds in found.drained(balancer.now).items():
        command.out(f"{node} drained {seconds}")


def describe(service: Service) -> list[str]:
    """The block of ``SHOW SERVICE name``."""
    listen = service.parameters.listen
    lines = [
        f"SERVICE {service.name}",
        f"     listening: {'--' if listen is None else listen}",
        f"          role: {service.parameters.role}",
    ]
    return lines + (service.role.describe() if service.role is not None else [])


def nodes(balancer: Balancer, command: Command) -> None:
    """``NODES [ip[:port]]``: what nodes were asked and answered."""
    wanted = command.match(_NODES)[1]
    only: Address | None = None
    if wanted is not None:
        try:
            only = parse_address(wanted)
        except ValueError as error:
            raise CommandError(str(error)) from None
    for node in balancer.nodes.tried():
        if only is None or node.address == only:
            for line in _node(node, balancer.now):
                command.out(f"{node.name} {line}")
    command.end()


def _node(node: Node, now: float) -> list[str]:
    lines = [
        f"attempts {node.attempts}",
        f"connects {node.connects}",
        f"lastattempt {node.last_attempt}",
    ]
    if node.last_connect:
        lines.append(f"lastconnect {node.last_connect}")
    if node.last_response:
        lines.append(f"lastresponse {node.last_response}")
    lines.append(f"requests {node.requests}")
    lines += [
        f"responsecodes {code} {count}" for code, count in sorted(Counter(node.codes).items())
    ]
    if node.unhealthy:
        lines.append("unhealthy 1")
    if now < node.retry_at:
        lines.append(f"leftout {node.retry_at - now:.1f}")
    return lines


def queues(balancer: Balancer, command: Command) -> None:
    """``QUEUES``: how many requests wait for a node, and how long the oldest has."""
    for service, role in _proxies(balancer):
        for name, count, age in role.queues.figures(balancer.now):
            command.out(f"{service.name}-{name}.age {age:.0f}")
            command.out(f"{service.name}-{name}.count {count}")
    command.end()


def states(balancer: Balancer, command: Command) -> None:
    """``STATES [service]``: how many connections are in which state."""
    name = command.match(_STATES)[1]
    if name is not None and name not in balancer.services:
        raise CommandError("Service not found.")
    counted = Counter(
        (connection.kind, connection.state)
        for connection in balancer.connections
        if name is None or connection.service_name == name
    )
    for (kind, state), count in sorted(counted.items()):
        command.out(f"{kind} {state} {count}")
    command.end()


def state(_balancer: Balancer, command: Command) -> None:
    """``STATE CHANGES``: refused, as the original does not keep them either unless built so."""
    command.match(_STATE)
    raise CommandError("changes of state are not kept; STATES shows what is")


def backends(balancer: Balancer, command: Command) -> None:
    """``BACKENDS``: how many connections there are to each node."""
    counted: Counter[str] = Counter()
    for _, role in _proxies(balancer):
        counted.update(backend.node.name for backend in role.backends)
    for name, count in sorted(counted.items()):
        command.out(f"{name} {count}")
    command.end()


def pending(balancer: Balancer, command: Command) -> None:
    """``PENDING``: connections to nodes that are being opened, and for how long."""
    for service, role in _proxies(balancer):
        for backend in sorted(role.pending, key=lambda each: each.node.name):
            age = balancer.now - backend.created
            command.out(f"{service.name} {backend.node.name} {age:.0f}")
    command.end()


def noverify(balancer: Balancer, command: Command) -> None:
    """``NOVERIFY``: nodes whose connections are used without OPTIONS, and for how long yet."""
    command.no_arguments()
    for node in balancer.nodes.tried():
        if node.unverified_until > balancer.now:
            command.out(f"{node.name} {node.unverified_until - balancer.now:.0f}")
    command.end()


def plugins(balancer: Balancer, command: Command) -> None:
    """``PLUGINS``: which plug-ins work on which service."""
    command.no_arguments()
    for service in _by_name(balancer):
        if service.plugins:
            command.out(" ".join([service.name, *(p.title for p in service.plugins)]))
    command.end()


def reproxy_state(balancer: Balancer, command: Command) -> None:
    """``REPROXY_STATE``: connections to URLs that nodes have named."""
    command.no_arguments()
    counted: Counter[str] = Counter()
    for _, role in _proxies(balancer):
        counted.update(role.reproxying())
    for name, count in sorted(counted.items()):
        command.out(f"{name} {count}")
    command.end()


def dumpconfig(balancer: Balancer, command: Command) -> None:
    """``DUMPCONFIG``: the commands that would make everything as it is."""
    for name in sorted(balancer.plugins):
        command.out(f"LOAD {name}")
    for name, value in sorted(balancer.defaults.items()):
        command.out(f"DEFAULT {name} = {value}")
    for _, pool in sorted(balancer.pools.items()):
        command.out(f"CREATE POOL {pool.name}")
        for line in pool.dump(balancer.now):
            command.out(f"  {line}")
        command.out()
    for service in _in_order(balancer):
        command.out(f"CREATE SERVICE {service.name}")
        for line in service.dump():
            command.out(f"  {line}")
        command.out(f"{'ENABLE' if service.enabled else 'DISABLE'} {service.name}")
        command.out()
    command.ok()


def _by_name(balancer: Balancer) -> list[Service]:
    return [service for _, service in sorted(balancer.services.items())]


def _in_order(balancer: Balancer) -> list[Service]:
    """By name, but each behind the one that it names as its default_service."""
    ordered: dict[str, Service] = {}

    def add(service: Service, above: frozenset[str]) -> None:
        named = balancer.services.get(service.parameters.default_service)
        if named is not None and named.name not in above:
            add(named, above | {named.name})
        ordered.setdefault(service.name, service)

    for service in _by_name(balancer):
        add(service, frozenset({service.name}))
    return list(ordered.values())


def _proxies(balancer: Balancer) -> list[tuple[Service, ProxyRole]]:
    return [
        (service, service.role)
        for service in _by_name(balancer)
        if isinstance(service.role, ProxyRole)
    ]


COMMANDS: Final = {
    "show": show,
    "node": nodes,
    "nodes": nodes,
    "queues": queues,
    "states": states,
    "state": state,
    "backends": backends,
    "pending": pending,
    "noverify": noverify,
    "plugins": plugins,
    "reproxy_state": reproxy_state,
    "dumpconfig": dumpconfig,
}

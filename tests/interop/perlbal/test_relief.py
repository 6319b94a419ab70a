"""Whose turn it is when a node is free, with relief and without: ours and Debian's Perlbal.

On several connections to a node requests overtake each other; so the node here accepts one, and
listens no more.
"""

from __future__ import annotations

import socket

import pytest

from tests.support.perlbal import LONGEST_WAIT_S, Balancer, Start, Talk, Which, proxy, read_head
from tests.support.process import wait_for
from tests.support.proxies import BOTH

pytestmark = pytest.mark.interop


SETTINGS = """  SET persist_backend = on
  SET connect_ahead = 0
  SET plugins = Highpri AccessControl
  SET web.highpri.uri_pattern = ^/high
  SET trusted_upstream_proxies = 127.0.0.1
  SET web.AccessControl.use_observed_ip = 1
  ACCESS QUEUE_LOW ip 192.0.2.9
  SET queue_relief_size = 2
  SET queue_relief_chance = {chance}
"""
ANSWER = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"


def ask(balancer: Balancer, path: str) -> Talk:
    """A client; what it asks for, if it begins with /low or /high, waits in that queue."""
    talk = balancer.talk()
    address = "192.0.2.9" if path.startswith("/low") else "192.0.2.1"
    talk.send(f"GET {path} HTTP/1.0\r\nX-Forwarded-For: {address}\r\n\r\n".encode())
    return talk


def waiting(balancer: Balancer) -> int:
    """How many clients wait for a node."""
    rows = [line.split() for line in balancer.command("queues") if ".count" in line]
    return sum(int(count) for _name, count in rows)


def turns(start: Start, which: Which, chance: int, *paths: str) -> list[str]:
    """In which order the node is asked for what clients, one after the other, have asked for."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LONGEST_WAIT_S)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        config = proxy(address, settings=SETTINGS.format(chance=chance))
        balancer = start(f"LOAD Highpri\nLOAD AccessControl\n{config}", which)
        talks = [ask(balancer, "/first")]
        node, _address = listener.accept()
    seen = []
    with node:
        node.settimeout(LONGEST_WAIT_S)
        read_head(node)
        for number, path in enumerate(paths, 1):
            talks.append(ask(balancer, path))
            wait_for(lambda number=number: waiting(balancer) == number, f"{path} in line")
        for _ in paths:
            node.sendall(ANSWER)
            seen.append(read_head(node).split(b" ")[1].decode())
        node.sendall(ANSWER)
        for talk in talks:
            with talk:
                assert talk.read().status == 200
    return seen


@BOTH
@pytest.mark.parametrize(
    ("chance", "order"),
    [
        (0, ["/high1", "/high2", "/1", "/2", "/3", "/low"]),
        (100, ["/1", "/2", "/high1", "/high2", "/3", "/low"]),
    ],
)
def test_relief_of_the_normal_queue(
    which: Which, start_balancer: Start, chance: int, order: list[str]
) -> None:
    """While it has as many as ``queue_relief_size``, and that at each turn anew."""
    paths = ("/low", "/1", "/2", "/3", "/high1", "/high2")
    assert turns(start_balancer, which, chance, *paths) == order


@pytest.mark.parametrize(
    ("which", "order"),
    [
        ("ours", ["/low1", "/low2", "/high1", "/high2", "/1", "/low3"]),
        ("perlbal", ["/high1", "/high2", "/1", "/low1", "/low2", "/low3"]),
    ],
)
def test_relief_of_the_low_queue(which: Which, start_balancer: Start, order: list[str]) -> None:
    """Perlbal has none: there, whoever is in it waits for as long as others come."""
    paths = ("/low1", "/low2", "/low3", "/1", "/high1", "/high2")
    assert turns(start_balancer, which, 100, *paths) == order

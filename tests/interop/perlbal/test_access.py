"""Who may ask, and who waits in which queue: the same through ours and through Debian's Perlbal."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.support.perlbal import Balancer, Node, Start, Talk, Which, get, proxy
from tests.support.process import wait_for
from tests.support.proxies import BOTH, using

pytestmark = pytest.mark.interop


@BOTH
def test_access_control_goes_by_the_first_rule(
    which: Which, start_balancer: Start, node: Node
) -> None:
    balancer = start_balancer(using("AccessControl", node, "ACCESS DENY ip 127.0.0.9"), which)
    assert get(balancer.port).status == 200
    # The console's own SERVICE was created last: rules are about the one that is used.
    with socket.create_connection(("127.0.0.1", balancer.console)) as console:
        console.sendall(b"USE web\r\nACCESS DENY ip 127.0.0.1\r\nACCESS ALLOW ip 127.0.0.1\r\n")
        console.sendall(b"ACCESS SNEEZE ip 127.0.0.1\r\nACCESS DENY house 3\r\nversion\r\n")
        answers = console.makefile("r")
        assert answers.readline().startswith("OK")
        assert [answers.readline().strip() for _ in range(2)] == ["OK", "OK"]
        assert answers.readline().startswith("ERROR: usage: ACCESS")
        assert answers.readline().startswith("ERROR: Unknown item to deny: 'house'")
    assert get(balancer.port).status == 403


@BOTH
def test_throttle_makes_a_client_wait_that_asks_again_at_once(
    which: Which, start_balancer: Start, node: Node
) -> None:
    balancer = start_balancer(
        using(
            "Throttle",
            node,
            before=(
                "SET throttle_threshold_seconds = 600",
                "SET initial_delay = 5",
                "SET path_regex = ^/login",  # Perlbal looks at it only once
                "SET log_events = none",
            ),
        ),
        which,
    )
    assert get(balancer.port, "/login").status == 200
    with balancer.talk() as waiting:
        waiting.send(b"GET /login?again HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert get(balancer.port, "/other").status == 200
        assert "/login?again" not in node.seen()
        assert waiting.read().status == 200
    assert "/login?again" in node.seen()


@BOTH
def test_whose_address_is_denied(which: Which, start_balancer: Start, node: Node) -> None:
    """The peer's, unless it may say for whom it asks."""
    lines = ("SET web.AccessControl.use_observed_ip = 1", "ACCESS DENY ip 127.0.0.1")
    balancer = start_balancer(using("AccessControl", node, *lines), which)

    def allowed(*fields: str) -> bool:
        return get(balancer.port, "/", *fields).status == 200

    forwarded = "X-Forwarded-For: 1.1.1.1"
    assert (allowed(), allowed(forwarded)) == (False, False)
    balancer.command("SET web.always_trusted = 1")
    assert (allowed(), allowed(forwarded)) == (False, True)
    balancer.command("SET web.always_trusted = 0")
    for networks in ("127.0.0.1", "10.0.0.0/24, 127.0.0.1"):
        balancer.command(f"SET web.trusted_upstream_proxies = {networks}")
        assert (allowed(), allowed(forwarded)) == (False, True)
    balancer.command("SET web.AccessControl.use_observed_ip = 0")
    assert not allowed(forwarded)


PRIORITIES = """  SET persist_backend = on
  SET connect_ahead = 0
  SET plugins = Highpri AccessControl
  SET high_priority_cookie = paid
  SET high_priority_cookie_contents = yes
  SET web.highpri.uri_pattern = ^/pay
  SET trusted_upstream_proxies = 127.0.0.1
  SET web.AccessControl.use_observed_ip = 1
  ACCESS QUEUE_LOW ip 192.0.2.9
"""
WAITING = {
    "/low": "X-Forwarded-For: 192.0.2.9",
    "/normal": "Cookie: paid=no",
    "/high": "Cookie: a=b; paid=yes",
    "/pay": "Cookie: unpaid=yes",
}


def stand_in_line(balancer: Balancer, path: str) -> Talk:
    """A client that waits for a node."""
    before = balancer.command("queues")
    talk = balancer.talk()
    fields = f"Host: a\r\nConnection: close\r\n{WAITING[path]}\r\n"
    talk.send(f"GET {path} HTTP/1.0\r\n{fields}\r\n".encode())
    wait_for(lambda: counts(balancer.command("queues")) != counts(before), "the client in line")
    return talk


def counts(lines: list[str]) -> dict[str, int]:
    """How many wait, by queue."""
    rows = [line.split() for line in lines if ".count" in line]
    return {name.removeprefix("web-").removesuffix(".count"): int(count) for name, count in rows}


@BOTH
def test_who_waits_in_which_queue(which: Which, start_balancer: Start, node: Node) -> None:
    """And all are served.  In which order ours takes them from its queues, unit tests say: both
    have several connections to a node, on which requests overtake each other."""
    config = "LOAD Highpri\nLOAD AccessControl\n" + proxy(settings=PRIORITIES)
    balancer = start_balancer(config, which)
    order = ("/low", "/normal", "/high", "/pay")
    talks = [stand_in_line(balancer, path) for path in order]
    assert counts(balancer.command("queues")) == {"normal": 1, "highpri": 2, "lowpri": 1}
    balancer.command(f"POOL p ADD {node.address}")
    # Perlbal looks for nodes when somebody comes.
    last = Talk(balancer.port)
    last.send(f"GET /last HTTP/1.0\r\n{WAITING['/low']}\r\n\r\n".encode())
    for talk in (*talks, last):
        with talk:
            assert talk.read().status == 200
    wait_for(lambda: not any(counts(balancer.command("queues")).values()), "nobody to wait")
    assert sorted(node.seen()) == sorted([*order, "/last"])


# -- ours alone -------------------------------------------------------------------


def test_what_waits_is_bounded_and_then_refused(start_balancer: Start, node: Node) -> None:
    lines = ("SET initial_delay = 600", "SET max_delay = 600", "SET max_concurrent = 1")
    balancer = start_balancer(using("Throttle", node, *lines))
    assert get(balancer.port, "/1").status == 200
    with balancer.talk() as waiting:
        waiting.send(b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = get(balancer.port, "/3")
        while answer.status == 200:  # it overtook the one that is to wait
            answer = get(balancer.port, "/3")
        assert answer.status == 403
        # Who stops to use the plug-in lets go of who waits.
        assert balancer.command("SET web.plugins = none") == ["OK"]
        assert waiting.read().status == 200


def test_a_list_is_read_again(start_balancer: Start, node: Node, tmp_path: Path) -> None:
    denied = tmp_path / "denied"
    denied.write_text("192.0.2.0/24  # nobody here\n")
    config = f"SET blacklist_file = {denied}"
    balancer = start_balancer(
        f"LOAD Throttle\n{proxy(node.address, settings=f'  {config}')}\nSET web.plugins = Throttle"
        "\nSET web.throttle_threshold_seconds = 0\n"
    )
    assert get(balancer.port).status == 200
    denied.write_text("127.0.0.0/8\n")
    with socket.create_connection(("127.0.0.1", balancer.console)) as console:
        console.sendall(b"USE web\r\nthrottle reload blacklist\r\nthrottle reload whitelist\r\n")
        answers = console.makefile("r")
        assert [answers.readline().strip() for _ in range(3)] == [
            "OK",
            "OK",
            "ERROR: no whitelist file configured",
        ]
    assert get(balancer.port).status == 403
    denied.write_text("somewhere\n")
    assert balancer.command("throttle reload blacklist") == [
        "ERROR: No service name in context from CREATE SERVICE <name> or USE <service_name>"
    ]


def test_access_rules_survive_a_dump(start_balancer: Start, node: Node) -> None:
    balancer = start_balancer(
        using(
            "AccessControl",
            node,
            "ACCESS QUEUE_LOW netmask 127.0.0.0/8",
            "ACCESS DENY ip 10.0.0.1",
            "ACCESS POLICY deny",
            "SET web.accesscontrol.use_observed_ip = on",
        )
    )
    dumped = [line.strip() for line in balancer.command("dumpconfig")]
    start = dumped.index("ACCESS QUEUE_LOW netmask 127.0.0.0/8")
    assert dumped[start : start + 4] == [
        "ACCESS QUEUE_LOW netmask 127.0.0.0/8",
        "ACCESS DENY ip 10.0.0.1",
        "ACCESS POLICY deny",
        "SET web.accesscontrol.use_observed_ip = on",
    ]


def test_who_is_denied_by_the_address_that_a_trusted_proxy_tells(
    start_balancer: Start, node: Node
) -> None:
    balancer = start_balancer(
        using(
            "AccessControl",
            node,
            "SET trusted_upstream_proxies = 127.0.0.0/8",
            "SET web.accesscontrol.use_observed_ip = on",
            "ACCESS DENY netmask 192.0.2.0/24",
        )
    )
    assert get(balancer.port, "/", "X-Forwarded-For: 192.0.2.7").status == 403
    assert get(balancer.port, "/", "X-Forwarded-For: 192.0.2.7, 198.51.100.1").status == 200

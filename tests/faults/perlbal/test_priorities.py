"""Who waits in which queue, and who is refused when too many wait: with nodes that are down."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.perlbal import Balancer, Start, Talk, proxy, starting
from tests.support.process import free_port, wait_for

pytestmark = pytest.mark.faults

RULES = """  SET plugins = highpri lowpri accesscontrol
  SET trusted_upstream_proxies = 127.0.0.1
  SET high_priority_cookie = paid
  SET high_priority_cookie_contents = ^yes
  SET low_priority_cookie = suspect
  SET highpri.uri_pattern = ^/pay
  SET highpri.host_pattern = ^pay
  SET highpri.agent_pattern = ^OurClient/
  SET highpri.header_pattern = ^x-account: paid$
  SET lowpri.uri_pattern = ^/data/rss
  SET lowpri.host_pattern = ^feeds
  SET lowpri.agent_pattern = (?i)bot|spider|^$
  SET lowpri.header_pattern = ^x-suspect:
  SET accesscontrol.use_observed_ip = on
  ACCESS QUEUE_LOW netmask 192.0.2.0/24
  ACCESS QUEUE_HIGH ip 198.51.100.7
"""


@pytest.fixture(scope="module")
def queueing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    """A proxy whose node is down, so that every request waits."""
    with starting(tmp_path_factory.mktemp("queueing")) as start:
        text = "LOAD highpri\nLOAD lowpri\nLOAD accesscontrol\n"
        yield start(text + proxy(f"127.0.0.1:{free_port()}", settings=RULES))


def counts(balancer: Balancer) -> dict[str, int]:
    """How many wait, by queue."""
    rows = [line.split() for line in balancer.command("queues") if ".count" in line]
    return {name.removeprefix("web-").removesuffix(".count"): int(n) for name, n in rows}


def request(target: str, *lines: str, host: str = "a", agent: str = "Firefox") -> bytes:
    fields = [f"Host: {host}", *lines]
    if agent:
        fields.append(f"User-Agent: {agent}")
    return "\r\n".join([f"GET {target} HTTP/1.1", *fields, "", ""]).encode()


@pytest.mark.parametrize(
    ("asked", "queue"),
    [
        (request("/"), "normal"),
        (request("/", "Cookie: a=b; paid=yes1"), "highpri"),
        (request("/", "Cookie: paid=no"), "normal"),
        (request("/", "Cookie: unpaid=yes"), "normal"),
        (request("/pay/now"), "highpri"),
        (request("/", host="pay.example"), "highpri"),
        (request("/", agent="OurClient/1"), "highpri"),
        (request("/", "X-Account: paid"), "highpri"),
        (request("/", "X-Account: paid, not"), "normal"),
        (request("/", "X-Forwarded-For: 198.51.100.7"), "highpri"),
        (request("/", "Cookie: suspect=1"), "lowpri"),
        (request("/data/rss"), "lowpri"),
        (request("/", host="feeds.example"), "lowpri"),
        (request("/", agent="Googlebot/2.1"), "lowpri"),
        (request("/", agent=""), "lowpri"),
        (request("/", "X-Suspect: 7"), "lowpri"),
        (request("/", "X-Forwarded-For: 192.0.2.9"), "lowpri"),
        (request("/pay/now", agent="Googlebot/2.1"), "lowpri"),
    ],
)
def test_the_queue_is_chosen_by_what_is_asked_and_who_asks(
    queueing: Balancer, asked: bytes, queue: str
) -> None:
    wait_for(lambda: not any(counts(queueing).values()), "the last one to be gone")
    with queueing.talk() as talk:
        talk.send(asked)
        wait_for(lambda: any(counts(queueing).values()), "the request")
        assert counts(queueing) == {"normal": 0, "highpri": 0, "lowpri": 0, queue: 1}


def test_patterns_are_shown_and_switched_off(queueing: Balancer) -> None:
    shown = queueing.command("lowpatterns")
    assert "SET web.lowpri.agent_pattern = (?i)bot|spider|^$" in shown
    assert queueing.command("SET web.lowpri.host_pattern = none") == ["OK"]
    assert "SET web.lowpri.host_pattern = none" in queueing.command("lowpatterns")
    assert queueing.command("SET web.lowpri.host_pattern = ^feeds") == ["OK"]
    assert queueing.command("SET web.lowpri.agent_pattern = (")[0].startswith(
        "ERROR: invalid regular expression"
    )
    dumped = queueing.command("dumpconfig")
    assert [line for line in shown if line.startswith("SET")] == [
        line.strip() for line in dumped if "lowpri." in line
    ]
    assert "ACCESS QUEUE_HIGH ip 198.51.100.7" in {line.strip() for line in dumped}


def test_when_too_many_wait_the_lowest_is_refused(start_balancer: Start) -> None:
    settings = "  SET queue_max_size = 2\n  SET low_priority_cookie = low\n"
    balancer = start_balancer(
        proxy(f"127.0.0.1:{free_port()}", settings=settings + "  SET high_priority_cookie = high")
    )
    low, high = request("/low", "Cookie: low=1"), request("/high", "Cookie: high=1")
    with Talk(balancer.port) as first, Talk(balancer.port) as second:
        first.send(low)
        wait_for(lambda: counts(balancer)["lowpri"] == 1, "the first")
        second.send(low)
        wait_for(lambda: counts(balancer)["lowpri"] == 2, "the second")
        with Talk(balancer.port) as third:
            assert third.ask(low).status == 503
        with Talk(balancer.port) as fourth, Talk(balancer.port) as fifth:
            fourth.send(high)
            assert second.read().status == 503
            fifth.send(request("/normal"))
            assert first.read().status == 503
            assert counts(balancer) == {"normal": 1, "highpri": 1, "lowpri": 0}

"""Weights and stickiness, with nodes that are busy, fail and leave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.perlbal import Answer, Balancer, Node, Start, echoing, proxy
from tests.support.process import free_port, wait_for
from tests.support.proxies import GET, KEPT

pytestmark = pytest.mark.faults


@pytest.fixture
def nodes() -> Iterator[list[Node]]:
    with echoing("first") as first, echoing("second") as second:
        yield [first, second]


def ask(balancer: Balancer, *lines: str, target: bytes = b"/") -> Answer:
    with balancer.talk() as talk:
        return talk.ask(GET % (target, "".join(f"{line}\r\n" for line in lines).encode()))


def cookie(answer: Answer) -> str:
    """The cookie that an answer sets, as it is to be sent; nothing, if it sets none."""
    return answer.fields.get("set-cookie", "").partition(";")[0]


def test_weights_decide_who_gets_how_much(start_balancer: Start, nodes: list[Node]) -> None:
    config = proxy(f"{nodes[0].address} weight=4", nodes[1].address, settings=KEPT)
    balancer = start_balancer(
        config.replace("CREATE SERVICE", "SET p.balance_method = weighted\nCREATE SERVICE")
    )
    with balancer.talk() as talk:
        answered = Counter(talk.ask(GET % (b"/", b"")).json["node"] for _ in range(300))
    assert 200 < answered["first"] < 280
    shown = balancer.command("show pool p")
    assert [line.split() for line in shown] == [
        [nodes[0].address, str(answered["first"])],
        [nodes[1].address, str(answered["second"])],
    ]
    dumped = {line.strip() for line in balancer.command("dumpconfig")}
    assert f"POOL ADD p {nodes[0].address} weight=4" in dumped
    # A node that is busy gets no more than its weight is worth.
    with balancer.talk() as busy:
        busy.send(GET % (b"/wait", b""))
        wait_for(lambda: any("/wait" in n.seen() for n in nodes), "the request")
        waiting = next(node for node in nodes if "/wait" in node.seen())
        assert {ask(balancer).json["node"] for _ in range(20)} == {
            node.name for node in nodes if node is not waiting
        }
        waiting.go.release()
        assert busy.read().status == 200


def test_weights_are_refused_that_are_none(start_balancer: Start) -> None:
    balancer = start_balancer(proxy())
    for told in ("weight=0", "weight=101", "weight=many"):
        assert balancer.command(f"POOL p ADD 10.0.0.1:80 {told}")[0].startswith(
            f"ERROR: '{told}' is no weight"
        )


def test_a_cookie_leads_back_to_the_node(start_balancer: Start, nodes: list[Node]) -> None:
    settings = KEPT + "  SET sticky_cookie = lj_node\n"
    balancer = start_balancer(proxy(*(node.address for node in nodes), settings=settings))
    told = ask(balancer)
    mine, name = cookie(told), told.json["node"]
    assert mine.startswith("lj_node=")
    assert told.fields["cache-control"] == "private"
    for _ in range(10):
        again = ask(balancer, f"Cookie: {mine}")
        assert (again.json["node"], cookie(again)) == (name, "")
    home = next(node for node in nodes if node.name == name)
    # While the node is busy its clients get further connections to it.
    with balancer.talk() as busy:
        busy.send(GET % (b"/wait", f"Cookie: {mine}\r\n".encode()))
        home.arrived.acquire(timeout=10)
        assert ask(balancer, f"Cookie: {mine}").json["node"] == name
        home.go.release()
        busy.read()
    # When it leaves the pool, they go elsewhere, and stay there.
    balancer.command(f"POOL p REMOVE {home.address}")
    moved = ask(balancer, f"Cookie: {mine}")
    assert moved.json["node"] != name
    assert cookie(moved) not in ("", mine)


def test_a_node_that_is_down_keeps_nobody(start_balancer: Start, nodes: list[Node]) -> None:
    down = f"127.0.0.1:{free_port()}"
    settings = (
        KEPT + "  SET sticky_address = on\n  SET trusted_upstream_proxies = 127.0.0.1\n"
        "  SET connect_ahead = 1\n"
    )
    balancer = start_balancer(proxy(nodes[0].address, nodes[1].address, down, settings=settings))
    clients = [f"X-Forwarded-For: 192.0.2.{number}" for number in range(12)]
    first = [ask(balancer, client).json["node"] for client in clients]
    assert set(first) == {"first", "second"}
    balancer.command(f"POOL p REMOVE {down}")
    assert [ask(balancer, client).json["node"] for client in clients] == [
        ask(balancer, client).json["node"] for client in clients
    ]

"""Which node a request goes to, where weights or stickiness are asked for: without sockets."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from lj_services.perlbal.http.head import RequestHead, ResponseHead
from lj_services.perlbal.nodes import Address, Node
from lj_services.perlbal.parameters import Parameters
from lj_services.perlbal.proxy.sticking import Sticking, mark
from lj_services.perlbal.proxy.weighing import Weights

pytestmark = pytest.mark.unit

NODES = [Node(Address(f"10.0.0.{number}", 80)) for number in range(4)]


class Connection:
    """As much of a connection as weights look at."""

    def __init__(self, node: Node) -> None:
        self.node = node


def backend(node: Node) -> Any:
    return Connection(node)


def exchange(peer: str, cookies: bytes = b"") -> Any:
    """As much of an exchange as stickiness looks at."""
    request = RequestHead(b"GET", b"/", 1)
    if cookies:
        request.fields[b"cookie"] = cookies
    client = SimpleNamespace(peer=peer, service=SimpleNamespace(parameters=Parameters()))
    return SimpleNamespace(request=request, client=client)


def test_the_node_with_the_least_to_do_for_its_weight_comes_first() -> None:
    first, second, *_ = NODES
    weights = Weights({first: 3, second: 1})
    working = [backend(first) for _ in range(2)] + [backend(second)]
    for each in working:
        weights.began(each)
    assert weights.order(NODES[:2]) == [first, second]
    more = [backend(first) for _ in range(2)]
    for each in more:
        weights.began(each)
    assert weights.order(NODES[:2]) == [second, first]
    for each in [*working[:2], *working[:2]]:  # telling twice does no harm
        weights.ended(each)
    assert weights.order(NODES[:2]) == [first, second]


def test_of_nodes_that_have_nothing_to_do_one_is_drawn_in_the_ratio_of_the_weights() -> None:
    first, second, *_ = NODES
    weights = Weights({first: 3, second: 1})
    drawn = Counter(weights.order(NODES[:2])[0] for _ in range(4000))
    assert 2700 < drawn[first] < 3300


def test_addresses_keep_their_node_when_others_come_and_go() -> None:
    sticking = Sticking()
    sticking.by_address = True
    sticking.use(dict.fromkeys(NODES, 1))
    clients = [exchange(f"192.0.2.{number}") for number in range(250)]
    before = [sticking.node(client, 0.0) for client in clients]
    assert all(30 < before.count(node) < 100 for node in NODES)
    sticking.use(dict.fromkeys(NODES[1:], 1))
    after = [sticking.node(client, 0.0) for client in clients]
    moved = [old for old, new in zip(before, after, strict=True) if old is not new]
    assert moved == [NODES[0]] * before.count(NODES[0])


def test_weights_count_for_addresses_too() -> None:
    sticking = Sticking()
    sticking.by_address = True
    sticking.use({NODES[0]: 3, NODES[1]: 1})
    clients = [exchange(f"10.1.{n // 250}.{n % 250}") for n in range(2000)]
    chosen = Counter(sticking.node(client, 0.0) for client in clients)
    assert 1350 < chosen[NODES[0]] < 1650


def test_a_cookie_leads_to_its_node_while_that_can_be_used() -> None:
    sticking = Sticking()
    sticking.cookie = "node"
    sticking.use(dict.fromkeys(NODES, 1))
    node = Node(Address("10.0.0.9", 80))
    sticking.use({**dict.fromkeys(NODES, 1), node: 1})
    asked = exchange("192.0.2.1", b"a=b; node=%b; c=d" % mark(node))
    assert sticking.node(asked, 0.0) is node
    assert sticking.node(exchange("192.0.2.1", b"node=made-up"), 0.0) is None
    assert sticking.node(exchange("192.0.2.1"), 0.0) is None
    node.failed(0.0)
    assert sticking.node(asked, 0.5) is None


def test_a_client_is_told_its_node_once_and_caches_are_kept_out() -> None:
    sticking = Sticking()
    sticking.cookie = "node"
    sticking.use(dict.fromkeys(NODES, 1))
    response = ResponseHead(1, 200, b"OK")
    sticking.tell(exchange("192.0.2.1", b"node=" + mark(NODES[0])), NODES[0], response)
    assert response.lines == []
    sticking.tell(exchange("192.0.2.1", b"node=" + mark(NODES[0])), NODES[1], response)
    told = b"Set-Cookie: node=%b; Path=/; HttpOnly; SameSite=Lax" % mark(NODES[1])
    assert response.lines == [told, b"Cache-Control: private"]
    public = ResponseHead(1, 200, b"OK")
    public.set(b"Cache-Control", b"public")
    sticking.tell(exchange("192.0.2.1"), NODES[1], public)
    assert public.lines == [b"Cache-Control: public", told]

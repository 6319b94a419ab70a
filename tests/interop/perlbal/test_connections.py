"""What clients send one behind the other, and nodes that come and go: ours and Debian's Perlbal."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.perlbal import Balancer, Node, Which, echoing, proxy, starting
from tests.support.process import wait_for
from tests.support.proxies import BOTH

pytestmark = pytest.mark.interop

KEPT = "  SET persist_client = on\n  SET persist_backend = on\n  SET connect_ahead = 0\n"
OLD = b"GET %b HTTP/1.0\r\n%b\r\n"
KEEP = b"Connection: keep-alive\r\n"


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with echoing() as running:
        yield running


@pytest.fixture(scope="module")
def balancers(
    tmp_path_factory: pytest.TempPathFactory, node: Node
) -> Iterator[dict[Which, Balancer]]:
    """One of each kind, for tests that leave them as they were."""
    with starting(tmp_path_factory.mktemp("connections")) as start:
        config = proxy(node.address, settings=KEPT)
        yield {"ours": start(config, "ours"), "perlbal": start(config, "perlbal")}


@BOTH
@pytest.mark.parametrize("between", [b"", b"\r\n"])
def test_what_comes_behind_a_body_never_reaches_the_node_with_it(
    which: Which, between: bytes, balancers: dict[Which, Balancer], node: Node
) -> None:
    """Ours answers the second request when the first is answered; Perlbal drops it."""
    second = f"/behind-{which}-{len(between)}".encode()
    with balancers[which].talk() as talk:
        post = b"POST /wait HTTP/1.0\r\n%bContent-Length: 10\r\n\r\nfoo=56789a"
        talk.send(post % KEEP + between + OLD % (second, b""))
        assert node.arrived.acquire(timeout=20)
        assert second.decode() not in node.seen()
        node.go.release()
        told = talk.read().json
        assert (told["method"], told["body"]) == ("POST", "foo=56789a")
        if which == "ours":
            assert talk.read().json["path"] == second.decode()
            assert talk.closed


@BOTH
def test_two_requests_at_once_without_a_body(
    which: Which, balancers: dict[Which, Balancer]
) -> None:
    """Perlbal calls that a bad request; ours answers as many as the client stays for."""
    with balancers[which].talk() as talk:
        talk.send(OLD % (b"/1", b"") + OLD % (b"/2", b""))
        assert talk.read().status == (400 if which == "perlbal" else 200)
    with balancers[which].talk() as talk:
        talk.send(OLD % (b"/1", KEEP) + OLD % (b"/2", KEEP))
        if which == "ours":
            assert [talk.read().json["path"] for _ in range(2)] == ["/1", "/2"]
        else:
            assert talk.read().status == 400


@BOTH
def test_fields_without_a_value_are_passed_on(
    which: Which, balancers: dict[Which, Balancer]
) -> None:
    with balancers[which].talk() as talk:
        told = talk.ask(OLD % (b"/", b"Header: content\r\nAnother: \r\nSomething:\r\n")).json
    seen = {name.lower(): value for name, value in told["headers"]}
    assert (seen["header"], seen["another"], seen["something"]) == ("content", "", "")


@pytest.mark.parametrize(
    ("which", "length"),
    [("ours", b"-20"), ("perlbal", b"-20"), ("ours", b"20, 30"), ("ours", b"0x5"), ("ours", b"+5")],
)
def test_a_length_that_is_none_is_refused(
    which: Which, length: bytes, balancers: dict[Which, Balancer]
) -> None:
    """Perlbal looks only for the sign, and reads the beginning of what else is no number."""
    with balancers[which].talk() as talk:
        head = b"POST /length HTTP/1.0\r\nContent-Length: %b\r\n\r\n" % length
        assert talk.ask(head).status == 400
        assert talk.closed


@BOTH
def test_a_node_that_closes_is_connected_to_again(
    which: Which, balancers: dict[Which, Balancer], node: Node
) -> None:
    node.answer_fields["/last"] = [("Connection", "close")]
    with balancers[which].talk() as talk:
        first, second, third = (
            talk.ask(OLD % (path, KEEP)).json["connection"] for path in (b"/last", b"/a", b"/b")
        )
    assert first != second == third


@BOTH
def test_requests_at_the_same_time_have_connections_of_their_own(
    which: Which, balancers: dict[Which, Balancer], node: Node
) -> None:
    balancer = balancers[which]
    with balancer.talk() as first, balancer.talk() as second:
        first.send(OLD % (b"/wait", KEEP))
        assert node.arrived.acquire(timeout=20)
        busy = second.ask(OLD % (b"/at-once", KEEP)).json["connection"]
        node.go.release()
        assert first.read().json["connection"] != busy


@BOTH
def test_verification_is_switched_on_live(
    which: Which, balancers: dict[Which, Balancer], node: Node
) -> None:
    """Connections that there are go on unasked; the next one is asked."""
    balancer = balancers[which]
    before = len(node.seen("OPTIONS"))
    assert balancer.command("SET web.persist_backend = off") == ["OK"]
    with balancer.talk() as talk:
        assert [talk.ask(OLD % (b"/flush", KEEP)).status for _ in range(3)] == [200] * 3
    assert len(node.seen("OPTIONS")) == before
    assert balancer.command("SET web.verify_backend = on") == ["OK"]
    with balancer.talk() as talk:
        assert talk.ask(OLD % (b"/asked", KEEP)).status == 200
    assert len(node.seen("OPTIONS")) > before
    balancer.command("SET web.verify_backend = off")
    balancer.command("SET web.persist_backend = on")
    wait_for(lambda: balancer.command("noverify") == [], "no node to be excused")

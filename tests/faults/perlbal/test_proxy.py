"""HTTP/1.1 on both sides, and how a balancer begins and ends: ours alone."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from tests.support.perlbal import (
    Balancer,
    Node,
    Start,
    Talk,
    proxy,
    raw_node,
    read_head,
)
from tests.support.process import free_port, wait_for
from tests.support.proxies import GET, KEPT

pytestmark = pytest.mark.faults


def test_pipelined_requests_are_answered_in_order(kept: Balancer) -> None:
    with kept.talk() as talk:
        talk.send(b"".join(GET % (b"/%d" % number, b"") for number in range(20)))
        assert [talk.read().json["path"] for _ in range(20)] == [f"/{n}" for n in range(20)]


def test_chunks_from_the_node_reach_clients_of_both_versions(kept: Balancer) -> None:
    with kept.talk() as talk:
        answer = talk.ask(GET % (b"/chunked", b""))
        assert answer.fields["transfer-encoding"] == "chunked"
        assert answer.json["path"] == "/chunked"
        answer = talk.ask(b"GET /chunked HTTP/1.0\r\n\r\n")
        assert "transfer-encoding" not in answer.fields
        assert answer.json["path"] == "/chunked"
        assert talk.closed


def test_a_body_until_the_end_is_sent_in_chunks_and_the_client_stays(kept: Balancer) -> None:
    with kept.talk() as talk:
        assert talk.ask(GET % (b"/until-close", b"")).json["path"] == "/until-close"
        assert talk.ask(GET % (b"/next", b"")).json["path"] == "/next"


def test_a_client_of_http_1_0_may_stay_too(kept: Balancer) -> None:
    with kept.talk() as talk:
        request = b"GET /%d HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        answer = talk.ask(request % 1)
        assert answer.fields["connection"] == "keep-alive"
        assert answer.json["version"] == "HTTP/1.0"  # it has no Host
        assert talk.ask(request % 2).json["path"] == "/2"


@pytest.mark.parametrize("pieces", [[b"hello"], [b"a" * 70_000, b"b" * 70_000, b"c"]])
def test_chunks_from_the_client_reach_the_node(kept: Balancer, pieces: list[bytes]) -> None:
    with kept.talk() as talk:
        talk.send(b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in pieces:
            talk.send(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece))
        talk.send(b"0\r\nX-Trailer: 1\r\n\r\n" + GET % (b"/next", b""))
        assert talk.read().json["body"] == b"".join(pieces).decode()
        assert talk.read().json["path"] == "/next"


def test_a_client_that_waits_for_100_continue_is_told_to_go_on(kept: Balancer) -> None:
    with kept.talk() as talk:
        head = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        assert talk.ask(head).status == 100
        answer = talk.ask(b"hello")
        assert answer.json["body"] == "hello"
        assert "Expect" not in dict(answer.json["headers"])


def test_an_upgrade_becomes_a_tunnel(start_balancer: Start) -> None:
    def script(connected: socket.socket) -> None:
        head = read_head(connected)
        assert b"Upgrade: websocket\r\nConnection: Upgrade\r\n" in head
        connected.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nhello "
        )
        while data := connected.recv(1000):
            connected.sendall(data.upper())

    with raw_node(script) as node:
        balancer = start_balancer(proxy(node.address, settings=KEPT))
        with balancer.talk() as talk:
            talk.send(GET % (b"/ws", b"Connection: Upgrade\r\nUpgrade: websocket\r\n"))
            answer = talk.read()
            assert answer.status == 101
            assert answer.fields["upgrade"] == "websocket"
            talk.send(b"world\n")
            assert talk.line() == b"hello WORLD\n"
            # Either side may leave without a word, and silence is allowed: the system asks.
            wait_for(lambda: watched(balancer.port) == 1, "the client's timer", timeout_s=10)
            wait_for(lambda: watched(node.port) == 1, "the node's timer", timeout_s=10)


def watched(port: int) -> int:
    """Connections of this machine from or to a port whose other end is asked for a sign of life."""
    found = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        established = words[3] == "01"
        ports = {int(address.rpartition(":")[2], 16) for address in words[1:3]}
        # The timer that runs: 2 is that of SO_KEEPALIVE (proc(5), and the kernel's tcp_ipv4.c).
        found += established and port in ports and words[5].startswith("02")
    return found


def test_early_hints_reach_the_client(start_balancer: Start) -> None:
    def script(connected: socket.socket) -> None:
        read_head(connected)
        connected.sendall(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
        )

    with raw_node(script) as node:
        balancer = start_balancer(proxy(node.address))
        with balancer.talk() as talk:
            assert talk.ask(GET % (b"/", b"")).status == 103
            assert talk.read().body == b"hi"


def test_ipv6_on_both_sides(start_balancer: Start) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        port = listener.getsockname()[1]
        config = proxy(f"[::1]:{port}").replace("127.0.0.1:PORT", "[::1]:PORT")
        balancer = start_balancer(config)

        def serve() -> None:
            connected, _ = listener.accept()
            with connected:
                head = read_head(connected)
                body = head.split(b"X-Forwarded-For: ")[1].split(b"\r\n")[0]
                connected.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + body)

        thread = threading.Thread(target=serve)
        thread.start()
        with Talk(balancer.port, "::1") as talk:
            assert talk.ask(GET % (b"/", b"")).body == b"::1"
        thread.join()


def test_sigterm_lets_requests_finish_and_ends(start_balancer: Start, node: Node) -> None:
    balancer = start_balancer(proxy(node.address, settings=KEPT))
    with balancer.talk() as idle, balancer.talk() as busy:
        idle.ask(GET % (b"/", b""))
        busy.send(GET % (b"/wait", b""))
        assert node.arrived.acquire(timeout=20)
        balancer.running.process.terminate()
        assert idle.closed
        node.go.release()
        answer = busy.read()
        assert (answer.status, answer.fields["connection"]) == (200, "close")
    assert balancer.running.process.wait(20) == 0


def test_a_configuration_that_is_refused_says_where(start_balancer: Start) -> None:
    with pytest.raises(
        AssertionError, match=r"line 7: SET persist_clint = on: .*nearest: persist_client"
    ):
        start_balancer(proxy("127.0.0.1:1", settings="  SET persist_clint = on\n"))


def test_clients_over_the_limit_are_refused_and_figures_are_told(
    start_balancer: Start, node: Node
) -> None:
    metrics = free_port()
    balancer = start_balancer(
        proxy(node.address, settings=KEPT),
        "ours",
        *("--set", "max_connections=1"),
        *("--set", f"metrics_listen=127.0.0.1:{metrics}"),
    )
    with balancer.talk() as first:
        assert first.ask(GET % (b"/", b"")).status == 200
        with balancer.talk() as second:
            assert second.closed
        with Talk(metrics) as talk:
            told = talk.ask(b"GET /metrics HTTP/1.0\r\n\r\n").body.decode()
    assert 'lj_perlbal_requests_total{service="web"} 1.0' in told
    assert 'lj_connections_refused_total{service="perlbal"} 1.0' in told
    assert f'lj_perlbal_node_requests_total{{node="{node.address}"}} 1.0' in told

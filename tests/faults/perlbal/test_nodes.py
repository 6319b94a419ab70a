"""Nodes that die, hang, babble or are slow, and clients that leave them: ours alone."""

from __future__ import annotations

import socket
import threading

import pytest

from tests.support.perlbal import (
    Balancer,
    Node,
    Start,
    echoing,
    get,
    proxy,
    raw_node,
    read_head,
)
from tests.support.process import free_port, wait_for
from tests.support.proxies import GET, KEPT

pytestmark = pytest.mark.faults


def test_a_node_that_is_down_is_left_out(start_balancer: Start, node: Node) -> None:
    down = f"127.0.0.1:{free_port()}"
    balancer = start_balancer(proxy(down, node.address))
    assert [get(balancer.port).status for _ in range(20)] == [200] * 20
    told = balancer.command(f"nodes {down}")
    assert f"{down} connects 0" in told


def test_a_node_that_comes_back_is_used_again(start_balancer: Start) -> None:
    port = free_port()
    balancer = start_balancer(proxy(f"127.0.0.1:{port}"))
    with balancer.talk() as talk:
        talk.send(GET % (b"/", b""))
        wait_for(
            lambda: any("leftout" in line for line in balancer.command("nodes")), "the failure"
        )
        with echoing("back", port):
            assert talk.read().json["node"] == "back"


def test_all_nodes_down_is_503_in_time(start_balancer: Start) -> None:
    down = f"127.0.0.1:{free_port()}"
    balancer = start_balancer(proxy(down, settings="  SET queue_timeout = 1\n"))
    answer = get(balancer.port)
    assert answer.status == 503
    assert b"<h1>503 - Service Unavailable</h1>" in answer.body


def test_a_full_queue_is_503_at_once(start_balancer: Start) -> None:
    down = f"127.0.0.1:{free_port()}"
    balancer = start_balancer(proxy(down, settings="  SET queue_max_size = 2\n"))
    with balancer.talk() as first, balancer.talk() as second:
        first.send(GET % (b"/", b""))
        second.send(GET % (b"/", b""))
        wait_for(lambda: "web-normal.count 2" in balancer.command("queues"), "the queue")
        assert get(balancer.port).status == 503
    wait_for(lambda: "web-normal.count 0" in balancer.command("queues"), "clients to be missed")


def test_a_response_that_is_cut_short_is_never_whole(kept: Balancer) -> None:
    with kept.talk() as talk:
        answer = talk.ask(GET % (b"/short", b""))
        assert answer.status == 200
        assert not answer.whole
        assert talk.closed


def test_a_chunked_response_that_is_cut_short_is_never_whole(start_balancer: Start) -> None:
    def script(connected: socket.socket) -> None:
        read_head(connected)
        connected.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")

    with raw_node(script) as node:
        balancer = start_balancer(proxy(node.address))
        with balancer.talk() as talk:
            answer = talk.ask(GET % (b"/", b""))
            assert (answer.body, answer.whole) == (b"hello", False)


def test_only_what_is_safe_is_sent_to_a_second_node(start_balancer: Start, node: Node) -> None:
    seen: list[bytes] = []

    def script(connected: socket.socket) -> None:
        seen.append(read_head(connected).split(b" ")[0])

    with raw_node(script) as dying:
        balancer = start_balancer(proxy(dying.address, node.address))
        assert [get(balancer.port).status for _ in range(10)] == [200] * 10
        balancer.command(f"POOL p REMOVE {node.address}")
        with balancer.talk() as talk:
            answer = talk.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
            assert answer.status == 502
        assert seen.count(b"POST") == 1


def test_garbage_is_no_answer(start_balancer: Start) -> None:
    def script(connected: socket.socket) -> None:
        read_head(connected)
        connected.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        read_head(connected)

    with raw_node(script) as node:
        balancer = start_balancer(proxy(node.address))
        with balancer.talk() as talk:
            answer = talk.ask(b"DELETE / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert answer.status == 502
        assert any("leftout" in line for line in balancer.command("nodes"))


def test_a_silent_node_is_504(start_balancer: Start, node: Node) -> None:
    settings = "  SET backend_response_timeout = 1\n"
    balancer = start_balancer(proxy(node.address, settings=settings))
    assert get(balancer.port, "/wait").status == 504
    assert node.arrived.acquire(timeout=20)
    node.go.release()


def test_what_a_node_says_unasked_is_no_answer(start_balancer: Start) -> None:
    def script(connected: socket.socket) -> None:
        read_head(connected)
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n%b"
        connected.sendall(answer % b"ok" + answer % b"XX")
        read_head(connected)

    with raw_node(script) as node:
        balancer = start_balancer(proxy(node.address, settings=KEPT))
        with balancer.talk() as talk:
            assert [talk.ask(GET % (b"/", b"")).body for _ in range(3)] == [b"ok"] * 3
        assert node.connections == 3


def test_verify_backend_leaves_out_what_only_accepts(start_balancer: Start, node: Node) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        hung = f"127.0.0.1:{mute.getsockname()[1]}"
        settings = KEPT + "  SET verify_backend = on\n  SET backend_connect_timeout = 1\n"
        balancer = start_balancer(proxy(hung, node.address, settings=settings))
        assert [get(balancer.port).json["node"] for _ in range(20)] == ["node"] * 20


def test_a_client_that_leaves_frees_its_node(start_balancer: Start, node: Node) -> None:
    balancer = start_balancer(proxy(node.address, settings=KEPT))
    with balancer.talk() as talk:
        talk.send(GET % (b"/wait", b""))
        assert node.arrived.acquire(timeout=20)
    wait_for(lambda: balancer.command("backends") == [], "the connection to be closed")
    node.go.release()
    assert get(balancer.port).status == 200


def test_a_slow_reader_holds_the_node_back_and_not_in_memory(
    start_balancer: Start,
) -> None:
    size = 200 << 20
    sent = 0

    def script(connected: socket.socket) -> None:
        nonlocal sent
        read_head(connected)
        connected.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        piece = b"x" * (1 << 20)
        for _ in range(size >> 20):
            connected.sendall(piece)
            sent += len(piece)

    with raw_node(script) as node:
        balancer = start_balancer(proxy(node.address))
        with balancer.talk() as talk:
            talk.send(GET % (b"/", b""))
            assert talk.line().startswith(b"HTTP/1.1 200")
            before = -1
            while before != sent:
                before = sent
                threading.Event().wait(0.3)
            assert sent < 50 << 20
            resident = int(
                open(f"/proc/{balancer.running.pid}/statm").read().split()[1]  # noqa: SIM115, PTH123
            )
            assert resident * 4096 < 120 << 20

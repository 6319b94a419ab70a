"""Nodes that die, hang or babble; clients that attack, dawdle or leave: ours alone."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.perlbal import (
    Balancer,
    Node,
    Start,
    Talk,
    echoing,
    get,
    proxy,
    raw_node,
    read_head,
    starting,
)
from tests.support.process import free_port, wait_for

pytestmark = pytest.mark.faults

KEPT = "  SET persist_client = on\n  SET persist_backend = on\n"
GET = b"GET %b HTTP/1.1\r\nHost: a\r\n%b\r\n"


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with echoing() as running:
        yield running


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, node: Node) -> Iterator[Balancer]:
    """A proxy that keeps connections, for tests that leave it as it was."""
    with starting(tmp_path_factory.mktemp("kept")) as start:
        yield start(proxy(node.address, settings=KEPT))


# -- HTTP/1.1 to both sides -------------------------------------------------------


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


# -- attacks ----------------------------------------------------------------------

SMUGGLED = [
    b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    b"X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Content_Length: 5\r\n\r\nhello",
    b"Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloworld\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("rest", SMUGGLED)
def test_a_smuggled_request_reaches_no_node(kept: Balancer, node: Node, rest: bytes) -> None:
    with kept.talk() as talk:
        talk.send(b"POST /outer HTTP/1.1\r\nHost: a\r\n" + rest + GET % (b"/smuggled", b""))
        answer = talk.read()
        assert answer.status in (400, 501)
        assert answer.fields["connection"] == "close"
        assert talk.closed
    assert "/smuggled" not in node.seen()
    assert get(kept.port, "/after").status == 200


def test_a_head_that_never_ends_is_given_up(start_balancer: Start, node: Node) -> None:
    balancer = start_balancer(proxy(node.address, settings="  SET idle_timeout = 1\n"))
    with balancer.talk() as talk:
        talk.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
        assert talk.read().status == 408
        assert talk.closed
    with balancer.talk() as talk:
        assert talk.closed
    with balancer.talk() as talk:
        talk.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
        assert talk.closed


def test_too_long_heads_are_refused(kept: Balancer) -> None:
    with kept.talk() as talk:
        talk.send(GET[:-4] % b"/" + b"X: " + b"x" * 70_000)
        assert talk.read().status == 431
    with kept.talk() as talk:
        talk.send(b"GET /" + b"x" * 20_000)
        assert talk.read().status == 414


def test_a_chunked_body_over_the_limit_is_refused(start_balancer: Start, node: Node) -> None:
    settings = "  SET max_chunked_request_size = 10k\n"
    balancer = start_balancer(proxy(node.address, settings=settings))
    with balancer.talk() as talk:
        talk.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        talk.send(b"2801\r\n" + b"x" * 0x2801)
        assert talk.read().status == 413
        assert talk.closed


def test_error_pages_escape_what_they_show(kept: Balancer) -> None:
    with kept.talk() as talk:
        answer = talk.ask(b"GET /<script> HTTP/1.1\r\nHost: <script>\r\n\r\n")
        assert answer.status == 400
        assert b"<script>" not in answer.body


# -- nodes that fail --------------------------------------------------------------


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


# -- selectors --------------------------------------------------------------------


def test_a_selector_chooses_by_host(start_balancer: Start, node: Node) -> None:
    with echoing("other") as other:
        config = (
            f"LOAD Vhosts\nCREATE POOL p\n  POOL p ADD {node.address}\n"
            f"CREATE POOL q\n  POOL q ADD {other.address}\n"
            "CREATE SERVICE a\n  SET role = reverse_proxy\n  SET pool = p\nENABLE a\n"
            "CREATE SERVICE b\n  SET role = reverse_proxy\n  SET pool = q\nENABLE b\n"
            "CREATE SERVICE front\n  SET role = selector\n  SET plugins = Vhosts\n"
            "  SET persist_client = on\n  SET listen = 127.0.0.1:PORT\n"
            "  VHOST www.example.com = a\n  VHOST *.example.com = b\n"
            "  VHOST front x.example.org;using:y.example.org = b\nENABLE front\n"
        )
        balancer = start_balancer(config)
        with balancer.talk() as talk:

            def asked(host: str, path: str = "/") -> object:
                answer = talk.ask(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                return json.loads(answer.body)["node"] if answer.status == 200 else answer.status

            assert asked("www.example.com") == "node"
            assert asked("WWW.Example.com.:8080") == "node"
            assert asked("joe.example.com") == "other"
            assert asked("example.com") == "other"
            assert asked("example.org") == 404
            assert asked("x.example.org", "/__using/y.example.org/a") == "other"
            balancer.command("SET front.default_service = a")
            assert asked("example.org") == "node"
            head = b"POST / HTTP/1.1\r\nHost: www.example.com\r\nContent-Length: 2\r\n\r\nhi"
            assert talk.ask(head).json["body"] == "hi"
        assert balancer.command("plugins") == ["front Vhosts"]


# -- life -------------------------------------------------------------------------


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

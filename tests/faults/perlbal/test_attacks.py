"""What nodes and clients try that nobody should get: fields put in, files and hosts named."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.perlbal import Node, Start, echoing, get, proxy, raw_node, read_head
from tests.support.process import wait_for
from tests.support.proxies import GET

pytestmark = pytest.mark.faults


@pytest.fixture
def node() -> Iterator[Node]:
    with echoing() as running:
        yield running


@contextmanager
def answering(*lines: bytes) -> Iterator[str]:
    """A node whose every answer has these lines; gives its address."""

    def script(connected: socket.socket) -> None:
        read_head(connected)
        head = b"".join(line + b"\r\n" for line in lines)
        connected.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + head + b"\r\n")

    with raw_node(script) as running:
        yield running.address


@pytest.mark.parametrize(
    "path",
    [b"/x\tHTTP/1.1", b"/x\x0bX-Evil:1", b"/x\xc2\xa0HTTP/1.1", b"/x%0d%0aX-Evil:1", b"/x#\xff"],
)
def test_a_url_can_put_nothing_into_the_request_for_it(start_balancer: Start, path: bytes) -> None:
    heads: list[bytes] = []

    def script(connected: socket.socket) -> None:
        heads.append(read_head(connected))
        connected.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    with raw_node(script) as server:
        url = b"X-REPROXY-URL: http://127.0.0.1:%d%b" % (server.port, path)
        with answering(url) as address:
            balancer = start_balancer(proxy(address, settings="  SET enable_reproxy = on\n"))
            answer = get(balancer.port)
    assert answer.status in (200, 502, 503)
    for head in heads:
        line, *fields = head.split(b"\r\n")
        assert line.count(b" ") == 2
        assert line.startswith(b"GET /x")
        assert line.endswith(b" HTTP/1.1")
        assert not any(field.startswith(b"X-Evil") for field in fields)


@pytest.mark.parametrize(
    "url",
    [
        b"file:///etc/passwd",
        b"https://127.0.0.1/",
        b"gopher://127.0.0.1:6379/_FLUSHALL",
        b"http://user@127.0.0.1/",
        b"http://127.0.0.1:99999/",
        b"http://[::1/",
        b"//127.0.0.1/",
        b"/etc/passwd",
    ],
)
def test_what_is_no_url_of_a_host_is_not_fetched(start_balancer: Start, url: bytes) -> None:
    with answering(b"X-REPROXY-URL: " + url) as address:
        balancer = start_balancer(proxy(address, settings="  SET enable_reproxy = on\n"))
        assert get(balancer.port).status == 503


@pytest.mark.parametrize("name", ["..", "../..", "link"])
def test_a_file_outside_of_what_nodes_may_name_is_not_sent(
    start_balancer: Start, tmp_path: Path, name: str
) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (tmp_path / "secret").write_text("secret")
    (allowed / "link").symlink_to(tmp_path)
    settings = f"  SET enable_reproxy = on\n  SET reproxy_prefixes = {allowed}\n"
    with answering(f"X-REPROXY-FILE: {allowed}/{name}/secret".encode()) as address:
        answer = get(start_balancer(proxy(address, settings=settings)).port)
    assert answer.status == 404
    assert b"secret" not in answer.body


def test_a_client_can_make_the_balancer_fetch_nothing(start_balancer: Start, node: Node) -> None:
    """X-REPROXY-* of a request mean nothing, whether or not a node echoes them."""
    with echoing("other") as other:
        balancer = start_balancer(proxy(node.address, settings="  SET enable_reproxy = on\n"))
        named = (
            f"X-REPROXY-URL: http://{other.address}/inside",
            "X-REPROXY-FILE: /etc/passwd",
            "X-REPROXY-SERVICE: console",
        )
        assert get(balancer.port, "/asked", *named).json["path"] == "/asked"
        assert get(balancer.port, f"http://{other.address}/inside").json["node"] == "node"
        assert other.seen() == []


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 2\r\nContent-Length: 3",
        b"Content-Length: 2, 3",
        b"X: a\r\n folded: yes",
        b"X: a\nSet-Cookie: evil=1",
        b"X: a\rSet-Cookie: evil=1",
        b"X : a",
        b"X: \x00",
    ],
)
def test_an_answer_that_can_be_read_in_two_ways_is_not_passed_on(
    start_balancer: Start, lines: bytes
) -> None:
    with answering(lines) as address:
        answer = get(start_balancer(proxy(address)).port)
    assert answer.status == 502
    assert "set-cookie" not in answer.fields


def test_many_who_never_finish_their_heads_keep_nobody_out(
    start_balancer: Start, node: Node
) -> None:
    balancer = start_balancer(proxy(node.address, settings="  SET idle_timeout = 2\n"))
    dawdlers = [balancer.talk() for _ in range(200)]
    for each in dawdlers:
        each.send(b"GET / HTTP/1.1\r\nX: ")
    assert [get(balancer.port).status for _ in range(20)] == [200] * 20
    for each in dawdlers:
        with each:
            assert each.read().status == 408


def test_when_all_nodes_are_slow_everything_is_answered_once(
    start_balancer: Start, node: Node
) -> None:
    kept = "  SET persist_client = on\n  SET persist_backend = on\n"
    balancer = start_balancer(proxy(node.address, settings=kept))
    talks = [balancer.talk() for _ in range(30)]
    for number, each in enumerate(talks):
        each.send(GET % (b"/wait?%d" % number, b""))
    wait_for(lambda: len(node.seen()) == 30, "all requests to be with the node")
    threading.Thread(target=lambda: [node.go.release() for _ in talks], daemon=True).start()
    for number, each in enumerate(talks):
        with each:
            assert each.read().json["path"] == f"/wait?{number}"
    assert len(node.seen()) == 30


def test_who_asks_for_many_files_and_does_not_read_takes_no_memory(
    start_balancer: Start, tmp_path: Path
) -> None:
    (tmp_path / "a.js").write_bytes(b"x" * 150_000)
    config = (
        f"CREATE SERVICE files\n  SET role = web_server\n  SET docroot = {tmp_path}\n"
        "  SET enable_concatenate_get = on\n  SET listen = 127.0.0.1:PORT\nENABLE files\n"
    )
    balancer = start_balancer(config)

    def used() -> int:
        status = Path(f"/proc/{balancer.running.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) << 10

    before = used()
    with ExitStack() as stack:
        for _ in range(20):
            talk = stack.enter_context(balancer.talk())
            talk.send(GET % (b"/??" + b",".join([b"a.js"] * 100), b""))
            assert talk.line() == b"HTTP/1.1 200 OK\r\n"
        # 300 MB were asked for.
        assert used() - before < 100 << 20

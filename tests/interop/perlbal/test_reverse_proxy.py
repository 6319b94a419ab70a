"""The same scenarios through ours and through Debian's Perlbal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.perlbal import Balancer, Node, Start, Talk, Which, echoing, get, proxy, starting
from tests.support.process import wait_for
from tests.support.proxies import BOTH, GET, KEPT

pytestmark = pytest.mark.interop


def fields(answer: object) -> dict[str, str]:
    """The request's fields as the node saw them, by lower-case name."""
    return {name.lower(): value for name, value in answer.json["headers"]}  # type: ignore[attr-defined]


@BOTH
def test_a_request_reaches_the_node_and_its_answer_the_client(
    which: Which, start_balancer: Start, node: Node
) -> None:
    balancer = start_balancer(proxy(node.address), which)
    answer = get(balancer.port, "/path?a=b", "X-Mine: 1")
    assert answer.status == 200
    assert answer.json["path"] == "/path?a=b"
    assert fields(answer)["host"] == "site.example"
    assert fields(answer)["x-mine"] == "1"
    assert fields(answer)["x-forwarded-for"] == "127.0.0.1"


@BOTH
def test_who_the_client_is_may_be_told_only_by_trusted_proxies(
    which: Which, start_balancer: Start, node: Node
) -> None:
    balancer = start_balancer(proxy(node.address), which)
    said = ("X-Forwarded-For: 10.1.1.1", "X-Forwarded-Host: evil", "X-Host: evil")
    seen = fields(get(balancer.port, "/", *said))
    assert seen["x-forwarded-for"] == "127.0.0.1"
    assert "x-forwarded-host" not in seen
    assert "x-host" not in seen
    balancer.command("SET web.trusted_upstream_proxies = 127.0.0.0/8")
    seen = fields(get(balancer.port, "/", *said))
    assert seen["x-forwarded-for"] == "10.1.1.1, 127.0.0.1"
    assert seen["x-forwarded-host"] == "evil"
    balancer.command("SET web.blind_proxy = on")
    assert fields(get(balancer.port, "/", *said))["x-forwarded-for"] == "10.1.1.1"


@BOTH
def test_header_rules(which: Which, start_balancer: Start, node: Node) -> None:
    balancer = start_balancer(proxy(node.address), which)
    balancer.command("HEADER web INSERT X-Added: yes")
    balancer.command("HEADER web REMOVE X-Secret")
    seen = fields(get(balancer.port, "/", "X-Secret: 1", "X-Kept: 1"))
    assert seen["x-added"] == "yes"
    assert "x-secret" not in seen
    assert seen["x-kept"] == "1"
    for _ in range(3):  # what has come before, too
        told = get(balancer.port, "/", "X-Added: no", "x-added: never").json["headers"]
        assert [value for name, value in told if name.lower() == "x-added"] == ["yes"]


@BOTH
def test_connections_of_clients_and_to_nodes_persist_when_told_so(
    which: Which, start_balancer: Start, node: Node
) -> None:
    balancer = start_balancer(proxy(node.address, settings=KEPT), which)
    with balancer.talk() as talk:
        keep = b"Connection: keep-alive\r\n"
        first = talk.ask(GET % (b"/1", keep))
        second = talk.ask(GET % (b"/2", keep))
    assert first.json["connection"] == second.json["connection"]
    balancer.command("SET web.persist_backend = off")
    balancer.command("SET web.persist_client = off")
    with balancer.talk() as talk:
        talk.ask(GET % (b"/3", b"Connection: keep-alive\r\n"))
        assert talk.closed


@BOTH
@pytest.mark.parametrize("size", [10, 200_000])
def test_a_body_reaches_the_node(
    which: Which, size: int, start_balancer: Start, node: Node
) -> None:
    balancer = start_balancer(proxy(node.address), which)
    with balancer.talk() as talk:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size
        answer = talk.ask(head + b"x" * size)
    assert answer.json["method"] == "POST"
    assert len(answer.json["body"]) == size


@BOTH
def test_a_large_response_reaches_a_client_that_reads_late(
    which: Which, start_balancer: Start, node: Node
) -> None:
    balancer = start_balancer(proxy(node.address), which)
    assert len(get(balancer.port, "/?pad=3000000").body) > 3_000_000


@BOTH
def test_head_has_no_body(which: Which, start_balancer: Start, node: Node) -> None:
    balancer = start_balancer(proxy(node.address, settings=KEPT), which)
    with balancer.talk() as talk:
        keep = b"Connection: keep-alive\r\n"
        answer = talk.ask(b"HEAD /h HTTP/1.1\r\nHost: a\r\n%b\r\n" % keep)
        assert int(answer.fields["content-length"]) > 0
        assert talk.ask(GET % (b"/g", keep)).json["path"] == "/g"


@BOTH
def test_the_pool_changes_live(which: Which, start_balancer: Start, node: Node) -> None:
    with echoing("other") as other:
        # Perlbal goes on with connections that it has; ours does not.
        settings = KEPT if which == "ours" else ""
        balancer = start_balancer(proxy(node.address, settings=settings), which)
        assert get(balancer.port).json["node"] == "node"
        balancer.command(f"POOL p ADD {other.address}")
        balancer.command(f"POOL p REMOVE {node.address}")
        assert balancer.command("show pool p")[0].split()[0] == other.address
        wait_for(lambda: get(balancer.port).json["node"] == "other", "the other node")


@BOTH
def test_a_node_file_is_read_again(
    which: Which, start_balancer: Start, node: Node, tmp_path: Path
) -> None:
    with echoing("other") as other:
        nodes = tmp_path / "nodes"
        nodes.write_text(f"# web hosts\n{node.address}\n")
        config = proxy().replace("CREATE POOL p\n", f"CREATE POOL p\n  SET nodefile = {nodes}\n")
        balancer = start_balancer(config, which)
        assert get(balancer.port).json["node"] == "node"
        nodes.write_text(f"{other.address} # moved here, and longer than before\n")
        # Perlbal compares whole seconds: it does not see a second change within one.
        later = nodes.stat().st_mtime + 10
        os.utime(nodes, (later, later))
        wait_for(lambda: get(balancer.port).json["node"] == "other", "the file to be read")


@BOTH
def test_verify_backend_asks_before_a_request_is_sent(
    which: Which, start_balancer: Start, node: Node
) -> None:
    settings = KEPT + "  SET verify_backend = on\n  SET verify_backend_path = /alive\n"
    balancer = start_balancer(proxy(node.address, settings=settings), which)
    assert get(balancer.port, "/real").status == 200
    assert node.requests[:2] == ["OPTIONS /alive", "GET /real"]


@BOTH
def test_after_an_error_it_is_tried_again_if_wanted(
    which: Which, start_balancer: Start, node: Node
) -> None:
    settings = "  SET enable_error_retries = on\n  SET error_retry_schedule = 0,0.05,0.1\n"
    balancer = start_balancer(proxy(node.address, settings=settings), which)
    node.failing += ["/flaky"] * 2
    assert get(balancer.port, "/flaky").status == 200
    assert node.seen().count("/flaky") == 3
    node.failing += ["/broken"] * 9
    assert get(balancer.port, "/broken").status == 500


@BOTH
def test_queues_are_told(which: Which, start_balancer: Start, node: Node) -> None:
    balancer = start_balancer(proxy(node.address), which)
    assert sorted(balancer.command("queues")) == sorted(
        f"web-{name}.{figure} 0"
        for name in ("normal", "highpri", "lowpri")
        for figure in ("age", "count")
    )


@BOTH
def test_the_console_shows_what_is_going_on(
    which: Which, start_balancer: Start, node: Node
) -> None:
    balancer = start_balancer(proxy(node.address, settings=KEPT), which)
    get(balancer.port)
    assert balancer.command("show pool") == ["p nodes 1", "p services 1"]
    assert balancer.command("show pool p") == [f"{node.address} 1"]
    assert f"web 127.0.0.1:{balancer.port} ENABLED" in balancer.command("show service")
    block = balancer.command("show service web")
    assert block[:3] == [
        "SERVICE web",
        f"     listening: 127.0.0.1:{balancer.port}",
        "          role: reverse_proxy",
    ]
    assert f"                {node.address:<21} {1:7d}" in block
    told = balancer.command(f"nodes {node.address}")
    for line in ("attempts 1", "connects 1", "requests 1", "responsecodes 200 1"):
        assert f"{node.address} {line}" in told
    assert any(line.startswith("pid: ") for line in balancer.command("proc"))
    assert any(line.startswith("reqs: ") for line in balancer.command("proc"))
    assert balancer.command("backends") == [f"{node.address} 1"]
    assert "Perlbal::BackendHTTP bored 1" in balancer.command("states")
    assert any(
        f"listening on 127.0.0.1:{balancer.port} for service 'web'" in line
        for line in balancer.command("socks")
    )
    assert balancer.command("pending") == balancer.command("noverify") == []


@BOTH
@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("bogus", "ERROR: unknown command: bogus"),
        ("proc now", "ERROR: The 'proc' command takes no arguments"),
        ("create service web", "ERROR: service 'web' already exists"),
        ("create pool web", "ERROR: service 'web' already exists"),
        ("create thing x", "ERROR: usage: CREATE {service|pool} <name>"),
        ("use nothing", "ERROR: Non-existent pool or service 'nothing'"),
        ("enable web", "ERROR: service web is already enabled"),
        ("enable nothing", "ERROR: service 'nothing' does not exist"),
        ("disable console", "ERROR: can't disable management service"),
        ("set nothing.listen = 80", "ERROR: service/pool 'nothing' does not exist"),
        (
            "set web.persist_client = perhaps",
            "ERROR: Expecting boolean value for parameter 'persist_client'",
        ),
        (
            "set web.connect_ahead = many",
            "ERROR: Expecting integer value for parameter 'connect_ahead'",
        ),
        (
            "set web.dirindexing = on",
            "ERROR: The 'dirindexing' option can only be set on a 'web_server' service",
        ),
        ("pool q add 10.0.0.1", "ERROR: Pool 'q' not found"),
        ("show pool q", "ERROR: pool 'q' does not exist"),
        ("show service q", "ERROR: Unknown service"),
        ("states q", "ERROR: Service not found."),
        ("header web insert x-a", "ERROR: no value provided"),
        ("mime remove nosuch", "ERROR: nosuch not a defined extension."),
        ("verbose perhaps", "ERROR: usage: VERBOSE {on|off}"),
        ("server nice_level = x", "ERROR: Expected numeric parameter"),
        ("set web.connect_ahead = 0", "OK"),
        ("SET WEB.Buffer_Size = 10K", "OK"),
        ("pool p add 10.0.0.1", "OK"),
        ("pool remove p 10.0.0.1:80", "OK"),
    ],
)
def test_the_console_answers_in_the_same_words(
    command: str, answer: str, which: Which, shared: dict[Which, Balancer]
) -> None:
    assert shared[which].command(command) == [answer]


@BOTH
def test_the_console_tells_what_can_be_done_with_a_pool(
    which: Which, shared: dict[Which, Balancer]
) -> None:
    """Ours lets a node be drained, too."""
    known = {"ours": "'add', 'remove' or 'drain'", "perlbal": "'add' or 'remove'"}[which]
    answer = f"ERROR: Invalid command:  must be {known}"
    assert shared[which].command("pool p grow 10.0.0.1") == [answer]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Which, Balancer]]:
    """One balancer of each kind, for tests that leave them as they were."""
    with starting(tmp_path_factory.mktemp("shared")) as start:
        yield {
            "ours": start(proxy("127.0.0.1:9"), "ours"),
            "perlbal": start(proxy("127.0.0.1:9"), "perlbal"),
        }


@BOTH
def test_a_configuration_that_is_dumped_makes_the_same_again(
    which: Which, start_balancer: Start, node: Node
) -> None:
    balancer = start_balancer(proxy(node.address, settings=KEPT), which)
    dumped = "\n".join(line for line in balancer.command("dumpconfig") if line != "OK")
    assert "CREATE POOL p" in dumped
    assert "  SET persist_backend = on" in dumped
    assert f"  POOL ADD p {node.address}" in dumped
    assert "ENABLE web" in dumped


@BOTH
def test_graceful_shutdown_lets_a_request_finish(
    which: Which, start_balancer: Start, node: Node
) -> None:
    balancer = start_balancer(proxy(node.address), which)
    with Talk(balancer.port) as talk:
        talk.send(GET % (b"/wait", b"Connection: close\r\n"))
        assert node.arrived.acquire(timeout=20)
        assert balancer.command_and_go("shutdown graceful")
        node.go.release()
        assert talk.read().status == 200
    assert balancer.running.process.wait(20) == 0


@BOTH
def test_the_status_page(which: Which, start_balancer: Start, node: Node) -> None:
    balancer = start_balancer(proxy(node.address), which)
    front = get(balancer.console)
    assert front.status == 200
    assert b"/service?web" in front.body
    assert b"127.0.0.1:%d" % node.port in get(balancer.console, "/service?web").body
    assert b"listening on" in get(balancer.console, "/socks").body
    assert get(balancer.console, "/nowhere").status == 404

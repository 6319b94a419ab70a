"""What is refused on the console changes nothing: those who are served are served as before."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.support.perlbal import Node, Start, get, proxy
from tests.support.process import accepts, free_port, wait_for
from tests.support.proxies import using

pytestmark = pytest.mark.faults


def test_rules_hold_whatever_plug_ins_come_and_go_beside_them(
    start_balancer: Start, node: Node
) -> None:
    config = "LOAD stats\nLOAD palimg\n" + using("accesscontrol", node, "ACCESS DENY ip 127.0.0.1")
    balancer = start_balancer(config)
    assert get(balancer.port).status == 403
    refused = balancer.command("SET web.plugins = stats, palimg, accesscontrol")
    assert refused == ["ERROR: Palimg works on a service with the role web_server"]
    assert balancer.command("plugins") == ["web AccessControl"]
    assert get(balancer.port).status == 403
    assert balancer.command("SET web.plugins = stats, accesscontrol") == ["OK"]
    assert get(balancer.port).status == 403
    assert balancer.command("SET web.plugins = stats") == ["OK"]
    assert get(balancer.port).status == 200
    assert balancer.command("stats")[2].split() == ["web", "proxy_requests", "1"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_service_stays_where_it_is_if_it_can_not_move(
    start_balancer: Start, node: Node, workers: int
) -> None:
    config = using("stats", node)
    balancer = start_balancer(config, "ours", f"--workers={workers}")
    with socket.create_server(("127.0.0.2", balancer.port)):
        for there in (f"127.0.0.1:{node.port}", f"127.0.0.2:{balancer.port}"):
            answer = balancer.command(f"SET web.listen = {there}")
            assert "Address already in use" in answer[0]
            assert f"web 127.0.0.1:{balancer.port} ENABLED" in balancer.command("show service")
            assert get(balancer.port).status == 200
    everywhere = f"0.0.0.0:{balancer.port}"
    assert balancer.command(f"SET web.listen = {everywhere}") == ["OK"]
    assert f"web {everywhere} ENABLED" in balancer.command("show service")
    assert get(balancer.port).status == 200


@pytest.mark.parametrize("workers", [0, 2])
def test_nobody_waits_at_a_service_that_is_disabled(
    start_balancer: Start, node: Node, workers: int
) -> None:
    balancer = start_balancer(using("stats", node), "ours", f"--workers={workers}")
    assert balancer.command("DISABLE web") == ["OK"]
    with pytest.raises(ConnectionRefusedError):
        balancer.talk()
    assert balancer.command("ENABLE web") == ["OK"]
    assert get(balancer.port).status == 200
    moved = free_port()
    assert balancer.command(f"SET web.listen = 127.0.0.1:{moved}") == ["OK"]
    assert get(moved).status == 200
    with pytest.raises(ConnectionRefusedError):
        balancer.talk()


def test_a_dump_names_services_before_they_are_meant(start_balancer: Start, node: Node) -> None:
    config = proxy(node.address).replace("  SET listen = 127.0.0.1:PORT\n", "") + (
        "CREATE SERVICE b\n  SET role = selector\n  SET default_service = web\nENABLE b\n"
        "CREATE SERVICE a\n  SET role = selector\n  SET default_service = b\n"
        "  SET listen = 127.0.0.1:PORT\nENABLE a\n"
    )
    balancer = start_balancer(config)
    lines = [line for line in balancer.command("dumpconfig") if line != "OK"]
    balancer.command_and_go("shutdown")
    made = "\n".join(lines).partition("CREATE SERVICE console")
    again = start_balancer(made[0] + made[2].partition("ENABLE console")[2])
    assert get(balancer.port).status == 200
    services = again.command("show service")
    assert {f"a 127.0.0.1:{balancer.port} ENABLED", "b not_listening ENABLED"} <= set(services)


def test_what_is_not_carried_out_for_a_node_says_why(start_balancer: Start) -> None:
    answer = start_balancer("").command("SERVER max_reproxy_connections(10.0.0.1:80) = 5")
    assert answer == ["ERROR: connections to reproxied URLs are not limited"]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_console_moves(start_balancer: Start, node: Node, workers: int) -> None:
    balancer = start_balancer(using("stats", node), "ours", f"--workers={workers}")
    before, balancer.console = balancer.console, free_port()
    moving = f"SET console.listen = 127.0.0.1:{balancer.console}"
    with socket.create_connection(("127.0.0.1", before)) as talk, talk.makefile("rb") as answers:
        talk.sendall(f"{moving}\r\n".encode())
        assert answers.readline() == b"OK\r\n"
        # Who moves it is not cut off.
        talk.sendall(b"show service\r\n")
        assert f"console 127.0.0.1:{balancer.console} ENABLED" in answers.readline().decode()
    assert "web" in balancer.command("show service")[1]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", before))


def test_the_console_moves_with_a_restart(
    start_balancer: Start, node: Node, tmp_path: Path
) -> None:
    balancer = start_balancer(using("stats", node), "ours", "--workers=1")
    before, balancer.console = balancer.console, free_port()
    file = tmp_path / f"ours-{balancer.port}.conf"
    file.write_text(file.read_text().replace(f":{before}", f":{balancer.console}"))
    with socket.create_connection(("127.0.0.1", before)) as talk:
        talk.sendall(b"restart\r\n")
        assert talk.recv(100) == b"OK\r\n"
    wait_for(lambda: accepts(balancer.console), "the console")
    assert "web" in balancer.command("show service")[1]
    assert not accepts(before)

"""Several processes that look like one: changed, killed, restarted, ended under load."""

from __future__ import annotations

import os
import pwd
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.http_load import http_load
from tests.support.perlbal import LJ, Balancer, Node, Start, Talk, get, proxy, starting
from tests.support.process import accepts, free_port, spawn, suspend, wait_for
from tests.support.proxies import KEPT

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="module")
def balancer(folder: Path, node: Node, metrics_port: int) -> Iterator[Balancer]:
    """Two workers before one node, for tests that leave the configuration as it was."""
    with starting(folder) as start:
        words = ("--workers", "2", "--set", f"metrics_listen=127.0.0.1:{metrics_port}")
        yield start(proxy(node.address, settings=KEPT), "ours", *words)


def workers(balancer: Balancer) -> dict[int, int]:
    """Ids of the processes that serve clients, by worker."""
    lines = [line.split() for line in balancer.command("workers")]
    return {int(line[1]): int(line[2]) for line in lines if line[0] == "worker"}


def settled(balancer: Balancer) -> bool:
    """Whether two workers are ready, and nobody else is there."""
    lines = [line.split() for line in balancer.command("workers")]
    return [line[3] for line in lines if line[0] == "worker"] == ["ready", "ready"]


def served_by(balancer: Balancer) -> list[Talk]:
    """Connections of clients, at least one to each worker."""
    talks: list[Talk] = []
    while True:
        talk = balancer.talk()
        talk.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        talks.append(talk)
        rows = [row for row in balancer.command("socks") if "ClientProxy" in row]
        if {row.rpartition("=")[2] for row in rows} == {"1", "2"}:
            return talks
        assert len(talks) < 200


@pytest.mark.parametrize("words", [(), ("--workers", "1")])
def test_the_log_says_where_it_listens(
    start_balancer: Start, node: Node, words: tuple[str, ...]
) -> None:
    balancer = start_balancer(proxy(node.address), "ours", *words)
    where = f"127.0.0.1:{balancer.port}, 127.0.0.1:{balancer.console}"
    wait_for(lambda: f"ready service=perlbal listen={where}\n" in balancer.running.output, where)


def test_the_console_shows_all_workers_as_one(balancer: Balancer, node: Node) -> None:
    talks = served_by(balancer)
    count = len(talks)
    assert f"Perlbal::ClientProxy persist_wait {count}" in balancer.command("states")
    requests = [row for row in balancer.command("nodes") if " requests " in row]
    shown = [row.split()[-1] for row in balancer.command("show pool p")]
    assert shown == [requests[0].split()[-1]]
    assert int(shown[0]) >= count
    block = balancer.command("show service web")
    assert any(row.split() == [node.address, shown[0]] for row in block)
    proc = balancer.command("proc")
    assert [row.partition(":")[0] for row in proc[-2:]] == ["worker 1", "worker 2"]
    for talk in talks:
        with talk:
            pass


def test_a_change_reaches_all_workers(balancer: Balancer) -> None:
    try:
        assert balancer.command("HEADER web INSERT X-Changed: yes") == ["OK"]
        assert balancer.command("SET web.nonsense = 1")[0].startswith("ERROR: Unknown service par")
        talks = served_by(balancer)
        for talk in talks:
            with talk:
                told = talk.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").json["headers"]
                assert ["X-Changed", "yes"] in told
    finally:
        assert balancer.command("restart") == ["OK"]
        wait_for(lambda: settled(balancer), "the old workers to end")


def test_a_worker_that_dies_is_replaced_and_knows_what_was_changed(balancer: Balancer) -> None:
    balancer.command("SET web.server_tokens = off")
    balancer.command("HEADER web INSERT X-Later: yes")
    before = workers(balancer)
    with http_load(balancer.port) as load:
        load.go_on(100)
        os.kill(before[1], signal.SIGKILL)
        wait_for(lambda: settled(balancer) and workers(balancer) != before, "another worker")
        load.go_on(100)
    # Each client loses at most the one request that the worker was about to answer.
    assert len(load.lost) <= 8
    assert workers(balancer)[2] == before[2]
    for talk in served_by(balancer):
        with talk:
            told = talk.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").json["headers"]
            assert ["X-Later", "yes"] in told


def test_a_restart_loses_no_request_and_reads_the_file_anew(
    balancer: Balancer, folder: Path
) -> None:
    file = next(folder.glob("*.conf"))
    text = file.read_text()
    before = workers(balancer)
    file.write_text(text + "HEADER web INSERT X-File: new\n")
    with http_load(balancer.port) as load:
        load.go_on(100)
        assert balancer.command("restart") == ["OK"]
        wait_for(lambda: settled(balancer), "the old workers to end", timeout_s=90)
        load.go_on(100)
        again = workers(balancer)
        balancer.running.process.send_signal(signal.SIGUSR2)
        wait_for(
            lambda: settled(balancer) and not set(workers(balancer).values()) & set(again.values()),
            "the restart by signal",
            timeout_s=90,
        )
        load.go_on(100)
    assert load.lost == []
    assert not set(before.values()) & set(workers(balancer).values())
    assert ["X-File", "new"] in get(balancer.port).json["headers"]
    file.write_text(text)


def test_a_restart_with_a_broken_file_changes_nothing(balancer: Balancer, folder: Path) -> None:
    file = next(folder.glob("*.conf"))
    text = file.read_text()
    before = workers(balancer)
    file.write_text(text + "SET web.nonsense = 1\n")
    with http_load(balancer.port) as load:
        answer = balancer.command("restart")[0]
        load.go_on(50)
    assert answer.startswith("ERROR: restart refused, the old workers go on:")
    assert "Unknown service parameter 'nonsense'" in answer
    assert load.lost == []
    assert workers(balancer) == before
    file.write_text(text)


def test_figures_are_shown_by_worker(balancer: Balancer, metrics_port: int) -> None:
    for talk in served_by(balancer):
        with talk:
            pass
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    for number in "12":
        key = f'lj_perlbal_requests_total{{service="web",worker="{number}"}} '
        assert [float(row.removeprefix(key)) > 0 for row in lines if row.startswith(key)] == [True]
    assert sum(row.startswith("# TYPE lj_perlbal_requests_total") for row in lines) == 1


def test_workers_end_with_their_master(start_balancer: Start, node: Node) -> None:
    balancer = start_balancer(proxy(node.address), "ours", "--workers", "2")
    started = [psutil.Process(pid) for pid in workers(balancer).values()]
    balancer.running.kill()
    _gone, alive = psutil.wait_procs(started, timeout=20)
    assert alive == []


@pytest.mark.parametrize("number", ["0", "2"])
def test_who_is_killed_with_all_processes_serves_again(
    tmp_path: Path, node: Node, number: str
) -> None:
    """What was on its way is lost, and said to be; nothing is answered wrongly."""
    port = free_port()
    file = tmp_path / "web.conf"
    file.write_text(proxy(node.address, settings=KEPT).replace("PORT", str(port)))
    console = f"127.0.0.1:{free_port()}"
    argv = [LJ, "perlbal", "serve", "--config", file, "--listen", console, "--workers", number]
    with (
        spawn(argv, tmp_path / "first", ready=lambda: accepts(port)) as first,
        http_load(port, "/counted", pause_s=0.02) as load,
    ):
        load.go_on(50)
        own = psutil.Process(first.pid)
        processes = [own, *own.children(recursive=True)]
        # Nobody serves on while another one is dead already.
        for process in processes:
            suspend(process.pid)
        for process in processes:
            process.kill()
        first.process.wait(60)
        with spawn(argv, tmp_path / "second", ready=lambda: accepts(port)):
            load.go_on(50)
            load.stop()
    on_their_way = [problem for problem in load.lost if "refused" not in problem]
    print(
        f"{len(on_their_way)} requests lost on their way, {len(load.lost) - len(on_their_way)} not "
        f"let in, {load.answered} answered; nobody was answered for {load.longest_gap_s:.2f} s"
    )
    assert not [problem for problem in load.lost if "status" in problem]
    # Every client had one request on its way with each process at the most; others were not let in.
    assert len(on_their_way) <= 8 * len(processes)


def test_the_end_waits_for_answers(start_balancer: Start, node: Node) -> None:
    balancer = start_balancer(proxy(node.address, settings=KEPT), "ours", "--workers", "2")
    with balancer.talk() as talk:
        talk.send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        assert node.arrived.acquire(timeout=20)
        assert balancer.command("shutdown graceful") == ["OK"]
        wait_for(lambda: not accepts(balancer.port), "the listeners to close")
        node.go.release()
        assert talk.read().fields["connection"] == "close"
    assert balancer.running.process.wait(20) == 0


@pytest.mark.parametrize("number", ["0", "2"])
def test_root_is_given_up_when_ports_are_bound(
    tmp_path: Path, node: Node, number: str, start_balancer: Start
) -> None:
    config = proxy(node.address, settings=KEPT)
    words = ("--workers", number, "--set", "user=nobody")
    if os.geteuid() != 0:
        file = tmp_path / "web.conf"
        file.write_text(config.replace("PORT", str(free_port())))
        log = tmp_path / "log"
        argv = [LJ, "perlbal", "serve", "--config", file, *words]
        with (
            pytest.raises(AssertionError, match="user: only root can become nobody"),
            spawn(argv, log, ready=lambda: False),
        ):
            pass
        return
    port = next(port for port in range(1023, 500, -1) if not accepts(port))
    balancer = start_balancer(config.replace("PORT", str(port)), "ours", *words)
    assert get(port).status == 200
    nobody = pwd.getpwnam("nobody")
    pids = [balancer.running.pid, *(workers(balancer).values() if number != "0" else ())]
    for pid in pids:
        process = psutil.Process(pid)
        assert set(process.uids()) == {nobody.pw_uid}
        assert set(process.gids()) == {nobody.pw_gid}
    answer = balancer.command(f"SET web.listen = 127.0.0.1:{port - 1}")[0]
    assert answer.startswith("ERROR")
    assert "Permission denied" in answer

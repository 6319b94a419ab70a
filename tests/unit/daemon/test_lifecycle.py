"""A daemon's life as an operator sees it: ready, reload, drain, exit code."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from tests.support.process import Running, accepts, free_port, spawn, wait_for

pytestmark = pytest.mark.unit

SAMPLE = Path(__file__).with_name("sample_daemon.py")
Start = Callable[..., "Daemon"]


class Daemon:
    def __init__(self, running: Running, port: int, metrics_port: int) -> None:
        self.running = running
        self.port = port
        self.metrics_port = metrics_port

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def ask(self, line: str) -> str:
        with self.connect() as channel:
            channel.sendall(line.encode() + b"\n")
            return channel.recv(4096).decode().strip()

    def http(self, path: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.metrics_port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def idle(self) -> bool:
        return 'lj_connections{service="sample"} 0.0' in self.http("/metrics")[1]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def start(*words: str, env: dict[str, str] | None = None) -> Daemon:
            port, metrics_port = free_port(), free_port()
            argv = [sys.executable, SAMPLE, "serve", "--listen", f"127.0.0.1:{port}"]
            argv += ["--set", f"metrics_listen=127.0.0.1:{metrics_port}", *words]
            context: AbstractContextManager[Running] = spawn(
                argv, tmp_path / "log", ready=lambda: accepts(port), env=env
            )
            return Daemon(stack.enter_context(context), port, metrics_port)

        yield start


def test_drains_on_sigterm_and_ends_with_zero(start: Start) -> None:
    daemon = start()
    with daemon.connect() as busy:
        busy.sendall(b"slow 0.5\n")
        wait_for(lambda: daemon.ask("hello") == "hello", "an answer")
        daemon.running.process.send_signal(signal.SIGTERM)
        assert busy.recv(100) == b"slow 0.5\n", "work in flight is finished"
    assert daemon.running.process.wait(20) == 0
    assert not accepts(daemon.port)


def test_signals_in_its_last_moments_do_not_change_the_exit_code(start: Start) -> None:
    daemon = start()
    process = daemon.running.process
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: "stopped" in daemon.running.output, "the end of the drain", every_s=0.001)
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0


def test_work_that_outlasts_the_drain_is_cut_off_and_the_exit_code_says_so(start: Start) -> None:
    daemon = start("--set", "drain_timeout_s=0.2")
    with daemon.connect() as busy:
        busy.sendall(b"slow 60\n")
        assert daemon.ask("hello") == "hello"
        assert daemon.running.terminate() == 1
    assert "stopped with work in flight" in daemon.running.output


def test_a_second_sigterm_ends_it_at_once(start: Start) -> None:
    daemon = start("--set", "drain_timeout_s=60")
    with daemon.connect() as busy:
        busy.sendall(b"slow 60\n")
        assert daemon.ask("hello") == "hello"
        daemon.running.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "draining" in daemon.running.output, "the drain")
        assert daemon.running.terminate() == 1


def test_health_and_metrics(start: Start) -> None:
    daemon = start()
    assert daemon.http("/health") == (200, "ok\n")
    assert daemon.ask("hello") == "hello"
    wait_for(
        lambda: 'lj_connections{service="sample"} 0.0' in daemon.http("/metrics")[1], "metrics"
    )
    assert daemon.http("/else")[0] == 404
    with daemon.connect() as busy:
        busy.sendall(b"slow 1\n")
        assert daemon.ask("hello") == "hello"
        daemon.running.process.send_signal(signal.SIGTERM)
        wait_for(lambda: daemon.http("/health") == (503, "draining\n"), "bad health while draining")


def test_sighup_takes_new_settings_and_keeps_the_old_ones_when_they_are_bad(
    start: Start, tmp_path: Path
) -> None:
    file = tmp_path / "sample.toml"
    file.write_text('motto = "one"')
    daemon = start("--config", str(file))
    assert daemon.ask("note") == "one"
    file.write_text('motto = "two"')
    daemon.running.process.send_signal(signal.SIGHUP)
    wait_for(lambda: daemon.ask("note") == "two", "the new motto")
    file.write_text("moto = 3")
    daemon.running.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "did you mean motto?" in daemon.running.output, "the reason")
    assert daemon.ask("note") == "two"


def test_systemd_is_told(start: Start, tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(os.fspath(address))
        manager.settimeout(10)
        daemon = start(env={"NOTIFY_SOCKET": os.fspath(address)})
        assert manager.recv(100) == b"READY=1"
        assert daemon.running.terminate() == 0
        assert manager.recv(100) == b"STOPPING=1"


def test_too_many_clients_are_turned_away_and_the_others_stay(start: Start) -> None:
    daemon = start("--set", "max_connections=2")
    wait_for(daemon.idle, "the start's own probe to be counted out")
    with daemon.connect() as one, daemon.connect() as two:
        one.sendall(b"one\n")
        two.sendall(b"two\n")
        assert (one.recv(10), two.recv(10)) == (b"one\n", b"two\n")
        with daemon.connect() as three:
            assert three.recv(100) == b"too many\n"
            assert three.recv(100) == b""
        one.sendall(b"still\n")
        assert one.recv(10) == b"still\n"
    wait_for(lambda: daemon.ask("free") == "free", "a free place")


def test_a_silent_client_is_cut_off_and_a_talking_one_is_not(start: Start) -> None:
    daemon = start("--set", "idle_timeout_s=0.6")
    with daemon.connect() as silent, daemon.connect() as talking:
        silent.settimeout(0.1)
        gone = False
        while not gone:
            talking.sendall(b"tick\n")
            assert talking.recv(10) == b"tick\n"
            try:
                gone = silent.recv(10) == b""
            except TimeoutError:
                continue


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SAMPLE, "serve", *words], capture_output=True, text=True, timeout=30
    )


def test_a_bad_setting_ends_it_with_3_and_a_taken_port_with_6(start: Start) -> None:
    bad = run("--set", "mottto=x")
    assert (bad.returncode, bad.stderr) == (
        3,
        "settings: mottto: unknown key; did you mean motto?\n",
    )
    daemon = start()
    taken = run("--listen", f"127.0.0.1:{daemon.port}", "--log-format", "json")
    assert taken.returncode == 6
    event = json.loads(taken.stderr.splitlines()[-1])
    assert "address already in use" in event["message"]


def test_help_teaches_every_setting() -> None:
    page = run("--help").stdout
    for word in ("--config FILE", "drain_timeout_s", "[default: 10.0]", "SIGHUP", "motto"):
        assert word in page

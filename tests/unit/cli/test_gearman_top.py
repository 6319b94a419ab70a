"""``lj gearman top``."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from rich.console import Console

from lj_services.cli.gearman import command
from lj_services.cli.gearman_top import _table, ranked
from lj_services.gearman.protocol import PacketType as T
from tests.support.gearman import Start
from tests.support.process import free_port

pytestmark = pytest.mark.unit


def test_functions_of_all_servers_are_summed_up(gearman_server: Start) -> None:
    one, two = gearman_server(), gearman_server()
    away = f"127.0.0.1:{free_port()}"
    with one.connect() as client, two.connect() as worker:
        for _ in range(3):
            client.call(T.SUBMIT_JOB_BG, b"up", b"", b"", then=T.JOB_CREATED)
        worker.send(T.CAN_DO, b"up")
        worker.call(T.SUBMIT_JOB_BG, b"up", b"", b"", then=T.JOB_CREATED)
        worker.call(T.GRAB_JOB, then=T.JOB_ASSIGN)
        worker.call(T.SUBMIT_JOB_BG, b"down", b"", b"", then=T.JOB_CREATED)
        words = [f"--server={address}" for address in (one.address, away, two.address)]
        done = CliRunner().invoke(command, ["top", *words, "--count=1", "--json"])
        assert done.exit_code == 0
        told = json.loads(done.stdout)
        assert told["functions"] == [
            {"function": "up", "queued": 3, "running": 1, "workers": 1, "idle": 0}
            | {"change_per_s": None},
            {"function": "down", "queued": 1, "running": 0, "workers": 0, "idle": 0}
            | {"change_per_s": None},
        ]
        assert list(told["unreachable"]) == [away]
        done = CliRunner().invoke(command, ["top", *words, "--count=2", "--interval=0.1"])
        assert done.stdout.count("up") == 2
        assert f"{away}: " in done.stdout


def test_no_server_at_all() -> None:
    done = CliRunner().invoke(command, ["top", f"--server=127.0.0.1:{free_port()}", "--count=1"])
    assert done.exit_code == 6
    assert "name them with --server" in done.stderr


def test_the_longest_queues_come_first() -> None:
    rows = [
        {"function": "a", "queued": 1, "running": 5, "workers": 5, "idle": 0},
        {"function": "b", "queued": 30, "running": 0, "workers": 0, "idle": 0},
        {"function": "c", "queued": 1, "running": 9, "workers": 9, "idle": 0},
    ]
    ranked(rows, {"a": 5, "b": 10}, 2.0)
    assert [(row["function"], row["change_per_s"]) for row in rows] == [
        ("b", 10.0),
        ("c", 0.5),
        ("a", -2.0),
    ]
    console = Console(width=100, record=True)
    console.print(_table(rows, {"10.0.0.1:4730": "connection refused"}, height=7))
    shown = console.export_text()
    assert "+10.0" in shown
    assert "10.0.0.1:4730: connection refused" in shown
    assert " a " not in shown, "only as many functions as there is room for"

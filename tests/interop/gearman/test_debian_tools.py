"""Debian's gearman and gearadmin against the kit's server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.gearman import GearmanServer, PacketType, Start
from tests.support.process import spawn, wait_for
from tests.support.servers import LJ

pytestmark = pytest.mark.interop


@pytest.fixture
def server(gearman_server: Start) -> GearmanServer:
    return gearman_server("shutdown_command=true")


def gearman(server: GearmanServer, *words: str, data: bytes = b"") -> bytes:
    argv = ["gearman", "-h", "127.0.0.1", "-p", str(server.port), *words]
    return subprocess.run(argv, input=data, capture_output=True, check=True, timeout=30).stdout


def gearadmin(server: GearmanServer, *words: str) -> str:
    argv = ["gearadmin", "-h", "127.0.0.1", "-p", str(server.port), *words]
    done = subprocess.run(argv, capture_output=True, check=True, timeout=30, text=True)
    return done.stdout


@contextmanager
def worker(server: GearmanServer, folder: Path, function: str, *command: str) -> Iterator[None]:
    argv = ["gearman", "-h", "127.0.0.1", "-p", str(server.port), "-w", "-f", function]
    there = f"{function}\t".encode()

    def ready() -> bool:
        lines = server.ask(b"status").splitlines()
        return any(line.startswith(there) and not line.endswith(b"\t0") for line in lines)

    with spawn([*argv, "--", *command], folder / "worker.log", ready=ready):
        yield


def test_a_call(server: GearmanServer, tmp_path: Path) -> None:
    with worker(server, tmp_path, "up", "tr", "a-z", "A-Z"):
        for level in ((), ("-I",), ("-L",), ("-u", "key")):
            assert gearman(server, "-f", "up", *level, data=b"hello") == b"HELLO"


def test_many_calls_of_one_client(server: GearmanServer, tmp_path: Path) -> None:
    lines = b"".join(b"line %d\n" % number for number in range(200))
    with worker(server, tmp_path, "up", "tr", "a-z", "A-Z"):
        told = gearman(server, "-f", "up", "-n", data=lines)
    told_lines = [line for line in told.split(b"\n") if line]
    assert sorted(told_lines) == sorted(b"LINE %d" % number for number in range(200))


def test_background_jobs(server: GearmanServer, tmp_path: Path) -> None:
    for number in range(5):
        gearman(server, "-f", "keep", "-b", data=b"%d\n" % number)
    assert server.ask(b"status") == b"keep\t5\t0\t0\n.\n"
    kept = tmp_path / "kept"
    with worker(server, tmp_path, "keep", "tee", "-a", str(kept)):
        wait_for(lambda: server.ask(b"status") == b"keep\t0\t0\t1\n.\n", "the jobs to be done")
    assert kept.read_bytes() == b"0\n1\n2\n3\n4\n"


def test_gearadmin_asks(server: GearmanServer, tmp_path: Path) -> None:
    with worker(server, tmp_path, "up", "cat"), server.connect() as client:
        client.call(PacketType.SUBMIT_JOB, b"other", b"key", b"x", then=PacketType.JOB_CREATED)
        assert "up\t0\t0\t1\n" in gearadmin(server, "--status")
        assert "other\t1\t0\t0\n" in gearadmin(server, "--status")
        assert "other\t0\t1\t0\t0\n" in gearadmin(server, "--priority-status")
        assert " : up\n" in gearadmin(server, "--workers")
        assert gearadmin(server, "--getpid").split()[-1] == str(server.running.pid)
        assert "INFO" in gearadmin(server, "--server-verbose")
        assert "lj-" in gearadmin(server, "--server-version")
        assert "\t0\t0\t0\n" in gearadmin(server, "--show-jobs")
        assert "key\n" in gearadmin(server, "--show-unique-jobs")


def test_gearadmin_acts(server: GearmanServer) -> None:
    gearadmin(server, "--create-function", "bar")
    assert server.ask(b"status") == b"bar\t0\t0\t0\n.\n"
    gearadmin(server, "--drop-function", "bar")
    assert server.ask(b"status") == b".\n"
    with server.connect() as client:
        (handle,) = client.call(
            PacketType.SUBMIT_JOB, b"up", b"", b"x", then=PacketType.JOB_CREATED
        )
        gearadmin(server, "--cancel-job", handle.decode())
        client.expect(PacketType.WORK_FAIL, handle)
    assert server.ask(b"status") == b"up\t0\t0\t0\n.\n"


def lj(server: GearmanServer, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [LJ, "gearman", *words, "--server", server.address]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30)


def test_our_commands(server: GearmanServer, tmp_path: Path) -> None:
    with worker(server, tmp_path, "up", "cat"):
        told = lj(server, "status", "--json")
        assert json.loads(told.stdout) == [
            {"function": "up", "total": 0, "running": 0, "workers": 1}
        ]
        [row] = json.loads(lj(server, "workers", "--json").stdout)
        assert row["functions"] == ["up"]
        refused = lj(server, "drop", "up")
        assert (refused.returncode, "still connected workers" in refused.stderr) == (5, True)
    assert lj(server, "cancel", "H:no:1").returncode == 5
    wait_for(lambda: server.ask(b"status") == b"up\t0\t0\t0\n.\n", "the worker to leave")
    dropped = lj(server, "drop", "up", "--json")
    assert dropped.returncode == 0
    assert json.loads(dropped.stdout) == {"server": server.address, "dropped": "up"}
    assert "up" not in lj(server, "status").stdout
    kept = lj(server, "submit", "later", "--background", "--json")
    handle = json.loads(kept.stdout)["handle"]
    cancelled = lj(server, "cancel", handle)
    assert (cancelled.returncode, cancelled.stdout.split()[-2:]) == (0, ["cancelled", handle])
    down = lj(server, "shutdown", "--json")
    assert down.returncode == 0
    assert json.loads(down.stdout)["shutdown"] == "graceful"
    assert server.running.process.wait(20) == 0
    assert lj(server, "status").returncode == 6

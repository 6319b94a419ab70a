"""Running job servers for tests: C's gearmand, Perl's, and one that can be restarted."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from lj_services.gearman.client import Client
from lj_services.gearman.worker import Job, Worker
from tests.support.process import Running, accepts, free_port, spawn
from tests.support.servers import serve_command

C_SERVER = "/usr/sbin/gearmand"
PERL_SERVER = "/usr/bin/gearmand"
OUR_SERVER = "lj gearman serve"

EVERY = pytest.mark.parametrize(
    "program", [C_SERVER, PERL_SERVER, OUR_SERVER], ids=["C", "Perl", "ours"]
)
FULL = pytest.mark.parametrize("program", [C_SERVER, OUR_SERVER], ids=["C", "ours"])
"""Those that know all of today's packets."""


class JobServer:
    """A job server on a port of 127.0.0.1 that stays the same when it is started again."""

    def __init__(self, program: str, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._log = folder / f"{self.port}.log"
        if program == OUR_SERVER:
            self._argv = [*serve_command("gearman", self.port), *options]
        else:
            self._argv = self._foreign(program, folder, *options)
        self._stack = ExitStack()
        self.running: Running

    def _foreign(self, program: str, folder: Path, *options: str) -> list[str]:
        argv = [program, "-L", "127.0.0.1", "-p", str(self.port), *options]
        if program == PERL_SERVER:
            return ["perl", *argv]
        return [*argv, "-l", "none", "-t", "1", "-P", str(folder / f"{self.port}.pid")]

    def start(self) -> None:
        """Start it, also again."""
        self.running = self._stack.enter_context(
            spawn(self._argv, self._log, ready=lambda: accepts(self.port))
        )

    def kill(self) -> None:
        """End it with no last words."""
        self.running.kill()

    def close(self) -> None:
        self._stack.close()

    def status(self) -> dict[str, tuple[int, int, int]]:
        """Function -> jobs, running jobs, workers."""
        text = b""
        with socket.create_connection(("127.0.0.1", self.port), 10) as connected:
            connected.sendall(b"status\n")
            while not text.endswith(b".\n"):
                more = connected.recv(1 << 16)
                assert more, f"closed after {text!r}"
                text += more
        rows = [line.split("\t") for line in text.decode().splitlines()[:-1]]
        return {name: (int(jobs), int(running), int(who)) for name, jobs, running, who in rows}


class Start:
    """Starts job servers that end with the test."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack

    def __call__(self, program: str = C_SERVER, *options: str) -> JobServer:
        server = JobServer(program, self._folder, *options)
        self._stack.callback(server.close)
        server.start()
        return server


@pytest.fixture
def job_server(tmp_path: Path) -> Iterator[Start]:
    """Starts job servers; ``job_server()`` is C's gearmand."""
    with ExitStack() as stack:
        yield Start(tmp_path, stack)


@contextmanager
def at_work(worker: Worker) -> Iterator[Worker]:
    """A worker that runs in a thread for the length of the block."""
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(20)
        assert not thread.is_alive(), "the worker did not stop"
        worker.close()


@contextmanager
def asking(*servers: JobServer) -> Iterator[Client]:
    """A client of `servers`."""
    with Client([server.address for server in servers], dead_retry_s=0.2) as client:
        yield client


def reverse(job: Job) -> bytes:
    return job.payload[::-1]


def worker_of(*servers: JobServer, **functions: Callable[[Job], bytes | str | None]) -> Worker:
    worker = Worker([server.address for server in servers], max_pause_s=0.2)
    for name, function in (functions or {"reverse": reverse}).items():
        worker.register(name, function)
    return worker

"""Start real programs for a test, wait until they are ready, end them by pid."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

#: Ports below those that the system gives to whoever connects somewhere, so that none is
#: taken between its choice and the start of its server.
PORTS = range(15_000, 32_000)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on, for this test alone."""
    return free_ports(1)


def free_ports(count: int) -> int:
    """The first of `count` free ports of 127.0.0.1 in a row."""
    while True:
        first = _next_ports(count)
        with ExitStack() as probes:
            try:
                for port in range(first, first + count):
                    probes.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
        return first


def _next_ports(count: int) -> int:
    """Go through the ports of this test process: those that run beside it have others."""
    global _tried
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    mine = PORTS[process * len(PORTS) // processes : (process + 1) * len(PORTS) // processes]
    first = _tried % (len(mine) - count)
    _tried += count
    return mine[first]


_tried = random.randrange(len(PORTS))


def wait_for(
    condition: Callable[[], bool], what: str, *, timeout_s: float = 60.0, every_s: float = 0.02
) -> None:
    """Poll `condition` until it holds.

    Raises:
        AssertionError: it did not hold within `timeout_s` seconds; names `what`.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s for {what}")
        time.sleep(every_s)


def accepts(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something accepts TCP connections on `port`."""
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False


def suspend(pid: int) -> None:
    """SIGSTOP a process, and return when all of its threads have stopped.

    The signal alone is not enough: until one thread has taken it, others still answer.
    """
    os.kill(pid, signal.SIGSTOP)
    tasks = list(Path(f"/proc/{pid}/task").iterdir())

    def stopped() -> bool:
        states = [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks]
        return set(states) == {"T"}

    wait_for(stopped, f"process {pid} to stop")


class Running:
    """A started program: its `process`, and where its output went."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """End it the way a power cut does: SIGKILL, no last words."""
        self.process.kill()
        self.process.wait()

    def terminate(self, timeout_s: float = 20.0) -> int:
        """Ask it to drain (SIGTERM) and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not end on SIGTERM:\n{self.output}") from None


@contextmanager
def spawn(
    argv: Sequence[str | Path],
    log: Path,
    *,
    ready: Callable[[], bool],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float = 60.0,
) -> Iterator[Running]:
    """Run `argv` for the length of the block; its output goes to the file `log`.

    Args:
        argv: program and arguments.
        log: file that receives stdout and stderr.
        ready: polled until the program can be used.
        env: added to this process's environment.
        cwd: working directory.
        timeout_s: how long the program may take to become ready, in seconds.
    """
    with log.open("ab") as out:
        process = subprocess.Popen(
            [str(word) for word in argv],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            cwd=cwd,
        )
    running = Running(process, log)

    def ready_or_dead() -> bool:
        if process.poll() is not None:
            raise AssertionError(f"{argv[0]} ended with {process.returncode}:\n{running.output}")
        return ready()

    try:
        wait_for(ready_or_dead, f"{argv[0]} to be ready", timeout_s=timeout_s)
        yield running
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                running.kill()

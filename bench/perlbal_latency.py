"""How long requests take through the balancer: beside HAProxy, and while others are slow.

h2load (HTTP/1) asks at a fixed rate, half of what the balancer can do with one core, and notes
how long each request took; what counts is the 99th percentile.  The balancer has the first core,
h2load and nginx behind it have the others, as have the slow clients.  Where others use the machine,
too, ``chrt --rr 10 python -m bench perlbal_latency`` keeps them out of the figures.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import perlbal
from bench.harness import Comparison, Load, Subject, free_port
from lj_services.daemon.listening import allow_open_files

TITLE = "Load balancer: how long requests take"

CLIENTS = 32
RATE = 400
"""Requests a second of each client."""
SLOW_CLIENTS = 5_000
HANGING = 200
"""Requests that wait for a node that does not answer."""

Disturb = Callable[[int], AbstractContextManager[None]]


@dataclass(frozen=True)
class Target:
    """Where requests go, and what else happens to the balancer meanwhile."""

    url: str
    disturb: Disturb


@contextmanager
def target(
    start: Callable[[], AbstractContextManager[Subject]], disturb: Disturb
) -> Iterator[Subject]:
    """A balancer that is disturbed in a way while it is measured."""
    with start() as subject:
        yield Subject(Target(subject.value, disturb), subject.pid)


def _quiet(_port: int) -> AbstractContextManager[None]:
    return nullcontext()


@contextmanager
def slow_clients(port: int, count: int) -> Iterator[None]:
    """Clients that send a byte of their head each second, for the length of the block."""
    allow_open_files(count + 200)
    with ExitStack() as stack:
        sockets = []
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.sendall(b"GET / HTTP/1.1\r\nX: ")
            client.setblocking(False)
            sockets.append(client)
        ended = threading.Event()

        def dawdle() -> None:
            os.sched_setaffinity(0, perlbal.CORES[1:] or perlbal.CORES)
            share = count // 100
            place = 0
            while not ended.wait(0.01):
                for client in sockets[place : place + share]:
                    client.send(b"x")
                place = (place + share) % count

        thread = threading.Thread(target=dawdle)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@contextmanager
def hanging(_port: int, service: int) -> Iterator[None]:
    """Requests to another service of the process, whose node does not answer."""
    with ExitStack() as stack:
        for _ in range(HANGING):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", service)))
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        yield


@contextmanager
def silent_node() -> Iterator[int]:
    """A node that takes every connection and says nothing; gives its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener, ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        selector.register(listener, selectors.EVENT_READ)
        ended = threading.Event()

        def accept() -> None:
            taken: list[socket.socket] = []
            while not ended.is_set():
                if selector.select(0.1):
                    taken.append(listener.accept()[0])
            for each in taken:
                each.close()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            ended.set()
            thread.join()


_SLOW_SERVICE = """
CREATE POOL silent
  POOL silent ADD 127.0.0.1:{node}
CREATE SERVICE slow
  SET role = reverse_proxy
  SET pool = silent
  SET listen = 127.0.0.1:{service}
ENABLE slow
"""


@contextmanager
def beside_a_slow_node() -> Iterator[Subject]:
    """A balancer with a second service, whose node hangs while it is measured."""
    with silent_node() as node:
        service = free_port()
        extra = _SLOW_SERVICE.format(node=node, service=service)
        start = partial(perlbal.contender, perlbal.PROXY, perlbal.run_ours, extra=extra)
        with target(start, partial(hanging, service=service)) as subject:
            yield subject


def p99(subject: Subject, *, duration_s: int) -> float:
    """The 99th percentile of how long requests took, in milliseconds."""
    port = int(subject.value.url.rpartition(":")[2])
    cores = ",".join(map(str, perlbal.CORES[1:] or perlbal.CORES))
    with tempfile.TemporaryDirectory() as folder, subject.value.disturb(port):
        log = Path(folder) / "log"
        words = ["--h1", f"-c{CLIENTS}", "-t1", f"--rps={RATE}", f"-D{duration_s}"]
        subprocess.run(
            [
                "taskset",
                "-c",
                cores,
                "h2load",
                *words,
                f"--log-file={log}",
                f"{subject.value.url}/1k",
            ],
            stdout=subprocess.DEVNULL,
            check=True,
        )
        rows = [line.split("\t") for line in log.read_text().splitlines()]
    with contextlib.suppress(StopIteration):
        bad = next(row for row in rows if row[1] != "200")
        raise RuntimeError(f"a request was answered {bad[1]}")
    asked = len(rows) / duration_s
    if asked < 0.75 * CLIENTS * RATE:
        raise RuntimeError(f"{asked:,.0f} requests a second, and not {CLIENTS * RATE:,}")
    return statistics.quantiles((int(row[2]) / 1000 for row in rows), n=100)[98]


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Beside HAProxy; with slow clients; with a slow node."""
    load = Load(
        f"{CLIENTS * RATE:,} requests/s, 99th percentile",
        "ms",
        partial(p99, duration_s=1 if quick else 2),
        better="lower",
    )
    patient = "  SET idle_timeout = 300\n"
    proxy = partial(perlbal.contender, perlbal.PROXY, perlbal.run_ours, settings=patient)
    before_others = os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR)
    notes = ["All with real-time priority, as others used the machine."] if before_others else []
    alone = perlbal.ours(partial(target, proxy, _quiet))
    haproxy = partial(perlbal.contender, perlbal.HAPROXY, perlbal.run_haproxy)
    yield Comparison(
        "At half load, beside HAProxy",
        ours=alone,
        peer=perlbal.haproxy(partial(target, haproxy, _quiet)),
        loads=[load],
        notes=notes,
        goal="at most twice HAProxy's (a ratio of 0.5)",
    )
    count = SLOW_CLIENTS // 10 if quick else SLOW_CLIENTS
    yield Comparison(
        f"With {count:,} clients that send a byte a second, beside none",
        ours=perlbal.ours(partial(target, proxy, partial(slow_clients, count=count))),
        peer=alone,
        loads=[load],
        notes=notes,
        goal="less than 20 % longer (a ratio of 0.83)",
    )
    yield Comparison(
        f"With {HANGING} requests that hang at a slow node, beside none",
        ours=perlbal.ours(beside_a_slow_node),
        peer=alone,
        loads=[load],
        notes=notes,
        goal="less than 20 % longer (a ratio of 0.83)",
    )

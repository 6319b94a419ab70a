"""What the Gearman server keeps beside gearmand: stored jobs, queued jobs, sleeping workers, and
payloads that are large.

A million jobs and 18,000 workers take a server of their own, and are made once for each side.
"""

from __future__ import annotations

import itertools
import select
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial

from bench import _gearman_load as load
from bench._gearman_servers import (
    C_DEFAULT,
    C_MANY_FILES,
    C_STORED,
    OURS,
    OURS_STORED,
    ours,
    resident_bytes,
    running,
    version,
)
from bench.harness import Comparison, Contender, Load, Subject
from lj_services.daemon.listening import allow_open_files

TITLE = "Gearman server: what waits, and what is large"
ROUNDS = 3

MANY_JOBS = 1_000_000
MANY_WORKERS = 18_000
WAKES = 20
CALM_S = 0.05
"""So long after the first worker was woken, all have been who will be, in seconds."""

_keys = itertools.count()


@dataclass
class Kept:
    """What a server was seen to do with many jobs, or many workers."""

    bytes_each: float
    """Memory of one."""
    wakes_ms: Sequence[float] = ()
    """Time from a submission until a first worker knew."""
    woken: Sequence[int] = ()
    """How many workers one job woke."""


@contextmanager
def many_jobs(argv: Sequence[str]) -> Iterator[Subject]:
    """What `MANY_JOBS` queued background jobs take, beyond their payload."""
    with running(argv) as fresh:
        before = resident_bytes(fresh)
        load.background(fresh.value, jobs=MANY_JOBS)
        each = (resident_bytes(fresh) - before) / MANY_JOBS - len(load.PAYLOAD)
    yield Subject(Kept(each))


@contextmanager
def many_workers(argv: Sequence[str]) -> Iterator[Subject]:
    """What `MANY_WORKERS` sleeping workers take, and how they wake."""
    allow_open_files(MANY_WORKERS + 100)
    with running(argv) as fresh, ExitStack() as stack:
        before = resident_bytes(fresh)
        asleep = sleepers(stack, fresh.value)
        kept = Kept((resident_bytes(fresh) - before) / MANY_WORKERS)
        poll = stack.enter_context(closing(select.epoll()))
        for worker in asleep.values():
            poll.register(worker.fileno(), select.EPOLLIN)
        client = stack.enter_context(load.connect(fresh.value))
        wakes = [wake(client, asleep, poll) for _ in range(WAKES)]
        kept.wakes_ms, kept.woken = zip(*wakes, strict=True)
    yield Subject(kept)


def sleepers(stack: ExitStack, port: int) -> dict[int, socket.socket]:
    """`MANY_WORKERS` connections of workers that sleep, by their numbers."""
    asleep = {}
    for _ in range(MANY_WORKERS):
        worker = stack.enter_context(load.connect(port))
        worker.sendall(load.packet(load.CAN_DO, load.FUNCTION) + load.SLEEP_PACKET)
        asleep[worker.fileno()] = worker
    for worker in asleep.values():  # what was sent is carried out when the echo is there
        worker.sendall(load.packet(16, b"x"))
    for worker in asleep.values():
        load.received(worker)
    return asleep


def wake(
    client: socket.socket, asleep: dict[int, socket.socket], poll: select.epoll
) -> tuple[float, int]:
    """Submit a job, have it done and all asleep again; ms until a first one knew, and how many
    were woken."""
    started = time.perf_counter()
    client.sendall(load.packet(load.SUBMIT_BG, load.FUNCTION, b"", load.PAYLOAD))
    woken = [asleep[number] for number, _ in poll.poll(5.0)]
    elapsed_ms = (time.perf_counter() - started) * 1000
    load.received(client)
    time.sleep(CALM_S)
    for worker in woken:
        load.received(worker)
    others = [asleep[number] for number, _ in poll.poll(0.0, MANY_WORKERS)]
    for worker in others:
        load.received(worker)
    for worker in [*woken, *others]:
        worker.sendall(load.GRAB_PACKET)
        answer = load.read_packet(worker)
        if answer:
            done = load.packet(load.COMPLETE, answer.partition(b"\0")[0], b"")
            worker.sendall(done)
        worker.sendall(load.SLEEP_PACKET + load.packet(16, b"x"))
        load.received(worker)
    return elapsed_ms, len(woken) + len(others)


def of_each(unit: float) -> Load:
    """Memory of one, in `unit` bytes."""
    name = {1: "B", 1000: "kB"}[int(unit)]
    return Load("memory of each", name, lambda subject: subject.value.bytes_each / unit, "lower")


def stored(subject: Subject, **how: int) -> float:
    """Background submissions a second that were stored, each with a key of its own."""
    return load.background(subject.value, function=b"bg%d" % next(_keys), unique=True, **how)


def beside_large_payloads(subject: Subject, times: int) -> float:
    """99th percentile of an echo while payloads of 50 MB go to a worker and back, in ms."""
    return load.echo_beside_large_ms(subject.value, size=50_000_000, times=times)


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Stored jobs, queued jobs, sleeping workers, large payloads."""
    payloads = 3 if quick else 6
    c_version = version(C_DEFAULT)
    yield Comparison(
        "Background jobs that are stored (SQLite)",
        ours=ours(partial(running, OURS_STORED)),
        peer=Contender("gearmand -q libsqlite3", c_version, partial(running, C_STORED)),
        loads=[
            Load("1 client, one at a time", "jobs/s", partial(stored, window=1, jobs=200)),
            Load(
                "64 clients, one at a time each",
                "jobs/s",
                partial(stored, clients=64, window=1, jobs=1280),
            ),
            Load("1 client, 1,000 at once", "jobs/s", partial(stored, window=1000, jobs=2000)),
        ],
        goal="10 times the submissions",
        notes=["Each job has a key of its own, as gearmand's queue needs it."],
    )
    yield Comparison(
        f"{MANY_JOBS:,} queued background jobs",
        ours=ours(partial(many_jobs, OURS)),
        peer=Contender("gearmand, 4 threads", c_version, partial(many_jobs, C_DEFAULT)),
        loads=[of_each(1)],
        goal="under 350 B beyond the payload",
        notes=[f"Jobs of {len(load.PAYLOAD)} bytes without a key; measured once."],
    )
    yield Comparison(
        f"{MANY_WORKERS:,} sleeping workers",
        ours=ours(partial(many_workers, OURS)),
        peer=Contender("gearmand, 4 threads", c_version, partial(many_workers, C_MANY_FILES)),
        loads=[
            of_each(1000),
            Load(
                "longest of 20 times until one of them was awake",
                "ms",
                lambda subject: max(subject.value.wakes_ms),
                "lower",
            ),
            Load(
                "most workers that one job woke",
                "workers",
                lambda subject: max(subject.value.woken),
                "lower",
            ),
        ],
        goal="under 10 kB each, one awake within 2 ms, and only one",
        notes=["Measured once."],
    )
    yield Comparison(
        "Payloads of 50 MB",
        ours=ours(partial(running, OURS)),
        peer=Contender("gearmand, 4 threads", c_version, partial(running, C_DEFAULT)),
        loads=[
            Load(
                "99th percentile of an echo",
                "ms",
                partial(beside_large_payloads, times=payloads),
                "lower",
            )
        ],
        goal="large payloads block nobody",
        notes=[f"{payloads} payloads, one after the other, to a worker and back."],
    )

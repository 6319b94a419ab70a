"""The Gearman server beside Debian's gearmand (C: four threads, as it comes, and one) and Perl's.

One load generator for all (`bench._gearman_load`), over the raw protocol.  Nothing is bound to a
core: gearmand's threads may have what there is.  Where both cores are full, the generator's and
the workers' part of the work is as large as a fast server's.
"""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import psutil

import lj_services
from bench import _gearman_load as load
from bench.harness import Comparison, Contender, Load, Subject, free_port, wait_until_it_answers
from lj_services.daemon.listening import allow_open_files

TITLE = "Gearman server"

C_SERVER = "/usr/sbin/gearmand"
PERL_SERVER = "/usr/bin/gearmand"
LJ = str(Path(sys.executable).parent / "lj")
MANY_JOBS = 1_000_000
MANY_WORKERS = 18_000

_keys = itertools.count()


@contextmanager
def running(argv: Sequence[str]) -> Iterator[Subject]:
    """A server for the length of the block; PORT and FOLDER in `argv` are replaced."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        words = [word.replace("PORT", str(port)).replace("FOLDER", folder) for word in argv]
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            wait_until_it_answers(port)
            yield Subject(port, process.pid)
        finally:
            process.terminate()
            process.wait()


OURS = [LJ, "gearman", "serve", "--listen", "127.0.0.1:PORT", "--set", "max_connections=20000"]
C_DEFAULT = [C_SERVER, "-L", "127.0.0.1", "-p", "PORT", "-l", "none", "-P", "FOLDER/pid"]
C_ONE_THREAD = [*C_DEFAULT, "-t", "1"]
C_MANY_FILES = [*C_DEFAULT, "-f", "20000", "-b", "1024"]
PERL = ["perl", PERL_SERVER, "-L", "127.0.0.1", "-p", "PORT"]
OURS_STORED = [*OURS, "--set", "persist.writer='sqlite:///FOLDER/jobs.db'"]
C_STORED = [*C_DEFAULT, "-q", "libsqlite3", "--libsqlite3-db", "FOLDER/jobs.db"]


def foreground(subject: Subject, duration_s: float, **how: int) -> float:
    """Foreground jobs a second; see `load.foreground`."""
    return load.foreground(subject.value, duration_s=duration_s, **how)


def background(subject: Subject, *, jobs: int, **how: int | bool) -> float:
    """Background submissions a second, to a function that no run before has filled."""
    function = b"bg%d" % next(_keys)
    return load.background(subject.value, function=function, jobs=jobs, **how)  # type: ignore[arg-type]


def round_trip(subject: Subject, *, rate: Callable[[], float], duration_s: float) -> float:
    """99th percentile of a round trip at a rate that is known when it runs, in ms."""
    return load.round_trip_ms(subject.value, rate=rate(), duration_s=duration_s)


def memory_of_jobs(subject: Subject) -> float:
    """Bytes of memory beyond its payload that a queued background job takes; a fresh server."""
    with running(subject.value) as fresh:
        before = resident_bytes(fresh)
        load.background(fresh.value, jobs=MANY_JOBS)
        return (resident_bytes(fresh) - before) / MANY_JOBS - len(load.PAYLOAD)


@contextmanager
def not_started(argv: Sequence[str]) -> Iterator[Subject]:
    """What starts a server, for loads that need a fresh one each time."""
    yield Subject(argv)


def resident_bytes(subject: Subject) -> int:
    """Memory of a server."""
    size: int = psutil.Process(subject.pid).memory_info().rss
    return size


def sleepers(stack: ExitStack, port: int) -> list[socket.socket]:
    """`MANY_WORKERS` connections of workers that sleep."""
    asleep = []
    for _ in range(MANY_WORKERS):
        worker = stack.enter_context(load.connect(port))
        worker.sendall(load.packet(load.CAN_DO, load.FUNCTION) + load.SLEEP_PACKET)
        asleep.append(worker)
    for worker in asleep:  # what was sent is carried out when the echo is there
        worker.sendall(load.packet(16, b"x"))
    for worker in asleep:
        load.received(worker)
    return asleep


def memory_of_workers(subject: Subject) -> float:
    """Kilobytes of memory that a sleeping worker takes; a fresh server."""
    allow_open_files(MANY_WORKERS + 100)
    with running(subject.value) as fresh, ExitStack() as stack:
        before = resident_bytes(fresh)
        sleepers(stack, fresh.value)
        return (resident_bytes(fresh) - before) / MANY_WORKERS / 1000


def waking(subject: Subject) -> float:
    """Milliseconds from a submission to the moment at which a first of many sleepers knows."""
    allow_open_files(MANY_WORKERS + 100)
    with running(subject.value) as fresh, ExitStack() as stack:
        loop = stack.enter_context(closing(load.Loop()))
        woken: list[float] = []
        for worker in sleepers(stack, fresh.value):
            loop.add(worker, partial(_woken, worker, woken))
        client = stack.enter_context(load.connect(fresh.value))
        started = time.perf_counter()
        client.sendall(load.packet(load.SUBMIT_BG, load.FUNCTION, b"", load.PAYLOAD))
        while not woken:
            loop.once(5.0)
        return (woken[0] - started) * 1000


def _woken(worker: socket.socket, woken: list[float]) -> None:
    load.received(worker)
    woken.append(time.perf_counter())


def beside_large_payloads(subject: Subject) -> float:
    """99th percentile of an echo while payloads of 50 MB go to a worker and back, in ms."""
    with running(subject.value) as fresh:
        return load.echo_beside_large_ms(fresh.value, size=50_000_000, times=4)


def version(argv: Sequence[str]) -> str:
    """What a server answers to ``version``."""
    with running(argv) as subject:
        return load.ask(subject.value, b"version").decode().strip().removeprefix("OK ")


def foreground_loads(duration_s: float) -> list[Load]:
    """The ways in which foreground jobs come."""

    def case(name: str, **how: int) -> Load:
        return Load(name, "jobs/s", lambda subject: foreground(subject, duration_s, **how))

    return [
        case("1 in flight, 1 worker", in_flight=1, workers=1),
        case("32 in flight, 1 worker", in_flight=32, workers=1),
        case("32 in flight, 4 workers", in_flight=32, workers=4),
        case("256 in flight, 1 worker", in_flight=256, workers=1),
        case("256 in flight, 4 workers", in_flight=256, workers=4),
        case("64 clients, 1 in flight each, 4 workers", in_flight=1, workers=4, clients=64),
    ]


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Foreground, background, stored jobs, memory, waking and large payloads."""
    duration_s = 0.5 if quick else 1.0
    jobs = 50_000 if quick else 100_000
    ours = partial(Contender, "lj gearman serve", lj_services.__version__)
    c_version = version(C_DEFAULT)
    c_default = Contender("gearmand, 4 threads", c_version, partial(running, C_DEFAULT))
    submissions = Load("background submissions", "jobs/s", partial(background, jobs=jobs))
    half: list[float] = []

    def half_load() -> float:
        """Half of what gearmand can do, measured when the first run asks."""
        if not half:
            with running(C_DEFAULT) as subject:
                half.append(foreground(subject, 2.0, in_flight=1, workers=4, clients=64) / 2)
            print(f"  half load: {half[0]:,.0f} jobs/s", flush=True)
        return half[0]

    yield Comparison(
        "Beside gearmand as it comes",
        ours=ours(partial(running, OURS)),
        peer=c_default,
        loads=[
            *foreground_loads(duration_s),
            Load(
                "99th percentile at half load",
                "ms",
                partial(round_trip, rate=half_load, duration_s=duration_s),
                better="lower",
            ),
            submissions,
        ],
        goal="foreground jobs and the 99th percentile at least as good, a third of the submissions",
        notes=[
            "Half load: half of what gearmand does with 64 clients and 4 workers; round trips are "
            "counted from when a job was due.",
        ],
    )
    yield Comparison(
        "Beside gearmand with one thread",
        ours=ours(partial(running, OURS)),
        peer=Contender("gearmand -t 1", c_version, partial(running, C_ONE_THREAD)),
        loads=[*foreground_loads(duration_s), submissions],
        goal="0.8 of its foreground jobs, a third of the submissions",
    )
    yield Comparison(
        "Beside the Perl server",
        ours=ours(partial(running, OURS)),
        peer=Contender("Gearman::Server", version(PERL), partial(running, PERL)),
        loads=[*foreground_loads(duration_s), submissions],
        goal="2 times the submissions",
    )
    stored = partial(background, unique=True)
    yield Comparison(
        "Background jobs that are stored (SQLite)",
        ours=ours(partial(running, OURS_STORED)),
        peer=Contender("gearmand -q libsqlite3", c_version, partial(running, C_STORED)),
        loads=[
            Load("1 client, one at a time", "jobs/s", partial(stored, window=1, jobs=200)),
            Load(
                "64 clients, one at a time each",
                "jobs/s",
                partial(stored, clients=64, window=1, jobs=1000),
            ),
            Load("1 client, 1,000 at once", "jobs/s", partial(stored, window=1000, jobs=2000)),
        ],
        goal="10 times the submissions",
        notes=["Each job has a key of its own, as gearmand's queue needs it."],
    )
    yield Comparison(
        "What waits, and what is large",
        ours=ours(partial(not_started, OURS)),
        peer=Contender("gearmand, 4 threads", c_version, partial(not_started, C_MANY_FILES)),
        loads=[
            Load("memory of a queued job beyond its payload", "B", memory_of_jobs, "lower"),
            Load("memory of a sleeping worker", "kB", memory_of_workers, "lower"),
            Load("waking one of them", "ms", waking, "lower"),
            Load("echo beside payloads of 50 MB", "ms", beside_large_payloads, "lower"),
        ],
        goal="under 350 B, under 10 kB, under 2 ms; large payloads block nobody",
        notes=[
            f"{MANY_JOBS:,} jobs of {len(load.PAYLOAD)} bytes without a key; "
            f"{MANY_WORKERS:,} workers; each run on a fresh server.",
        ],
    )

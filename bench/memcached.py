"""The embedded memcached server beside memcached with one thread.

Two load generators, neither of which is the bottleneck (the CPU column shows
it).  memcaslap (of libmemcached-tools, in C) sends one request at a time on each
of 32 connections, and mixes gets and sets.  For pipelines and multi-gets, which
memcaslap can't send in this form, prepared batches go out over 4 connections,
and the replies are counted by their bytes: two system calls per batch.

The server is bound to one core and the generator to the others.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil

import lj_services
from bench.harness import Comparison, Contender, Load, Subject, free_port, wait_until_it_answers

TITLE = "Embedded memcached server"

CONNECTIONS = 32
PIPES = 4
BATCH = 100
VALUE = b"v" * 100
KEYS = [b"bench:key:%08d" % number for number in range(10_000)]
CORES = sorted(os.sched_getaffinity(0))


@contextmanager
def running(argv: Sequence[str]) -> Iterator[Subject]:
    """A server for the length of the block, on the first core; PORT in `argv` is replaced."""
    port = free_port()
    words = [word.replace("PORT", str(port)) for word in argv]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    try:
        psutil.Process(process.pid).cpu_affinity(CORES[:1])
        wait_until_it_answers(port)
        yield Subject(port, process.pid)
    finally:
        process.terminate()
        process.wait()


def memcaslap(subject: Subject, *, gets: float, value_size: int, duration_s: int) -> float:
    """Requests a second of memcaslap, with this share of gets."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "load.cnf"
        config.write_text(
            f"key\n20 20 1\nvalue\n{value_size} {value_size} 1\ncmd\n0 {1 - gets}\n1 {gets}\n"
        )
        words = ["-s", f"127.0.0.1:{subject.value}", "-T", "1", "-c", str(CONNECTIONS)]
        words += ["-t", f"{duration_s}s", "-F", str(config)]
        generator = ["taskset", "-c", ",".join(map(str, CORES[1:] or CORES))]
        done = subprocess.run(
            [*generator, "memcaslap", *words], capture_output=True, text=True, check=True
        )
    match = re.search(r"TPS: (\d+)", done.stdout)
    if match is None:
        raise RuntimeError(f"memcaslap gave no figure:\n{done.stdout}{done.stderr}")
    return float(match[1])


def batches(
    subject: Subject, *, make: Callable[[list[bytes]], tuple[bytes, int]], duration_s: float
) -> float:
    """Keys a second of prepared batches; `make` gives a batch's bytes and its reply's length."""
    os.sched_setaffinity(0, CORES[1:] or CORES)
    pipes = [socket.create_connection(("127.0.0.1", subject.value), 10) for _ in range(PIPES)]
    try:
        for pipe in pipes:
            pipe.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for key in KEYS:
            pipes[0].sendall(b"set %b 0 0 %d\r\n%b\r\n" % (key, len(VALUE), VALUE))
            _read(pipes[0], len(b"STORED\r\n"))
        prepared = [make(KEYS[start : start + BATCH]) for start in range(0, len(KEYS), BATCH)]
        sent = 0
        started = time.perf_counter()
        for pipe in pipes:
            pipe.sendall(prepared[0][0])
        # Each pipe has one batch on its way while the replies of the others are read.
        expected = [prepared[0][1]] * PIPES
        while (elapsed_s := time.perf_counter() - started) < duration_s:
            for number, pipe in enumerate(pipes):
                _read(pipe, expected[number])
                batch, expected[number] = prepared[sent % len(prepared)]
                pipe.sendall(batch)
                sent += 1
        return sent * BATCH / elapsed_s
    finally:
        for pipe in pipes:
            pipe.close()
        os.sched_setaffinity(0, CORES)


_BUFFER = bytearray(1 << 20)


def _read(pipe: socket.socket, size: int) -> None:
    while size > 0:
        received = pipe.recv_into(_BUFFER, min(size, len(_BUFFER)))
        if not received:
            raise ConnectionError("the server closed the connection")
        size -= received


def _reply(keys: list[bytes]) -> int:
    """Length of the values of `keys` in a reply, without END."""
    lines = (b"VALUE %b 0 %d\r\n%b\r\n" % (key, len(VALUE), VALUE) for key in keys)
    return sum(map(len, lines))


def multi_get(keys: list[bytes]) -> tuple[bytes, int]:
    """All keys in one get."""
    return b"get " + b" ".join(keys) + b"\r\n", _reply(keys) + len(b"END\r\n")


def pipelined_gets(keys: list[bytes]) -> tuple[bytes, int]:
    """A get for each key, sent at once."""
    batch = b"".join(b"get %b\r\n" % key for key in keys)
    return batch, _reply(keys) + len(keys) * len(b"END\r\n")


def pipelined_sets(keys: list[bytes]) -> tuple[bytes, int]:
    """A set for each key, sent at once."""
    lines = (b"set %b 0 0 %d\r\n%b\r\n" % (key, len(VALUE), VALUE) for key in keys)
    return b"".join(lines), len(keys) * len(b"STORED\r\n")


def memcached_version() -> str:
    """The version of the memcached on this machine."""
    done = subprocess.run(["memcached", "-V"], capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Gets, sets, multi-gets and pipelines."""
    duration_s = 2 if quick else 5
    slap = partial(partial, memcaslap, duration_s=duration_s)
    pipe = partial(partial, batches, duration_s=duration_s)
    lj = str(Path(sys.executable).parent / "lj")
    ours = [lj, "memcached", "serve", "--listen", "127.0.0.1:PORT", "--set", "memory_limit=512m"]
    peer = ["memcached", "-u", "root", "-l", "127.0.0.1", "-p", "PORT", "-t", "1", "-m", "512"]
    uvloop = importlib.metadata.version("uvloop")
    yield Comparison(
        "Requests a second, one server thread",
        ours=Contender(
            "lj memcached serve",
            f"{lj_services.__version__} (uvloop {uvloop})",
            partial(running, ours),
        ),
        peer=Contender("memcached -t 1", memcached_version(), partial(running, peer)),
        loads=[
            Load("90 % get, 10 % set, 100 B", "requests/s", slap(gets=0.9, value_size=100)),
            Load("50 % get, 50 % set, 100 B", "requests/s", slap(gets=0.5, value_size=100)),
            Load("90 % get, 10 % set, 4 KiB", "requests/s", slap(gets=0.9, value_size=4096)),
            Load("multi-get of 100 keys", "keys/s", pipe(make=multi_get)),
            Load("pipelines of 100 gets", "requests/s", pipe(make=pipelined_gets)),
            Load("pipelines of 100 sets", "requests/s", pipe(make=pipelined_sets)),
        ],
        goal="at least half of the peer's requests a second",
        notes=[
            f"First three: memcaslap, {CONNECTIONS} connections, one request at a time on each.",
            f"Last three: prepared batches of {BATCH} over {PIPES} connections.",
            "The sets of a batch have flags, exptime and size in common. Timed in one process, "
            "without sockets, such a set takes 0.6 µs, and one unlike those around it 1.1 µs.",
        ],
    )

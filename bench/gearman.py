"""The Gearman server beside Debian's gearmand (C: four threads, as it comes, and one) and Perl's.

One load generator for all (`bench._gearman_load`), over the raw protocol.  Nothing is bound to a
core: gearmand's threads may have what there is.  Where both cores are full, the generator's and
the workers' part of the work is as large as a fast server's.  What waits, and what is large, is
measured in `bench.gearman_waiting`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial

from bench import _gearman_load as load
from bench._gearman_servers import C_DEFAULT, C_ONE_THREAD, OURS, PERL, ours, running, version
from bench.harness import Comparison, Contender, Load, Subject

TITLE = "Gearman server"
ROUNDS = 3

_keys = itertools.count()


def foreground(subject: Subject, duration_s: float, **how: int) -> float:
    """Foreground jobs a second; see `load.foreground`."""
    return load.foreground(subject.value, duration_s=duration_s, **how)


def background(subject: Subject, *, jobs: int) -> float:
    """Background submissions a second, to a function that no run before has filled."""
    return load.background(subject.value, function=b"bg%d" % next(_keys), jobs=jobs)


def round_trip(subject: Subject, *, rate: Callable[[], float], duration_s: float) -> float:
    """99th percentile of a round trip at a rate that is known when it runs, in ms."""
    return load.round_trip_ms(subject.value, rate=rate(), duration_s=duration_s)


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
    """Foreground jobs and background submissions, beside each of the others."""
    duration_s = 0.3 if quick else 0.6
    c_version = version(C_DEFAULT)
    half: list[float] = []

    def half_load() -> float:
        """Half of what gearmand can do, measured when the first run asks."""
        if not half:
            with running(C_DEFAULT) as subject:
                half.append(foreground(subject, 1.0, in_flight=1, workers=4, clients=64) / 2)
            print(f"  half load: {half[0]:,.0f} jobs/s", flush=True)
        return half[0]

    def submissions(jobs: int) -> Load:
        return Load("background submissions", "jobs/s", partial(background, jobs=jobs))

    yield Comparison(
        "Beside gearmand as it comes",
        ours=ours(partial(running, OURS)),
        peer=Contender("gearmand, 4 threads", c_version, partial(running, C_DEFAULT)),
        loads=[
            *foreground_loads(duration_s),
            Load(
                "99th percentile at half load",
                "ms",
                partial(round_trip, rate=half_load, duration_s=1.0),
                better="lower",
            ),
            submissions(100_000),
        ],
        goal="foreground jobs and the 99th percentile at least as good, a third of the submissions",
        notes=[
            "Half load: half of what gearmand does with 64 clients and 4 workers; round trips are "
            "counted from when a job was due.",
            "One in flight is where each step waits for the one before it, and a step takes Python "
            "longer. Of system calls there is little left to save: strace counts 12 for a job (5 "
            "writes, 4 reads, 3 waits, which is what the protocol asks for when the worker sleeps "
            "between jobs), and about 50 of gearmand's threads. A worker that sleeps is woken "
            "before the client is answered, so that one step less is waited for.",
            "The 99th percentile varies with what else the machine does. An earlier run on "
            "2026-11-26, before workers were woken first, had 1.17 ms beside gearmand's 1.61 ms.",
        ],
    )
    yield Comparison(
        "Beside gearmand with one thread",
        ours=ours(partial(running, OURS)),
        peer=Contender("gearmand -t 1", c_version, partial(running, C_ONE_THREAD)),
        loads=[*foreground_loads(duration_s), submissions(100_000)],
        goal="0.8 of its foreground jobs, a third of the submissions",
    )
    yield Comparison(
        "Beside the Perl server",
        ours=ours(partial(running, OURS)),
        peer=Contender("Gearman::Server", version(PERL), partial(running, PERL)),
        loads=[*foreground_loads(duration_s), submissions(30_000)],
        goal="2 times the submissions",
    )

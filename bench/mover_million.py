"""Moving the biggest users: the pause at a million rows, a worker's memory at five millions.

Memory is the worker process's resident set, looked at five times a second from before the move
until after the cut-over; the user is written to all the time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import lj_services
from bench._movers import Bench, Steady, site, wait_until_switched, workers
from bench.harness import Comparison, Contender, Load, Subject
from bench.mover import pause_of
from tests.support import moving

TITLE = "Moving users: a million rows"
ROUNDS = 3
MOST_ROWS = 5_000_000
LOOK_EVERY_S = 0.2


def memory(subject: Subject, rows: int) -> float:
    """The most memory that a worker took for one move, in MB; measured once."""
    bench: Bench = subject.value
    if rows not in bench.memory:
        bench.memory[rows] = _most_memory(bench, rows)
    return bench.memory[rows]


def _most_memory(bench: Bench, rows: int) -> float:
    userid = bench.user_of(rows)
    writer = Steady(bench, userid)
    over = threading.Event()
    most = 0

    with workers(bench, 1, grace_s=3600.0) as (process,):

        def watch() -> None:
            nonlocal most
            while not over.wait(LOOK_EVERY_S):
                most = max(most, process.memory_info().rss)

        watching = threading.Thread(target=watch)
        watching.start()
        writer.start()
        bench.worker.moves.enqueue(userid, 2)
        wait_until_switched(bench, bench.moved + 1)
        bench.moved += 1
        over.set()
        watching.join()
        writer.stop()
    assert moving.home(bench.databases, userid) == 2
    return most / 2**20


def comparisons(quick: bool) -> Iterator[Comparison]:
    """The pause; memory."""
    yield pause_of({100_000 if quick else 1_000_000: 1})
    rows = 200_000 if quick else MOST_ROWS
    yield Comparison(
        "Memory of a worker",
        ours=Contender("lj mover worker", lj_services.__version__, site),
        loads=[Load(f"{rows:,} rows", "MB", partial(memory, rows=rows), "lower")],
        goal="under 150 MB",
    )

"""Moving users: how long their writes are held, at any size.

The pause is measured on a user who is written to 200 times a second by another process, as the
mover sees it (from the freeze's first statement to the tombstone) and as the writer does (the
longest time from the beginning of a write to its commit, during the whole move).  The user moves
to and fro; all the time between is left out of neither.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

import lj_services
from bench._movers import WRITES_A_SECOND, Bench, Steady, beside_what, site
from bench.harness import Comparison, Contender, Load, Subject

TITLE = "Moving users: the pause"
ROUNDS = 3
SIZES = {1_000: 20, 100_000: 2}
"""Rows of the user -> moves in a round."""


def pauses(subject: Subject, rows: int, moves: int) -> float:
    """Move under writes; the median time under the fence, in milliseconds."""
    bench: Bench = subject.value
    userid = bench.user_of(rows)
    if rows not in bench.writers:
        bench.writers[rows] = Steady(bench, userid)
    writer = bench.writers[rows]
    held = []
    for _ in range(moves):
        writer.start()
        time.sleep(0.1)
        moved = bench.move(userid)
        time.sleep(0.05)
        bench.gaps[rows].append(writer.stop() * 1000)
        held.append((bench.worker.moves.get(moved.move_id).freeze_us or 0) / 1000)
        bench.purge(moved)
    bench.held[rows] += held
    return statistics.median(held)


def p99(subject: Subject, rows: int) -> float:
    """The 99th percentile of all pauses so far, in milliseconds."""
    bench: Bench = subject.value
    held = sorted(bench.held[rows])
    return held[min(len(held) - 1, round(len(held) * 0.99))]


def gap(subject: Subject, rows: int) -> float:
    """The median over all moves so far of the longest write, in milliseconds."""
    bench: Bench = subject.value
    return statistics.median(bench.gaps[rows])


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Pauses by size."""
    yield pause_of({rows: min(moves, 3) for rows, moves in SIZES.items()} if quick else SIZES)


def pause_of(
    sizes: dict[int, int], start: Callable[[], AbstractContextManager[Subject]] = site
) -> Comparison:
    """How long users of some sizes are held; rows -> moves in a round, between what was started."""
    loads = []
    for rows, moves in sizes.items():
        size = f"{rows:,} rows"
        loads += [
            Load(f"{size}: held, median", "ms", partial(pauses, rows=rows, moves=moves), "lower"),
            Load(f"{size}: held, 99 %", "ms", partial(p99, rows=rows), "lower"),
            Load(f"{size}: longest write, median", "ms", partial(gap, rows=rows), "lower"),
        ]
    return Comparison(
        f"How long a user's writes are held, under {WRITES_A_SECOND} writes a second",
        ours=Contender("lj users move", lj_services.__version__, start),
        loads=loads,
        goal="median under 20 ms, 99 % under 50 ms, whatever the size",
        notes=[
            "held: from the freeze's first statement to the tombstone, as the mover measures it",
            "longest write: the slowest single write of the whole move, waiting included",
            beside_what(),
        ],
    )

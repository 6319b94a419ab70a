"""Where a run writes: for each thread an endless sequence of batches.

A batch is some blocks to write and one sync after them.  Every block belongs to one
thread, which writes it in order: so the record knows for every block which of two
writes was the later one, however the threads interleave.

- ``overwrite``: random blocks, as diskchecker.pl.  ``depth`` blocks a sync.
- ``append``: one block behind the other, as a log; the file grows, and begins again at
  its end.  Acknowledged blocks prove the file's length.
- ``innodb``: a database's pattern in one target: an eighth is the log, whose commits
  share syncs (group commit); a part is the doublewrite buffer; the rest are pages, which
  go to the doublewrite buffer, are synced there, and then go in place.
- ``rename``: a folder of slots; a slot is replaced by writing a new file, syncing it,
  renaming it over the old one, and syncing the folder.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from disk_checker.plan import Plan

_FLUSH_PAGES = 8
_COMMITS = 8
_FILL_BYTES = 4 << 20
_FILL_BLOCKS = 1024


class Batch(NamedTuple):
    """Blocks to write, then one sync: the thread's own, or one that commits share."""

    blocks: list[int]
    group: bool = False


def batches(plan: Plan, thread: int, seed: int) -> Iterator[Batch]:
    """The work of one thread, endless.

    :param thread: 0 .. plan.threads - 1.
    :param seed: makes the random choices repeatable.
    """
    rng = random.Random(f"{seed}/{thread}")  # noqa: S311 - repeatable choices
    work = {
        "overwrite": _overwrite,
        "rename": _overwrite,
        "append": _append,
        "innodb": _innodb,
    }[plan.workload](plan, thread, rng)
    return chain(_fill(plan, thread), work) if plan.filled else work


def _own(first: int, end: int, thread: int, threads: int) -> range:
    """This thread's blocks of a region; the same ones whatever the region."""
    return range(first + (thread - first) % threads, end, threads)


def _fill(plan: Plan, thread: int) -> Iterator[Batch]:
    """Every block once, in stripes that keep the disk's head still."""
    stripe = _stripe(plan)
    own = _own(0, plan.blocks, thread, plan.threads)
    for at in range(0, len(own), stripe):
        yield Batch(list(own[at : at + stripe]))


def _stripe(plan: Plan) -> int:
    # With O_DSYNC each write syncs by itself: a stripe would only delay its acknowledgement.
    return 1 if plan.sync == "dsync" else max(1, min(_FILL_BLOCKS, _FILL_BYTES // plan.block_size))


def largest_batch(plan: Plan) -> int:
    """Writes of one thread that are further apart than this are in different batches."""
    most = _FLUSH_PAGES if plan.workload == "innodb" else plan.depth
    return max(most, _stripe(plan)) if plan.filled else most


def _overwrite(plan: Plan, thread: int, rng: random.Random) -> Iterator[Batch]:
    own = _own(0, plan.blocks, thread, plan.threads)
    count, depth, pick = len(own), min(plan.depth, len(own)), rng.random
    if depth == 1:
        while True:
            yield Batch([own[int(pick() * count)]])
    while True:
        yield Batch([own[index] for index in rng.sample(range(count), depth)])


def _append(plan: Plan, thread: int, _rng: random.Random) -> Iterator[Batch]:
    own = _own(0, plan.blocks, thread, plan.threads)
    while True:
        for at in range(0, len(own), plan.depth):
            yield Batch(list(own[at : at + plan.depth]))


def _innodb(plan: Plan, thread: int, rng: random.Random) -> Iterator[Batch]:
    blocks, threads = plan.blocks, plan.threads
    log_end = max(threads, blocks // 8)
    pages = max(1, min(_FLUSH_PAGES, blocks // 8 // threads))
    double_end = log_end + pages * threads
    log = _own(0, log_end, thread, threads)
    double = list(_own(log_end, double_end, thread, threads))
    data = _own(double_end, blocks, thread, threads)
    at = 0
    while True:
        for _ in range(_COMMITS):
            yield Batch([log[at % len(log)]], group=True)
            at += 1
        chosen = rng.sample(data, min(pages, len(data)))
        yield Batch(double[: len(chosen)])
        yield Batch(chosen)

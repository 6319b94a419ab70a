"""When a write counts, and when the writer stops."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from itertools import islice

import pytest

from disk_checker.errors import ListenerGone
from disk_checker.plan import Plan
from disk_checker.workloads import batches
from disk_checker.writer import GroupSync, Writer
from tests.support.liar_disk import LiarDisk
from tests.support.memory_run import MemoryHandle, MemoryLine, make_plan

pytestmark = pytest.mark.unit


class BrokenLine(MemoryLine):
    """A listener that goes away after so many grants."""

    grants = 3

    def wait_granted(self, seq: int) -> None:
        self.grants -= 1
        if self.grants < 0:
            self.fault = ListenerGone("gone")
            raise self.fault


@pytest.mark.parametrize("threads", [1, 4])
def test_without_the_listener_nothing_more_is_written(threads: int) -> None:
    plan = make_plan(threads=threads)
    disk = LiarDisk(plan.size)
    line = BrokenLine(1 << 40, disk)
    writer = Writer(plan, line, lambda: MemoryHandle(disk, plan.block_size))
    writer.start()
    writer.join()
    assert isinstance(line.fault, ListenerGone)
    assert not writer.alive


def test_one_sync_serves_all_who_asked_before_it_began() -> None:
    syncs = []
    gate = threading.Event()

    def sync() -> None:
        syncs.append(1)
        gate.wait(5)

    group = GroupSync(sync)
    threads = [threading.Thread(target=group) for _ in range(8)]
    threads[0].start()
    while not syncs:
        time.sleep(0.001)
    for thread in threads[1:]:
        thread.start()
    time.sleep(0.05)
    gate.set()
    for thread in threads:
        thread.join()
    assert len(syncs) == 2, "the first caller's, and one for the seven who came meanwhile"


def test_an_error_of_a_shared_sync_reaches_all_who_waited() -> None:
    def sync() -> None:
        raise OSError(errno.EIO, "no")

    group, failures = GroupSync(sync), []

    def call() -> None:
        try:
            group()
        except OSError as error:
            failures.append(error.errno)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [errno.EIO] * 4


def written(plan: Plan) -> Iterator[tuple[int, int]]:
    for thread in range(plan.threads):
        for batch in islice(batches(plan, thread, 1), 400):
            for block in batch.blocks:
                yield thread, block


@pytest.mark.parametrize("workload", ["overwrite", "append", "innodb", "rename"])
@pytest.mark.parametrize("filled", [False, True])
def test_every_block_belongs_to_one_thread(workload: str, filled: bool) -> None:
    plan = make_plan(workload=workload, threads=5, depth=3, filled=filled)
    owners: dict[int, set[int]] = {}
    for thread, block in written(plan):
        assert 0 <= block < plan.blocks
        owners.setdefault(block, set()).add(thread)
    assert all(len(threads) == 1 for threads in owners.values())
    if filled:
        assert len(owners) == plan.blocks


def test_a_database_writes_twice_before_in_place_and_shares_its_log_syncs() -> None:
    work = list(islice(batches(make_plan(workload="innodb"), 0, 1), 10))
    assert [batch.group for batch in work] == [True] * 8 + [False] * 2
    double, pages = work[8].blocks, work[9].blocks
    assert len(double) == len(pages) == 8
    assert max(double) < min(pages)
    assert max(block for batch in work[:8] for block in batch.blocks) < min(double)

"""When a write counts, and when the writer stops."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

from disk_checker.answers import ACKED
from disk_checker.classify import judge_block
from disk_checker.errors import ListenerGone
from disk_checker.groupsync import GroupSync
from disk_checker.lane import Lane, encode_answer
from disk_checker.plan import Plan
from disk_checker.protocol import FrameReader, Kind, decode_done, decode_intents
from disk_checker.stamp import Stamper
from disk_checker.target import FileHandle
from disk_checker.worker import Forked, Task, Threaded, Worker
from disk_checker.workloads import batches
from disk_checker.writer import Writer
from tests.support.liar_disk import LiarDisk
from tests.support.memory_run import MemoryHandle, MemoryLine, make_plan
from tests.support.process import wait_for

pytestmark = pytest.mark.unit


class BrokenLine(MemoryLine):
    """A listener that goes away after so many grants."""

    grants = 3

    def intend(self, blocks: list[int]) -> int:
        self.grants -= 1
        if self.grants < 0:
            self.fault = ListenerGone("gone")
        return super().intend(blocks)


class CountingHandle(MemoryHandle):
    """Says which writes were made, and fails one sync."""

    def __init__(self, disk: LiarDisk, fail_at: int = 0) -> None:
        super().__init__(disk, 4096)
        self.writes = 0
        self.syncs = 0
        self._fail_at = fail_at

    def write(self, block: int, buffer: memoryview) -> None:
        self.writes += 1
        super().write(block, buffer)

    def sync(self) -> None:
        self.syncs += 1
        if self.syncs == self._fail_at:
            raise OSError(errno.EIO, "no")
        super().sync()


def acked(line: MemoryLine) -> list[int]:
    """The writes that were acknowledged, in the order in which the listener heard it."""
    found: list[int] = []
    for frame in FrameReader().feed(b"".join(line.frames)):
        if frame.kind is Kind.DONE:
            found += decode_done(frame)[::2]
    return found


@pytest.mark.parametrize("threads", [1, 4])
def test_without_the_listener_nothing_more_is_written(threads: int) -> None:
    plan = make_plan(threads=threads)
    disk = LiarDisk(plan.size)
    line = BrokenLine(1 << 40, disk)
    writer = Writer(
        plan, line, lambda _number: MemoryHandle(disk, plan.block_size), launch=Threaded
    )
    writer.run()
    assert isinstance(line.fault, ListenerGone)
    assert writer.stopped
    assert writer.progress.acked == len(acked(line)) <= line.granted


@pytest.mark.parametrize("launch", [Forked, Threaded])
def test_the_last_writes_of_a_stopped_run_are_there_and_acknowledged(
    tmp_path: Path, launch: Callable[[Worker, Lane], Task]
) -> None:
    path = tmp_path / "target"
    path.write_bytes(bytes(1 << 20))
    plan = make_plan(threads=3, depth=2, workload="append", target=str(path), kind="file")
    line = MemoryLine(1 << 40, LiarDisk(0))
    writer = Writer(plan, line, lambda _number: FileHandle(path, plan), launch=launch)

    def enough() -> None:
        if writer.progress.acked > 30:
            writer.stop()

    writer.run(enough)
    assert writer.progress.errors == []
    stamper = Stamper(line.run, plan.block_size)
    data = path.read_bytes()
    seqs = acked(line)
    assert len(seqs) == len(set(seqs)) == writer.progress.acked
    blocks: dict[int, int] = {}
    for frame in FrameReader().feed(b"".join(line.frames)):
        if frame.kind is Kind.INTENTS:
            first, announced = decode_intents(frame)
            blocks.update(enumerate(announced, first))
    newest = {blocks[seq]: seq for seq in sorted(seqs)}
    for block, seq in newest.items():
        at = block * plan.block_size
        assert judge_block(stamper, block, data[at : at + plan.block_size], seq, 0, None) is None


def test_a_batch_larger_than_its_slots_goes_in_pieces_and_is_acknowledged_at_once() -> None:
    plan = make_plan(threads=1, depth=200, size=8 << 20)
    disk = LiarDisk(plan.size)
    line = MemoryLine(1 << 40, disk)
    handle = CountingHandle(disk)
    writer = Writer(plan, line, lambda _number: handle, read_back=0, launch=Threaded)
    writer.run(lambda: writer.stop() if writer.progress.acked >= 600 else None)
    assert writer.progress.acked % 200 == 0
    assert handle.syncs * 200 in (writer.progress.acked, writer.progress.acked + 200)


@pytest.mark.parametrize("depth", [1, 3, 200])
@pytest.mark.parametrize("go_on", [False, True])
def test_a_batch_whose_sync_failed_is_never_acknowledged(depth: int, go_on: bool) -> None:
    plan = make_plan(threads=1, depth=depth, size=8 << 20)
    disk = LiarDisk(plan.size)
    line = MemoryLine(1 << 40, disk)
    handle = CountingHandle(disk, fail_at=5)
    writer = Writer(plan, line, lambda _number: handle, read_back=0, go_on=go_on, launch=Threaded)
    writer.run(lambda: writer.stop() if writer.progress.acked >= 10 * depth else None)
    failed = set(range(4 * depth + 1, 5 * depth + 1))
    assert not failed & set(acked(line))
    assert set(range(1, 4 * depth + 1)) <= set(acked(line))
    assert (max(acked(line)) > max(failed)) is go_on
    assert len(writer.progress.errors) == 1


def test_a_worker_that_dies_ends_the_run_and_is_told(tmp_path: Path) -> None:
    path = tmp_path / "target"
    path.write_bytes(bytes(1 << 20))
    plan = make_plan(threads=2, workload="innodb", target=str(path), kind="file")
    line = MemoryLine(1 << 40, LiarDisk(0))

    def open_or_die(number: int) -> FileHandle:
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return FileHandle(path, plan)

    writer = Writer(plan, line, open_or_die)
    writer.run()
    assert writer.progress.errors == ["a writing process ended with -9"]


def test_one_sync_serves_all_who_asked_before_it_began() -> None:
    syncs = []
    gate = threading.Event()

    def sync() -> None:
        syncs.append(1)
        gate.wait(5)

    group = GroupSync()
    threads = [threading.Thread(target=group, args=(sync,)) for _ in range(8)]
    threads[0].start()
    while not syncs:
        time.sleep(0.001)
    for thread in threads[1:]:
        thread.start()
    wait_for(lambda: group.waiting == 7, "seven to wait")
    gate.set()
    for thread in threads:
        thread.join()
    assert len(syncs) == 2, "the first caller's, and one for the seven who came meanwhile"


def test_an_error_of_a_shared_sync_reaches_all_whom_it_may_concern() -> None:
    """Also those who asked while it ran: the next sync succeeds, and proves nothing."""
    begun, gate = threading.Event(), threading.Event()
    syncs: list[int] = []

    def sync() -> None:
        syncs.append(1)
        if len(syncs) == 1:
            begun.set()
            gate.wait(5)
            raise OSError(errno.EIO, "no")

    group, failures = GroupSync(), []

    def call() -> None:
        try:
            group(sync)
        except OSError as error:
            failures.append(error.errno)

    threads = [threading.Thread(target=call) for _ in range(4)]
    threads[0].start()
    begun.wait(5)
    for thread in threads[1:]:
        thread.start()
    wait_for(lambda: group.waiting == 3, "three to wait")
    gate.set()
    for thread in threads:
        thread.join()
    assert failures == [errno.EIO] * 4
    assert len(syncs) == 2
    call()
    assert len(failures) == 4, "who asks later begins anew"


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


def test_a_stall_of_the_disk_leaves_the_lane_deep(tmp_path: Path) -> None:
    """What waited while the disk stalled says nothing about how much should be ahead."""
    plan = make_plan(block_size=512, size=1 << 20)
    lane = Lane(Stamper(5, 512), 1)
    try:
        lane.plan(1, list(islice(batches(plan, 0, 1), 1000)))

        def answer(now_us: int) -> int:
            """The worker does all that it was given; how much that was."""
            words = array("Q", os.read(lane.worker_commands, 1 << 16))
            for first in words[::3]:
                os.write(lane.worker_answers, encode_answer(ACKED, 1, first, now_us).tobytes())
            return len(list(lane.collect(now_us)))

        for _ in range(10):  # the worker was kept waiting: more each time
            lane.feed(1000, 0)
            deepest = answer(1000)
        assert deepest == lane.slots.count
        lane.feed(1000, 1000)
        assert answer(10_000_000) == deepest
        lane.feed(1000, 10_000_000)
        assert answer(10_001_000) >= deepest // 2
    finally:
        lane.close()
        os.close(lane.worker_commands)
        os.close(lane.worker_answers)

"""What a chain acknowledges, with a queue whose failures are ours to choose."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from disk_checker import aio
from disk_checker.aio import Queue
from disk_checker.answers import ACKED, FAILED, TOLD, Answer
from disk_checker.chain import Chain, can_chain
from disk_checker.classify import judge_block
from disk_checker.plan import Plan
from disk_checker.stamp import Stamper
from disk_checker.target import FileHandle
from disk_checker.workloads import Batch, batches
from disk_checker.writer import Writer
from tests.support.liar_disk import LiarDisk
from tests.support.memory_run import MemoryLine, make_plan

pytestmark = pytest.mark.unit

RUN = 7
OK = 1 << 30
"""No failure: more operations than there ever are."""


class OwnQueue:
    """Does what the C library does, when the test says so.

    ``fail`` is the operation that fails with ``result``, counted from the first; the others go
    on.  What was queued is done when results are asked for, ``at_once`` operations of it.
    """

    def __init__(self, file: int, fail: int = OK, result: int = -errno.EIO) -> None:
        self.file, self.fail, self.result = file, fail, result
        self.at_once = OK
        self.names: list[str] = []
        self._queued: list[tuple[int, Callable[[], int]]] = []
        self._cancelled = 0

    @property
    def pending(self) -> int:
        return len(self._queued)

    def _push(self, name: str, act: Callable[[], int]) -> None:
        self._queued.append((len(self.names), act))
        self.names.append(name)

    def write(self, offset: int, address: int, size: int) -> None:
        data = ctypes.string_at(address, size)
        self._push("write", lambda: os.pwrite(self.file, data, offset))

    def read(self, offset: int, address: int, size: int) -> None:
        memory = (ctypes.c_char * size).from_address(address)
        self._push("read", lambda: os.preadv(self.file, [memory], offset))

    def sync(self, *, data_only: bool = False) -> None:
        self._push("fdatasync" if data_only else "fsync", lambda: 0)

    def results(self) -> list[int]:
        ended, self._queued = self._queued[: self.at_once], self._queued[self.at_once :]
        return [
            -errno.ECANCELED
            if number < self._cancelled
            else self.result
            if number == self.fail
            else act()
            for number, act in ended
        ]

    def cancel(self) -> None:
        self._cancelled = len(self.names)

    def close(self) -> None: ...


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.write_bytes(bytes(1 << 20))
    return path


class Own(NamedTuple):
    """A chain and its two queues."""

    chain: Chain
    queue: OwnQueue
    reads: OwnQueue

    def run(self, rounds: int, took_us: int = 1000) -> list[Answer]:
        return list(drive(self.chain, rounds, took_us))


def make(target: Path, fail: int = OK, result: int = -errno.EIO, **options: Any) -> Own:
    names = {name: options.pop(name) for name in ("read_back", "go_on") if name in options}
    plan = make_plan(target=str(target), kind="file", **options)
    stamper = Stamper(RUN, plan.block_size)
    handle = FileHandle(target, plan)
    queue, reads = OwnQueue(handle.file, fail, result), OwnQueue(handle.reader)
    chain = Chain(cast("Queue", queue), cast("Queue", reads), plan, stamper, handle, **names)
    chain.plan(1, [Batch([n % plan.blocks]) for n in range(4000)])
    return Own(chain, queue, reads)


def drive(chain: Chain, rounds: int, took_us: int = 1000) -> Iterator[Answer]:
    for number in range(rounds):
        chain.feed(10_000, number * took_us)
        yield from chain.collect((number + 1) * took_us)


def seqs(answers: list[Answer], kind: int = ACKED) -> list[int]:
    return [
        seq
        for answer in answers
        if answer.kind == kind
        for seq in range(answer.seq, answer.seq + answer.count)
    ]


def test_each_batch_is_acknowledged_for_its_own_sync(target: Path) -> None:
    own = make(target)
    acked = seqs(own.run(4))
    assert acked == list(range(1, len(acked) + 1))
    assert len(acked) > 6
    assert own.queue.names == ["write", "fsync"] * len(acked)
    data = target.read_bytes()
    for seq in acked:
        block = data[(seq - 1) * 4096 : seq * 4096]
        assert judge_block(Stamper(RUN, 4096), seq - 1, block, seq, 0, None) is None
    own.chain.close()


def test_nothing_is_acknowledged_before_its_sync_has_ended(target: Path) -> None:
    own = make(target)
    own.queue.at_once = 3
    assert seqs(own.run(1)) == [1]  # write, sync, and the next write
    own.queue.at_once = 1
    assert seqs(list(own.chain.collect(1))) == [2]
    own.chain.close()


@pytest.mark.parametrize(("sync", "ends"), [("fdatasync", ["fdatasync"]), ("dsync", [])])
def test_a_batch_is_its_writes_and_then_its_way_of_syncing(
    target: Path, sync: str, ends: list[str]
) -> None:
    own = make(target, sync=sync, depth=3)
    own.chain._todo.clear()
    own.chain.plan(1, [Batch([4, 5, 6])])
    assert seqs(own.run(2)) == [1, 2, 3]
    assert own.queue.names == ["write"] * 3 + ends
    own.chain.close()


@pytest.mark.parametrize("go_on", [False, True])
@pytest.mark.parametrize("fail", [4, 5])
def test_what_failed_and_what_stood_behind_it_is_not_acknowledged(
    target: Path, fail: int, go_on: bool
) -> None:
    """4 is the third write, 5 its sync; the second round begins with it and has four writes."""
    own = make(target, fail, go_on=go_on)
    answers = own.run(6)
    failed = [answer for answer in answers if answer.kind == FAILED]
    assert [answer.seq for answer in failed] == [3]
    note = failed[0].note
    assert note is not None
    assert note["error"] == "EIO"
    assert note["operation"] == ("write" if fail == 4 else "fsync")
    assert note.get("second_sync") == (None if fail == 4 else "ok")
    acked = seqs(answers)
    assert acked[:2] == [1, 2]
    # The C library had done these before the error was seen.
    assert not {3, 4, 5, 6} & set(acked)
    assert (7 in acked) is go_on
    assert own.chain.ended is not go_on
    own.chain.close()


def test_what_had_not_begun_when_the_error_was_seen_never_begins(target: Path) -> None:
    own = make(target, fail=5, go_on=True)
    own.run(1)
    own.queue.at_once = 3  # the third write, its sync, and one more write
    answers = own.run(1)
    own.queue.at_once = OK
    answers += own.run(4)
    assert not {3, 4, 5, 6} & set(seqs(answers))
    assert {7, 8} <= set(seqs(answers))
    data = target.read_bytes()
    assert any(data[3 * 4096 : 4 * 4096])
    assert not any(data[4 * 4096 : 6 * 4096])
    own.chain.close()


def test_a_write_cut_short_is_a_failure(target: Path) -> None:
    own = make(target, fail=0, result=512)
    failed = [answer for answer in own.run(2) if answer.kind == FAILED]
    assert failed[0].note is not None
    assert failed[0].note["error"] == "ENOSPC"
    own.chain.close()


def test_a_batch_in_pieces_of_which_one_failed_is_not_acknowledged(target: Path) -> None:
    own = make(target, fail=0, go_on=True, depth=200, block_size=512)
    own.chain._todo.clear()
    own.chain.plan(1, [Batch(list(range(200))), Batch([201]), Batch([202])])
    answers = own.run(8)
    assert own.queue.names.count("write") > 200
    assert seqs(answers, FAILED) == list(range(1, 201))
    assert 202 in seqs(answers)
    own.chain.close()


def test_nothing_more_begins_when_it_hangs_up(target: Path) -> None:
    own = make(target)
    acked = seqs(own.run(2))
    own.queue.at_once = 0
    own.run(1)
    before = target.read_bytes()
    own.chain.hang_up()
    own.queue.at_once = OK
    assert not own.chain.ended
    assert own.run(1) == []
    assert own.chain.ended
    assert target.read_bytes() == before
    assert len(acked) == 6
    own.chain.close()


def test_reading_back_finds_what_the_disk_did_not_keep(target: Path) -> None:
    own = make(target, read_back=2)
    seen: list[Answer] = []
    for number in range(8):
        own.chain.feed(10_000, number)
        seen += own.chain.collect(number)
        target.write_bytes(bytes(1 << 20))  # in place: the descriptors stay good
    told = [answer.note for answer in seen if answer.kind == TOLD]
    assert told
    assert {note["class"] for note in told if note} == {"lost"}
    own.chain.close()


def test_reading_back_a_disk_that_keeps_all_finds_nothing(target: Path) -> None:
    own = make(target, read_back=3)
    assert {answer.kind for answer in own.run(50)} == {ACKED}
    if own.chain._handle.reads_direct:
        assert len(own.reads.names) > 10
    own.chain.close()


def test_a_block_is_never_written_while_it_is_read_back(target: Path) -> None:
    """Every write goes to one of two blocks, so one of them is always wanted again."""
    own = make(target, read_back=1)
    own.chain._todo.clear()
    own.chain.plan(1, [Batch([n % 2]) for n in range(4000)])
    own.queue.at_once = 40
    own.reads.at_once = 0
    read = 0
    for number in range(200):
        own.chain.feed(10_000, number)
        list(own.chain.collect(number))
        if own.reads.pending:
            wanted = own.chain._wanted
            assert wanted is not None
            assert not any(wanted.block in piece.blocks for piece, _ in own.chain._pushed)
            if number % 3 == 0:
                own.reads.at_once = 1
                read += 1
        else:
            own.reads.at_once = 0
    assert read > 10 or not own.chain._handle.reads_direct
    own.chain.close()


def test_as_much_is_queued_as_the_disk_is_quick(target: Path) -> None:
    own = make(target)
    most = own.chain.slots.count
    own.run(10, took_us=2000)
    own.queue.at_once = 0
    own.run(1)
    assert own.queue.pending == 2 * most
    own.queue.at_once = 2  # a write and its sync in a tenth of a second
    own.run(300, took_us=100_000)
    assert own.queue.pending == 2  # the next; the one before it has just ended
    own.chain.close()


def test_a_queue_that_ran_empty_grows_however_old_its_blocks(target: Path) -> None:
    own = make(target)
    own.run(10, took_us=100_000)
    own.queue.at_once = 0
    own.run(1)
    assert own.queue.pending == 2 * own.chain.slots.count
    own.chain.close()


@pytest.mark.parametrize(
    "changes", [{"workload": "innodb"}, {"kind": "folder"}, {"sync": "sync_file_range"}]
)
def test_what_a_chain_cannot_do_is_left_to_workers(changes: dict[str, Any]) -> None:
    assert can_chain(make_plan())
    assert not can_chain(make_plan(**changes))


def test_with_another_c_library_there_are_workers(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aio, "_library", None)
    monkeypatch.setattr(os, "confstr", lambda _name: None)
    assert not aio.works()
    write(target, make_plan(target=str(target), kind="file"))


@pytest.mark.parametrize("sync", ["fsync", "fdatasync", "dsync", "none"])
@pytest.mark.parametrize("direct", [False, True])
def test_the_c_library_does_what_it_acknowledges(target: Path, sync: str, direct: bool) -> None:
    write(
        target,
        make_plan(
            target=str(target), kind="file", sync=sync, direct=direct, threads=3, depth=2,
            workload="append",
        ),
    )  # fmt: skip


def write(target: Path, plan: Plan) -> None:
    """Write for a moment; every block's newest acknowledged write, or a later one, is there."""
    line = MemoryLine(RUN, LiarDisk(0))
    newest: dict[int, int] = {}
    done = line.done

    def hear(pairs: list[int]) -> None:
        for seq in pairs[::2]:
            newest[blocks[seq]] = max(seq, newest.get(blocks[seq], 0))
        done(pairs)

    blocks: dict[int, int] = {}
    intend = line.intend

    def announce(chosen: list[int]) -> int:
        first = intend(chosen)
        blocks.update(enumerate(chosen, first))
        return first

    line.done, line.intend = hear, announce  # type: ignore[method-assign]
    writer = Writer(plan, line, lambda _number: FileHandle(target, plan), read_back=10)
    writer.run(lambda: writer.stop() if writer.progress.acked > 200 else None)
    assert writer.progress.errors == []
    assert writer.progress.findings == []
    assert len(newest) > 100
    data = target.read_bytes()
    for block, seq in newest.items():
        piece = data[block * plan.block_size : (block + 1) * plan.block_size]
        assert judge_block(Stamper(RUN, plan.block_size), block, piece, seq, 0, None) is None


def test_the_batches_of_a_plan_fit_any_chain(target: Path) -> None:
    plan = make_plan(target=str(target), kind="file", depth=200, filled=True)
    own = make(target, depth=200, filled=True)
    own.chain._todo.clear()
    own.chain.plan(1, list(islice(batches(plan, 0, 1), 5)))
    assert seqs(own.run(40)) == list(range(1, 256 + 4 * 200 + 1))
    own.chain.close()

"""What a chain acknowledges, with a ring whose failures are ours to choose."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import pytest

from disk_checker import chain as chain_module
from disk_checker.answers import ACKED, FAILED, TOLD, Answer
from disk_checker.chain import Chain, make_rings
from disk_checker.classify import judge_block
from disk_checker.plan import Plan
from disk_checker.ring import Ring
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


class OwnRing:
    """Does what the kernel does, when the test says so.

    ``fail`` is the operation that fails with ``result``, counted from the first; what is linked
    behind it is cancelled.
    """

    descriptor = -1

    def __init__(self, fail: int = OK, result: int = -errno.EIO) -> None:
        self.fail, self.result = fail, result
        self.submitted: list[list[str]] = []
        self._pushed: list[tuple[str, int, Callable[[], int]]] = []
        self._ended: list[tuple[int, int]] = []

    def write(self, file: int, offset: int, address: int, size: int, user: int) -> None:
        data = ctypes.string_at(address, size)
        self._pushed.append(("write", user, lambda: os.pwrite(file, data, offset)))

    def read(self, file: int, offset: int, address: int, size: int, user: int) -> None:
        memory = (ctypes.c_char * size).from_address(address)
        self._pushed.append(("read", user, lambda: os.preadv(file, [memory], offset)))

    def sync(self, file: int, user: int, *, data_only: bool = False) -> None:
        self._pushed.append(("fdatasync" if data_only else "fsync", user, lambda: 0))

    @property
    def pushed(self) -> int:
        return len(self._pushed)

    def submit(self) -> None:
        broken = False
        for _, user, act in self._pushed:
            result = -errno.ECANCELED if broken else self.result if user == self.fail else act()
            broken = broken or user == self.fail
            self._ended.append((user, result))
        self.submitted.append([name for name, _, _ in self._pushed])
        self._pushed = []

    def results(self) -> tuple[list[int], list[int]]:
        ended, self._ended = self._ended, []
        return [user for user, _ in ended], [result for _, result in ended]

    def shuffle(self) -> None:
        self._ended.reverse()

    def close(self) -> None: ...


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.write_bytes(bytes(1 << 20))
    return path


def make(target: Path, ring: OwnRing, **options: Any) -> Chain:
    names = {name: options.pop(name) for name in ("read_back", "go_on") if name in options}
    plan = make_plan(target=str(target), kind="file", **options)
    stamper = Stamper(RUN, plan.block_size)
    handle = FileHandle(target, plan)
    chain = Chain(cast("Ring", ring), plan, stamper, handle, **names)
    chain.plan(1, [Batch([n % plan.blocks]) for n in range(1000)])
    return chain


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
    ring = OwnRing()
    chain = make(target, ring)
    acked = seqs(list(drive(chain, 4)))
    assert acked == list(range(1, len(acked) + 1))
    assert len(acked) > 6
    assert ring.submitted[2] == ["write", "fsync"] * (len(ring.submitted[2]) // 2)
    data = target.read_bytes()
    for seq in acked:
        block = data[(seq - 1) * 4096 : seq * 4096]
        assert judge_block(Stamper(RUN, 4096), seq - 1, block, seq, 0, None) is None
    chain.close()


@pytest.mark.parametrize(("sync", "ends"), [("fdatasync", ["fdatasync"]), ("dsync", [])])
def test_a_batch_is_its_writes_and_then_its_way_of_syncing(
    target: Path, sync: str, ends: list[str]
) -> None:
    ring = OwnRing()
    chain = make(target, ring, sync=sync, depth=3)
    chain._todo.clear()
    chain.plan(1, [Batch([4, 5, 6])])
    assert seqs(list(drive(chain, 2))) == [1, 2, 3]
    assert ring.submitted == [["write"] * 3 + ends]
    chain.close()


@pytest.mark.parametrize("go_on", [False, True])
@pytest.mark.parametrize("fail", [4, 5])
def test_what_failed_and_what_was_never_begun_is_not_acknowledged(
    target: Path, fail: int, go_on: bool
) -> None:
    """The chains have 1, 2 and 4 writes: 4 is the third write, 5 its sync."""
    chain = make(target, OwnRing(fail), go_on=go_on)
    answers = list(drive(chain, 6))
    failed = [answer for answer in answers if answer.kind == FAILED]
    assert [answer.seq for answer in failed] == [3]
    note = failed[0].note
    assert note is not None
    assert note["error"] == "EIO"
    assert note["operation"] == ("write" if fail == 4 else "fsync")
    assert note.get("second_sync") == (None if fail == 4 else "ok")
    acked = seqs(answers)
    assert acked[:2] == [1, 2]
    assert 3 not in acked
    assert (len(acked) > 2) is go_on
    assert chain.ended is not go_on
    chain.close()


def test_the_rest_of_a_broken_chain_was_never_begun(target: Path) -> None:
    ring = OwnRing(fail=7)
    chain = make(target, ring, go_on=True)
    acked = seqs(list(drive(chain, 6)))
    # The chain of the writes 4 to 7 breaks at the first one's sync.
    assert not set(acked) & {4, 5, 6, 7}
    assert {1, 2, 3, 8, 9} <= set(acked)
    data = target.read_bytes()
    assert any(data[3 * 4096 : 4 * 4096])
    assert not any(data[4 * 4096 : 7 * 4096])
    chain.close()


def test_a_write_cut_short_is_a_failure(target: Path) -> None:
    chain = make(target, OwnRing(fail=0, result=512))
    failed = [answer for answer in drive(chain, 2) if answer.kind == FAILED]
    assert failed[0].note is not None
    assert failed[0].note["error"] == "ENOSPC"
    chain.close()


def test_a_batch_in_pieces_of_which_one_was_never_begun_is_not_acknowledged(target: Path) -> None:
    ring = OwnRing()
    chain = make(target, ring, go_on=True, depth=2)
    chain._todo.clear()
    chain.plan(1, [Batch([1]), Batch([2, 3, 4])])
    chain.feed(10, 0)  # write 1 and its sync, and the first piece of the second batch
    assert ring.submitted == [["write", "fsync", "write"]]
    ring._ended[1:] = [(1, -errno.EIO), (2, -errno.ECANCELED)]
    answers = list(chain.collect(1)) + list(drive(chain, 4))
    assert seqs(answers) == []
    assert seqs(answers, FAILED) == [1]
    chain.close()


def test_reading_back_finds_what_the_disk_did_not_keep(target: Path) -> None:
    ring = OwnRing()
    chain = make(target, ring, read_back=2)
    seen: list[Answer] = []
    for number in range(8):
        chain.feed(10_000, number)
        seen += chain.collect(number)
        target.write_bytes(bytes(1 << 20))  # in place: the descriptors stay good
    told = [answer.note for answer in seen if answer.kind == TOLD]
    assert told
    assert {note["class"] for note in told if note} == {"lost"}
    assert all("read" not in names[1:] for names in ring.submitted)
    chain.close()


def test_reading_back_a_disk_that_keeps_all_finds_nothing(target: Path) -> None:
    ring = OwnRing()
    chain = make(target, ring, read_back=3)
    assert {answer.kind for answer in drive(chain, 50)} == {ACKED}
    assert sum(names[0] == "read" for names in ring.submitted) > 10
    chain.close()


def test_a_chain_is_as_long_as_the_disk_is_quick(target: Path) -> None:
    ring = OwnRing()
    chain = make(target, ring)
    list(drive(chain, 10, took_us=2000))
    quick = len(ring.submitted[-1])
    list(drive(chain, 10, took_us=100_000))
    slow = len(ring.submitted[-1])
    assert quick == 2 * 64
    assert slow < quick // 4
    chain.close()


def test_an_operation_that_overtakes_another_is_no_chain(target: Path) -> None:
    ring = OwnRing()
    chain = make(target, ring)
    chain.feed(10, 0)
    ring.shuffle()
    with pytest.raises(RuntimeError, match="ended before"):
        list(chain.collect(1))
    chain.close()


@pytest.mark.parametrize(
    "changes", [{"workload": "innodb"}, {"kind": "folder"}, {"sync": "sync_file_range"}]
)
def test_what_a_chain_cannot_do_is_left_to_workers(changes: dict[str, Any]) -> None:
    assert make_rings(make_plan(**changes)) == []


def test_where_there_is_no_ring_there_are_workers(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> Ring:
        raise OSError(errno.EPERM, "forbidden here")

    monkeypatch.setattr(chain_module, "Ring", none)
    assert make_rings(make_plan()) == []
    write(target, make_plan(target=str(target), kind="file"))


@pytest.mark.parametrize("sync", ["fsync", "fdatasync", "dsync", "none"])
@pytest.mark.parametrize("direct", [False, True])
def test_the_kernel_does_what_it_acknowledges(target: Path, sync: str, direct: bool) -> None:
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
    ring = OwnRing()
    chain = make(target, ring, depth=200, filled=True)
    chain._todo.clear()
    chain.plan(1, list(islice(batches(plan, 0, 1), 5)))
    acked = seqs(list(drive(chain, 40)))
    assert acked == list(range(1, 256 + 4 * 200 + 1))
    assert max(map(len, ring.submitted)) <= 65
    chain.close()

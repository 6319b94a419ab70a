"""A whole run in memory: the real writer and workers, ledger and judgement, over a liar's sectors.

No kernel, no sockets: a cycle takes milliseconds, so that a hundred of each kind fit
into the tests.
"""

from __future__ import annotations

import mmap
from array import array
from pathlib import Path
from typing import Any

from disk_checker import protocol
from disk_checker.errors import ListenerGone
from disk_checker.ledger import Ledger
from disk_checker.plan import Plan
from disk_checker.protocol import Kind
from disk_checker.result import Result
from disk_checker.verify import Judge
from disk_checker.worker import Threaded
from disk_checker.writer import Writer
from tests.support.liar_disk import LiarDisk


def make_plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "machine": "m",
        "hostname": "h",
        "boot": "b",
        "target": "/dev/liar",
        "kind": "device",
        "size": 1 << 20,
        "block_size": 4096,
    }
    return Plan(**(values | changes))


class MemoryHandle:
    def __init__(self, disk: LiarDisk, block_size: int) -> None:
        self._disk, self._size = disk, block_size

    def write(self, block: int, buffer: memoryview) -> None:
        self._disk.write(block * self._size, bytes(buffer))

    def sync(self) -> None:
        self._disk.flush()

    def read(self, block: int) -> bytes:
        return self._disk.read(block * self._size, self._size)

    def close(self) -> None: ...


class MemoryLine:
    """A listener that lives as long as the disk has power.

    It still hears of what was acknowledged before: the record that claims the most.
    """

    def __init__(self, run: int, disk: LiarDisk) -> None:
        self.run = run
        self.granted = 0
        self.fault: Exception | None = None
        self.frames: list[bytes] = []
        self._disk = disk

    def intend(self, blocks: list[int]) -> int:
        first = self.granted + 1
        self.granted += len(blocks)
        self.frames.append(protocol.encode_intents(first, blocks))
        return first

    def pump(self) -> None:
        if self._disk.dead and self.fault is None:
            self.fault = ListenerGone("the power went")

    def fileno(self) -> int:
        return -1

    def done(self, pairs: list[int]) -> None:
        self.frames.append(protocol.encode_done(pairs))

    def note(self, value: dict[str, Any]) -> None:
        if not self._disk.dead:
            self.frames.append(protocol.encode_json(Kind.NOTE, value))


def cycle(
    folder: Path,
    disk: LiarDisk,
    plan: Plan,
    *,
    read_back: int = 0,
    go_on: bool = False,
    ledger: Ledger | None = None,
) -> Result:
    """Write until the disk's power goes (`disk.off_after`), verify what is stable."""
    own = ledger is None
    ledger = ledger or Ledger(folder)
    try:
        run, journal = ledger.open_run(plan)
        line = MemoryLine(run, disk)
        writer = Writer(
            plan,
            line,
            lambda _number: MemoryHandle(disk, plan.block_size),
            read_back=read_back,
            go_on=go_on,
            seed=run,
            launch=Threaded,
        )
        writer.run()
        journal.append(b"".join(line.frames))
        journal.close()
        fold = ledger.fold(run)
    finally:
        if own:
            ledger.close()
    result = Result(run, plan, fold.totals)
    with mmap.mmap(-1, plan.size) as image:
        image[:] = bytes(disk.stable[: plan.size])
        states = array("Q", fold.states(0, plan.blocks))
        Judge(result).chunk(0, states, image, plan.size)
    result.bytes_read = plan.size
    fold.close()
    return result

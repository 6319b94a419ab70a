"""What is written next: blocks built ahead, in memory that whoever writes them reads from.

The writer chooses and announces batches; as soon as the listener has granted them, their
blocks are built into *slots*, while the disk is busy with earlier ones.  Slots are used in
turn; one is free again when the piece it was in is written.  A batch (blocks, then one sync)
that is larger than the slots goes in pieces.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from mmap import PAGESIZE, mmap
from typing import NamedTuple

from disk_checker.stamp import Stamper
from disk_checker.workloads import Batch

_MOST_SLOTS = 128
_MEMORY = 64 << 20


class Piece(NamedTuple):
    """Blocks that are in slots now, from ``slot`` on, and what they are of a batch."""

    first: int
    """seq of the first; the others follow it"""
    blocks: list[int]
    slot: int
    last: bool
    """the batch ends with it"""
    group: bool
    """its sync is one that writers share"""


class Slots:
    """The memory.

    :param lanes: how many lanes there are: they share what memory may be used.
    """

    def __init__(self, block_size: int, lanes: int) -> None:
        # Of whole pages, as O_DIRECT may want them.
        self.stride = -(-block_size // PAGESIZE) * PAGESIZE
        self.count = max(2, min(_MOST_SLOTS, _MEMORY // lanes // self.stride))
        self.memory = memoryview(mmap(-1, self.count * self.stride))
        self.blocks = [
            self.memory[at : at + block_size] for at in range(0, len(self.memory), self.stride)
        ]
        self.words = [block.cast("Q") for block in self.blocks]


class Supply:
    """Announced batches of one lane, and their blocks as far as there are slots.

    ``slots`` is the memory, ``free`` how many of them hold nothing that is still needed.
    """

    def __init__(self, stamper: Stamper, lanes: int) -> None:
        self.slots = Slots(stamper.block_size, lanes)
        self.free = self.slots.count
        self._stamper = stamper
        self._todo: deque[tuple[int, Batch]] = deque()
        self._planned = 0
        self._done_of_first = 0
        self._next = 0

    @property
    def planned(self) -> int:
        """Blocks that were announced and are not built yet."""
        return self._planned

    def plan(self, first: int, batches: Sequence[Batch]) -> None:
        """Add announced batches; their writes are ``first``, ``first`` + 1 and so on."""
        for batch in batches:
            self._todo.append((first, batch))
            first += len(batch.blocks)
            self._planned += len(batch.blocks)

    def build(self, granted: int, now_us: int, room: int, avoid: int = -1) -> Iterator[Piece]:
        """Build what was granted.

        :param granted: the highest write whose intent is on the listener's disk.
        :param now_us: what the blocks say as the time of their write.
        :param room: slots that may be used, of those that are free.
        :param avoid: a block that must not be written now: stop before it.
        """
        slots = self.slots
        most = max(1, slots.count // 2)
        while self._todo and room > 0:
            first, batch = self._todo[0]
            at = self._done_of_first
            count = min(len(batch.blocks) - at, most, room)
            first += at
            if first + count - 1 > granted:
                break
            blocks = batch.blocks[at : at + count]
            if avoid in blocks:
                break
            begin = index = self._next
            for seq, block in enumerate(blocks, first):
                self._stamper.write_into(
                    slots.blocks[index], slots.words[index], block, seq, now_us
                )
                index = (index + 1) % slots.count
            self._next = index
            last = at + count == len(batch.blocks)
            if last:
                self._todo.popleft()
                self._done_of_first = 0
            else:
                self._done_of_first += count
            self._planned -= count
            self.free -= count
            room -= count
            yield Piece(first, blocks, begin, last, batch.group)

"""A lane: how the writer's process hands finished blocks to one of its workers.

The worker should do nothing between two syncs but write.  So the blocks are built here,
ahead of it, in slots of memory that both share, while the disk is busy with earlier ones.
Two pipes say which:

    commands   first seq, blocks in this piece | flags, block, block ...
    answers    kind | how many, seq, time in µs [, the bytes of a note]

A batch (blocks, then one sync) that is larger than the slots goes in pieces.  Slots are
used in turn, so neither side names them; a slot is free again when the piece it was in is
answered.  Pipes and not flags in the shared memory, since a system call also orders the
memory between two processors, on every kind of them.

How many blocks may be ahead adapts: it doubles when the worker was kept waiting, and
shrinks when blocks grow old in their slots, since each says the time it was built as the
time of its write.
"""

from __future__ import annotations

import contextlib
import json
import os
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from mmap import PAGESIZE, mmap
from typing import Any

from disk_checker.stamp import Stamper
from disk_checker.workloads import Batch

LAST, GROUP = 1 << 32, 1 << 33
"""Flags of a piece: it ends its batch; its sync is one that writers share."""

ACKED, TAKEN, FAILED, TOLD = range(4)
"""Kinds of answers: a batch is synced; a piece is written; a batch failed; something to note."""

_COUNT = (1 << 32) - 1
_KIND_SHIFT = 48
_MOST_SLOTS = 128
_MEMORY = 64 << 20
_OLD_US = 50_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker says: ``count`` writes from ``seq`` on, at ``time_us``; or a note."""

    kind: int
    count: int
    seq: int
    time_us: int
    note: dict[str, Any] | None = None


class Slots:
    """The shared memory of a lane.

    :param lanes: how many lanes there are: they share what memory may be used.
    """

    def __init__(self, block_size: int, lanes: int) -> None:
        # Of whole pages, as O_DIRECT may want them.
        stride = -(-block_size // PAGESIZE) * PAGESIZE
        self.count = max(2, min(_MOST_SLOTS, _MEMORY // lanes // stride))
        whole = memoryview(mmap(-1, self.count * stride))
        self.blocks = [whole[at : at + block_size] for at in range(0, len(whole), stride)]
        self.words = [block.cast("Q") for block in self.blocks]


class Lane:
    """The writer's end.

    ``answers`` is the descriptor to wait on.  ``commands`` and ``answers`` are made for both
    ends: the worker takes the other two, see :class:`disk_checker.worker.Worker`.
    """

    def __init__(self, stamper: Stamper, lanes: int) -> None:
        self.slots = Slots(stamper.block_size, lanes)
        self.worker_commands, self.commands = os.pipe()
        self.answers, self.worker_answers = os.pipe()
        self.ended = False
        self._stamper = stamper
        self._todo: deque[tuple[int, Batch]] = deque()
        self._planned = 0
        self._done_of_first = 0
        self._free = self.slots.count
        self._next = 0
        self._ahead = 2
        self._pieces: deque[tuple[int, int]] = deque()
        self._rest = b""

    @property
    def planned(self) -> int:
        """Blocks that were announced and are not handed to the worker yet."""
        return self._planned

    def plan(self, first: int, batches: Sequence[Batch]) -> None:
        """Add announced batches; their writes are ``first``, ``first`` + 1 and so on."""
        for batch in batches:
            self._todo.append((first, batch))
            first += len(batch.blocks)
            self._planned += len(batch.blocks)

    def feed(self, granted: int, now_us: int) -> None:
        """Build and hand over what was granted, as far as there are slots.

        :param granted: the highest write whose intent is on the listener's disk.
        """
        out = array("Q")
        slots = self.slots
        room = self._free - (slots.count - min(self._ahead, slots.count))
        most = max(1, slots.count // 2)
        while self._todo and room > 0:
            first, batch = self._todo[0]
            at = self._done_of_first
            count = min(len(batch.blocks) - at, most, room)
            first += at
            if first + count - 1 > granted:
                break
            piece = batch.blocks[at : at + count]
            for seq, block in enumerate(piece, first):
                index = self._next
                self._stamper.write_into(
                    slots.blocks[index], slots.words[index], block, seq, now_us
                )
                self._next = (index + 1) % slots.count
            last = at + count == len(batch.blocks)
            out.extend((first, count | (LAST if last else 0) | (GROUP if batch.group else 0)))
            out.extend(piece)
            if last:
                self._todo.popleft()
                self._done_of_first = 0
            else:
                self._done_of_first += count
            self._pieces.append((count, now_us))
            self._planned -= count
            self._free -= count
            room -= count
        if out:
            # Never more than the pipe holds: 128 slots, each with three numbers at most.
            with contextlib.suppress(BrokenPipeError):  # it ended, and its answers say why
                os.write(self.commands, out.tobytes())

    def collect(self, now_us: int) -> Iterator[Answer]:
        """What the worker answered; sets ``ended`` when it is gone."""
        data = os.read(self.answers, 1 << 16)
        if not data:
            self.ended = True
            return
        data = self._rest + data
        whole, old = len(data) & ~7, False
        words = memoryview(data)[:whole].cast("Q")
        at = 0
        while at + 3 <= len(words):
            head, seq, time_us = words[at], words[at + 1], words[at + 2]
            kind, count = head >> _KIND_SHIFT, head & _COUNT
            note: dict[str, Any] | None = None
            end = at + 3
            if kind in (FAILED, TOLD):
                end += -(-time_us // 8)
                if end > len(words):
                    break
                note = json.loads(bytes(words[at + 3 : end])[:time_us])
            at = end
            if kind != TOLD:
                freed, built_us = self._pieces.popleft()
                self._free += freed
                old = now_us - built_us > _OLD_US
            yield Answer(kind, count, seq, time_us, note)
        self._rest = data[at * 8 :]
        # Once for all that came: a stall of the disk makes all that waited old.
        if old and self._ahead > 2:
            self._ahead -= 1
        if not self._pieces:
            self._ahead = min(self.slots.count, self._ahead * 2)

    def hang_up(self) -> None:
        """No more commands: the worker ends when it has done those it has."""
        if self.commands >= 0:
            os.close(self.commands)
            self.commands = -1

    def close(self) -> None:
        self.hang_up()
        os.close(self.answers)


def encode_answer(kind: int, count: int, seq: int, time_us: int) -> array[int]:
    """An answer without a note, as words."""
    return array("Q", (kind << _KIND_SHIFT | count, seq, time_us))


def encode_note(kind: int, count: int, seq: int, note: dict[str, Any]) -> bytes:
    """An answer with a note."""
    text = json.dumps(note).encode()
    padded = text + bytes(-len(text) % 8)
    return encode_answer(kind, count, seq, len(text)).tobytes() + padded


def head_of(kind: int, count: int) -> int:
    """The first word of an answer."""
    return kind << _KIND_SHIFT | count


def count_of(head: int) -> int:
    """How many blocks a piece has."""
    return head & _COUNT

"""A lane: how the writer's process hands finished blocks to one of its workers.

The worker should do nothing between two syncs but write.  So the blocks are built here,
ahead of it (:mod:`disk_checker.slots`), in memory that both share.  Two pipes say which:

    commands   first seq, blocks in this piece | flags, block, block ...
    answers    kind | how many, seq, time in µs [, the bytes of a note]

Pipes and not flags in the shared memory, since a system call also orders the memory between
two processors, on every kind of them.

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
from collections.abc import Iterator
from typing import Any

from disk_checker.answers import FAILED, TOLD, Answer
from disk_checker.slots import Supply
from disk_checker.stamp import Stamper

LAST, GROUP = 1 << 32, 1 << 33
"""Flags of a piece: it ends its batch; its sync is one that writers share."""

_COUNT = (1 << 32) - 1
_KIND_SHIFT = 48
_OLD_US = 50_000


class Lane(Supply):
    """The writer's end.

    ``answers`` is the descriptor to wait on.  ``commands`` and ``answers`` are made for both
    ends: the worker takes the other two, see :class:`disk_checker.worker.Worker`.
    ``ended`` is set when the worker is gone.
    """

    def __init__(self, stamper: Stamper, lanes: int) -> None:
        super().__init__(stamper, lanes)
        self.worker_commands, self.commands = os.pipe()
        self.answers, self.worker_answers = os.pipe()
        self.ended = False
        self._ahead = 2
        self._pieces: deque[tuple[int, int]] = deque()
        self._rest = b""

    def feed(self, granted: int, now_us: int) -> None:
        """Build and hand over what was granted, as far as there are slots.

        :param granted: the highest write whose intent is on the listener's disk.
        """
        out = array("Q")
        count = self.slots.count
        room = self.free - (count - min(self._ahead, count))
        for piece in self.build(granted, now_us, room):
            how = (LAST if piece.last else 0) | (GROUP if piece.group else 0)
            out.extend((piece.first, len(piece.blocks) | how))
            out.extend(piece.blocks)
            self._pieces.append((len(piece.blocks), now_us))
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
                self.free += freed
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
